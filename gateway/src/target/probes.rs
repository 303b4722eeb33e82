//! Looks at a backend's size beside its lanes: one at a time to each server, however many exports it has, and on one
//! connection that stays in its negotiation where the server bears that.
//!
//! Owns those connections, and how long a server that closes them, or says nothing of use there, is left alone with them.
//! Never decides when to look.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use nbd_gateway_net::Negotiation;
use tokio::sync::Mutex;

use crate::lane::{DialError, Dialer};

/// The servers whose sizes are polled.
#[derive(Debug, Default)]
pub(super) struct Probes {
    servers: DashMap<String, Weak<Server>>,
}

/// One server; its connection closes with the server's last export.
#[derive(Debug, Default)]
pub(super) struct Server {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    connection: Option<Negotiation>,
    /// How many polls it has answered.
    asked: u32,
    /// Looks that go without such a connection.
    rest: u32,
    /// How many there were the last time.
    rested: u32,
}

/// A connection answers so many polls, then a full handshake replaces it. nbdkit closes one
/// after 32 options; a server that made its mind up when it was connected to is found out by then.
const ASKED: u32 = 15;
/// The most looks in a row without such a connection, after it did not work.
const REST: u32 = 64;
/// Servers in the map before unused ones are removed.
const MANY: usize = 256;

impl Probes {
    /// The server that goes by this name.
    pub(super) fn server(&self, name: String) -> Arc<Server> {
        let server = {
            let mut entry = self.servers.entry(name).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let fresh = Arc::default();
                *entry = Arc::downgrade(&fresh);
                fresh
            })
        };
        // A template's names can lead to any number of sockets: unused servers are removed.
        if self.servers.len() > MANY {
            self.servers.retain(|_, server| server.strong_count() > 0);
        }
        server
    }
}

impl Server {
    /// The export's size in bytes. `keeps` says whether the server can have one more connection for as long as it likes.
    /// Cancel-safe: yes, a connection that waits for an answer is closed.
    pub(super) async fn size(&self, dialer: &Dialer, keeps: bool) -> Result<u64, DialError> {
        let mut kept = self.kept.lock().await;
        if let Some(mut connection) = kept.connection.take() {
            match dialer.ask(&mut connection).await {
                Ok(told) if told.size > 0 => {
                    kept.asked = kept.asked.saturating_add(1);
                    if kept.asked < ASKED {
                        kept.connection = Some(connection);
                    } else {
                        (kept.asked, kept.rest, kept.rested) = (0, 1, 0);
                        connection.leave().await;
                    }
                    return Ok(told.size);
                }
                Ok(_) => {
                    connection.leave().await;
                    kept.give_up();
                }
                Err(error) if error.is_late() => return Err(error),
                Err(_) => kept.give_up(),
            }
        }
        if kept.rest > 0 || !keeps {
            kept.rest = kept.rest.saturating_sub(1);
            return enter(dialer).await;
        }
        match dialer.watch().await {
            Ok((connection, told)) if told.size > 0 => {
                (kept.connection, kept.asked) = (Some(connection), 1);
                Ok(told.size)
            }
            // Some servers announce size 0 for every export until a client enters it.
            Ok((connection, _)) => {
                connection.leave().await;
                kept.give_up();
                enter(dialer).await
            }
            Err(error) if error.is_disagreement() => {
                kept.give_up();
                enter(dialer).await
            }
            Err(error) => Err(error),
        }
    }
}

impl Kept {
    fn give_up(&mut self) {
        self.rested = self.rested.saturating_mul(2).clamp(1, REST);
        self.rest = self.rested;
    }
}

/// The size from a full handshake, in bytes.
pub(super) async fn enter(dialer: &Dialer) -> Result<u64, DialError> {
    let connected = dialer.dial().await?;
    let size = connected.negotiated.size;
    connected.goodbye().await;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use bytes::{Buf, BufMut, BytesMut};
    use nbd_gateway_net::Address;
    use nbd_gateway_proto::{NBD_MAGIC, OPT_MAGIC, Opt, Rep};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A server that answers NBD_OPT_INFO so many times on a connection, and NBD_OPT_GO always.
    struct Scripted {
        path: PathBuf,
        connections: Arc<AtomicU32>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Scripted {
        fn start(name: &str, infos: u32, info_size: u64) -> Self {
            let path = std::env::temp_dir().join(format!("nbd-gateway-probes-{name}-{}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let connections = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&connections);
            let task = tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream, infos, info_size));
                }
            });
            Self { path, connections, task }
        }

        fn dialer(&self) -> Dialer {
            Dialer {
                address: Address::Unix(self.path.clone()),
                export: "x".to_owned(),
                tls: None,
                limit: Duration::from_secs(5),
                plain: true,
            }
        }

        fn connections(&self) -> u32 {
            self.connections.load(Ordering::Relaxed)
        }
    }

    impl Drop for Scripted {
        fn drop(&mut self) {
            self.task.abort();
            let _ = std::fs::remove_file(&self.path);
        }
    }

    async fn serve(mut stream: UnixStream, mut infos: u32, info_size: u64) -> Option<()> {
        let mut out = BytesMut::new();
        out.put_u64(NBD_MAGIC);
        out.put_u64(OPT_MAGIC);
        out.put_u16(3);
        stream.write_all(&out).await.ok()?;
        stream.read_u32().await.ok()?;
        loop {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.ok()?;
            let mut head = head.as_slice();
            head.advance(8);
            let (opt, length) = (Opt(head.get_u32()), head.get_u32());
            let mut body = vec![0; usize::try_from(length).ok()?];
            stream.read_exact(&mut body).await.ok()?;
            let size = match opt {
                Opt::INFO => {
                    infos = infos.checked_sub(1)?;
                    info_size
                }
                Opt::GO => 0x10_0000,
                _ => return None,
            };
            let mut out = BytesMut::new();
            let mut reply = |rep: Rep, body: &[u8]| {
                out.put_u64(0x3_e889_0455_65a9);
                out.put_u32(opt.0);
                out.put_u32(rep.0);
                out.put_u32(u32::try_from(body.len()).unwrap());
                out.put_slice(body);
            };
            let mut export = BytesMut::new();
            export.put_u16(0);
            export.put_u64(size);
            export.put_u16(1);
            reply(Rep::INFO, &export);
            reply(Rep::ACK, &[]);
            stream.write_all(&out).await.ok()?;
        }
    }

    #[tokio::test]
    async fn a_server_that_bears_it_is_looked_at_on_one_connection_and_now_and_then_by_entering() {
        let (scripted, server) = (Scripted::start("bears", u32::MAX, 0x10_0000), Server::default());
        for _ in 0..ASKED {
            assert_eq!(server.size(&scripted.dialer(), true).await.unwrap(), 0x10_0000);
        }
        assert_eq!(scripted.connections(), 1);
        for _ in 0..1 + ASKED {
            server.size(&scripted.dialer(), true).await.unwrap();
        }
        assert_eq!(scripted.connections(), 3, "one that entered, and one more that stayed");
        for _ in 0..4 {
            Server::default().size(&scripted.dialer(), false).await.unwrap();
        }
        assert_eq!(scripted.connections(), 7, "it can have no more for long");
    }

    #[tokio::test]
    async fn a_server_that_says_size_0_or_closes_is_entered_and_seldom_asked_so_again() {
        for (name, infos, size) in [("zero", u32::MAX, 0), ("closes", 1, 0x10_0000), ("refuses", 0, 0x10_0000)] {
            let (scripted, server) = (Scripted::start(name, infos, size), Server::default());
            for _ in 0..64 {
                assert_eq!(server.size(&scripted.dialer(), true).await.unwrap(), 0x10_0000, "{name}");
            }
            let beyond = scripted.connections() - 64;
            assert!(beyond <= 7, "{name}: {beyond} connections were in vain");
        }
    }

    #[tokio::test]
    async fn servers_that_nobody_looks_at_are_forgotten() {
        let probes = Probes::default();
        let held = probes.server("held".to_owned());
        for n in 0..4 * MANY {
            drop(probes.server(n.to_string()));
        }
        assert!(probes.servers.len() <= MANY + 1, "{}", probes.servers.len());
        assert!(Arc::ptr_eq(&held, &probes.server("held".to_owned())));
    }
}
