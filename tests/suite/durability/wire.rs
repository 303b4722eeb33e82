//! The network between the gateway and a server: a TCP port in front of the server's socket, whose connections can be cut
//! and held back. What the gateway had sent before a cut may still reach the server, late, and beside a new connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::trouble::Trouble;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Both ends see it.
    Both,
    /// The gateway sees it; the server sees it after it has received all that was sent.
    Gateway,
    /// The server sees it, and the gateway once the server has closed its end.
    Server,
}

/// One connection through it.
struct Pair {
    gateway: TcpStream,
    server: UnixStream,
    /// Nothing passes before.
    held_until: Mutex<Option<Instant>>,
}

impl Pair {
    /// Waits until bytes may pass.
    fn await_passage(&self) {
        while let Some(left) = self.held_until.lock().and_then(|until| until.checked_duration_since(Instant::now())) {
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn cut(&self, cut: Cut) {
        // Whoever has closed its end already is not hurt by this.
        let _ = match cut {
            Cut::Both => self.gateway.shutdown(Shutdown::Both).and(self.server.shutdown(Shutdown::Both)),
            Cut::Gateway => self.gateway.shutdown(Shutdown::Both),
            Cut::Server => self.server.shutdown(Shutdown::Write),
        };
    }
}

pub(super) struct Wire {
    address: SocketAddr,
    pairs: Arc<Mutex<Vec<Arc<Pair>>>>,
    closing: Arc<AtomicBool>,
}

impl Wire {
    /// To the server at `socket`, which need not be there yet: then connections are closed at once, never refused.
    pub(super) fn start(socket: &Path) -> Result<Self, Trouble> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (pairs, closing) = (Arc::<Mutex<Vec<Arc<Pair>>>>::default(), Arc::new(AtomicBool::new(false)));
        thread::spawn({
            let (socket, pairs, closing) = (socket.to_owned(), Arc::clone(&pairs), Arc::clone(&closing));
            move || accept(&listener, &socket, &pairs, &closing)
        });
        Ok(Self { address, pairs, closing })
    }

    pub(super) fn uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.address)
    }

    /// Holds back what is under way on the connections of now, both ways; new ones are not concerned.
    pub(super) fn hold(&self, time: Duration) {
        for pair in &*self.pairs.lock() {
            *pair.held_until.lock() = Some(Instant::now() + time);
        }
    }

    /// Cuts the connections of now; how many.
    pub(super) fn cut(&self, cut: Cut) -> usize {
        let pairs = core::mem::take(&mut *self.pairs.lock());
        pairs.iter().for_each(|pair| pair.cut(cut));
        pairs.len()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        self.cut(Cut::Both);
    }
}

fn accept(listener: &TcpListener, socket: &PathBuf, pairs: &Mutex<Vec<Arc<Pair>>>, closing: &AtomicBool) {
    for gateway in listener.incoming().map_while(Result::ok) {
        if closing.load(Ordering::Acquire) {
            return;
        }
        // The server is away, or its queue is full: the gateway sees its connection closed.
        let Ok(server) = UnixStream::connect(socket) else { continue };
        let _ = gateway.set_nodelay(true);
        let pair = Arc::new(Pair { gateway, server, held_until: Mutex::new(None) });
        pairs.lock().push(Arc::clone(&pair));
        let other = Arc::clone(&pair);
        thread::spawn(move || {
            pump(&other, &other.gateway, &other.server);
            let _ = other.server.shutdown(Shutdown::Write);
        });
        thread::spawn(move || {
            pump(&pair, &pair.server, &pair.gateway);
            let _ = pair.gateway.shutdown(Shutdown::Write);
        });
    }
}

/// Moves bytes until either end is closed.
fn pump(pair: &Pair, mut from: impl Read, mut to: impl Write) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        pair.await_passage();
        if to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}
