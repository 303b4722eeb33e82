//! The agent's own connection to the export, on which it learns of sizes: made anew whenever it ends.
//!
//! Owns nothing but the latest size, and forgets even that when the connection ends: what was told before may not be so
//! any more.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config::NbdUri;
use nbd_gateway_policy::backoff::Backoff;
use tokio::sync::{Notify, watch};

use crate::ClientError;
use crate::parts::Part;
use crate::sizes::{Pace, SizeObserver, listen};

/// The least time between two sizes that a server tells by itself.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait before the first and before each later attempt to connect again.
const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);

/// What is known of the export's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// In which way sizes come; none while they don't.
    pub(super) part: Option<Part>,
    /// Why they don't.
    pub(super) deaf: Option<String>,
    /// The last that came, in bytes.
    pub(super) told: Option<u64>,
    /// Counts sizes, so that one that comes twice is seen twice.
    count: u64,
}

/// A connection that is kept.
pub(super) struct Listener {
    /// What is known.
    pub(super) heard: watch::Receiver<Heard>,
    again: Arc<Notify>,
}

impl Listener {
    /// Listens, asking every `poll` where the server does not tell by itself, until this is dropped.
    pub(super) fn start(uri: NbdUri, poll: Duration) -> Self {
        let (sender, heard) = watch::channel(Heard::default());
        let again = Arc::new(Notify::new());
        tokio::spawn(run(uri, poll, sender, Arc::clone(&again)));
        Self { heard, again }
    }

    /// Lets go of the connection and makes another, which tells the size anew.
    pub(super) fn again(&self) {
        self.again.notify_one();
    }
}

async fn run(uri: NbdUri, poll: Duration, sender: watch::Sender<Heard>, again: Arc<Notify>) {
    let pace = Pace { interval: INTERVAL, pause: poll, count: 0 };
    let mut backoff = Backoff::new(FIRST, MOST, u64::from(std::process::id()));
    while !sender.is_closed() {
        let mut observer = Sender(&sender);
        let ended = tokio::select! {
            // What ends the connection first: a server may send sizes for ever.
            biased;
            () = sender.closed() => return,
            () = again.notified() => None,
            ended = listen(&uri, &pace, &mut observer) => ended.err().map(|fault| fault.to_string()),
        };
        if sender.borrow().part.is_some() {
            backoff.reset();
        }
        sender.send_modify(|heard| *heard = Heard { deaf: ended, count: heard.count, ..Heard::default() });
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Passes on what comes.
struct Sender<'a>(&'a watch::Sender<Heard>);

impl SizeObserver for Sender<'_> {
    fn starts(&mut self, part: Part, _: Duration) {
        self.0.send_modify(|heard| (heard.part, heard.deaf) = (Some(part), None));
    }

    fn observes(&mut self, size: u64) -> Result<bool, ClientError> {
        self.0.send_modify(|heard| (heard.told, heard.count) = (Some(size), heard.count.wrapping_add(1)));
        Ok(false)
    }
}
