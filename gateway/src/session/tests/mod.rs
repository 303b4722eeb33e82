//! Whole sessions in front of memory disks, each over a socket pair.

mod ceiling;
mod closing;
mod hand_over;
mod kept;
mod reconnect;
mod suspended;

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::{Arrivals, Config};
use nbd_gateway_metrics::Metrics;
use nbd_gateway_net::{Pool, Stream};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Framing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::{ListenerConfig, SessionTable, serve};
use crate::accounting::cache::LedgerCache;
use crate::export::Registry;
use crate::limits::Places;
use crate::shards::Shards;

/// A gateway without listeners.
pub(crate) struct Scene {
    pub(crate) front: Arc<ListenerConfig>,
    places: Arc<Places>,
    pub(crate) drain: watch::Sender<bool>,
}

impl Scene {
    /// With one export, `e`: a memory disk. `keys` are more of its configuration.
    pub(crate) fn new(size: &str, tenant: &str, keys: &str) -> Self {
        Self::in_front_of(&format!("backend = \"memory:\"\nsize = \"{size}\""), tenant, keys)
    }

    /// The same, with another backend.
    fn in_front_of(backend: &str, tenant: &str, keys: &str) -> Self {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[tenant]]\nname = \"t\"\n{tenant}\n\
             [[export]]\nname = \"e\"\ntenant = \"t\"\n{backend}\n{keys}\n"
        );
        Self::of(&text)
    }

    /// With this configuration.
    pub(crate) fn of(text: &str) -> Self {
        Self::with(text, LedgerCache::in_memory().unwrap())
    }

    /// The same, with a ledger.
    pub(crate) fn with(text: &str, ledger: LedgerCache) -> Self {
        let config = Arc::new(Config::parse(text, std::path::Path::new("config.toml")).unwrap());
        let (pool, metrics) = (Arc::new(Pool::new(1)), Arc::new(Metrics::new("0").unwrap()));
        let notes = Arc::new(ledger);
        let table = Arc::<SessionTable>::default();
        let clients = Arc::<SessionTable>::clone(&table);
        let registry = Registry::new(config, Arc::clone(&pool), Shards::here(), metrics, notes, clients);
        let places = Places::new(1024, 1024, None);
        let (drain, draining) = watch::channel(false);
        let handshake = Duration::from_secs(10);
        let front = ListenerConfig {
            listener: "".into(),
            registry,
            table,
            pool,
            drain: draining,
            handshake,
            option_length: 65536,
            most: 1024,
            arrivals: Arrivals::default(),
            tls: None,
        };
        Self { front: Arc::new(front), places, drain }
    }

    /// Serves a connection to this end of it.
    fn serve(&self, ours: UnixStream) {
        let stream = Stream::Unix(ours);
        let handshake = self.places.begin(stream.identity()).unwrap();
        tokio::spawn(serve(Arc::clone(&self.front), stream, handshake));
    }

    /// The client's end of a new connection.
    pub(crate) fn connect(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.serve(ours);
        theirs
    }

    /// A client that knows nothing of resize, in transmission; with base:allocation, if its framing has contexts.
    pub(crate) async fn client(&self, framing: Framing) -> Client {
        let mut client = Client { stream: self.connect(), framing, size: 0 };
        client.take(18).await;
        client.send(&3u32.to_be_bytes()).await;
        let option = match framing {
            Framing::Simple => None,
            Framing::Structured => Some(8u32),
            Framing::Extended => Some(11),
        };
        if let Some(option) = option {
            client.send(&[b"IHAVEOPT", &option.to_be_bytes()[..], &[0; 4]].concat()).await;
            client.take(20).await;
            let name = b"base:allocation";
            let query = [&[0, 0, 0, 1][..], b"e", &[0, 0, 0, 1], &[0, 0, 0, 15], name].concat();
            let length = u32::try_from(query.len()).unwrap();
            client.send(&[b"IHAVEOPT", &10u32.to_be_bytes()[..], &length.to_be_bytes(), &query].concat()).await;
            client.take(20 + 4 + 15 + 20).await;
        }
        client.send(&[b"IHAVEOPT", &1u32.to_be_bytes()[..], &1u32.to_be_bytes(), b"e"].concat()).await;
        let told = client.take(10).await;
        client.size = u64::from_be_bytes(told[..8].try_into().unwrap());
        // It enters the table after the answer is sent.
        while self.front.table.is_empty() {
            tokio::task::yield_now().await;
        }
        client
    }
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) error: u32,
    pub(crate) data: Vec<Option<u8>>,
    pub(crate) holes: usize,
    pub(crate) extents: Vec<(u64, u64)>,
}

/// The client's end.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    framing: Framing,
    pub(crate) size: u64,
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// All that comes until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    pub(crate) async fn ask(&mut self, command: Cmd, cookie: u64, offset: u64, length: u64, payload: &[u8]) {
        let header = RequestHeader { flags: CmdFlags::NONE, command, cookie: Cookie(cookie), offset, length };
        let mut bytes = Vec::new();
        header.put(self.framing, &mut bytes);
        bytes.extend_from_slice(payload);
        self.send(&bytes).await;
    }

    /// A reply, of a request that is the only one: its error, a READ's bytes by their place in it, and the extents of its
    /// one context.
    pub(crate) async fn reply(&mut self, command: Cmd, offset: u64, length: u64) -> Reply {
        let mut reply = Reply { data: vec![None; usize::try_from(length).unwrap()], ..Reply::default() };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let place = |at: u64| usize::try_from(at - offset).unwrap();
        if self.framing == Framing::Simple {
            reply.error = self.simple().await.0;
            if command == Cmd::READ && reply.error == 0 {
                reply.data = self.take(place(offset + length)).await.into_iter().map(Some).collect();
            }
            return reply;
        }
        loop {
            let extended = self.framing == Framing::Extended;
            let head = self.take(if extended { 32 } else { 20 }).await;
            let (flags, kind) = (number(&head[4..6]), number(&head[6..8]));
            let body = self.take(usize::try_from(number(&head[if extended { 24 } else { 16 }..])).unwrap()).await;
            match kind {
                0 => {}
                1 => {
                    let at = place(number(&body[..8]));
                    reply.data[at..at + body.len() - 8].iter_mut().zip(&body[8..]).for_each(|(d, b)| *d = Some(*b));
                }
                2 => {
                    let at = place(number(&body[..8]));
                    reply.holes += 1;
                    reply.data[at..at + usize::try_from(number(&body[8..])).unwrap()].fill(Some(0));
                }
                5 => reply.extents = body[4..].chunks(8).map(|e| (number(&e[..4]), number(&e[4..]))).collect(),
                6 => reply.extents = body[8..].chunks(16).map(|e| (number(&e[..8]), number(&e[8..]))).collect(),
                _ => reply.error = u32::try_from(number(&body[..4])).unwrap(),
            }
            if flags & 1 != 0 {
                return reply;
            }
        }
    }

    /// A simple reply's error and cookie.
    pub(crate) async fn simple(&mut self) -> (u32, u64) {
        let reply = self.take(16).await;
        assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
        (u32::from_be_bytes(reply[4..8].try_into().unwrap()), u64::from_be_bytes(reply[8..].try_into().unwrap()))
    }
}
