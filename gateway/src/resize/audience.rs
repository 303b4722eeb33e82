//! Who has an export open, as far as it matters to a shrink: how many sessions know nothing of resize, and how many of
//! those left without a goodbye and may come back expecting the size that they saw.

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_policy::plan::Others;
use nbd_gateway_policy::style::ClientStyle;
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Debug, Default)]
struct State {
    stock: u32,
    kernel: u32,
    lost: Vec<Instant>,
}

/// A session's place in the audience; given up when it is dropped.
#[derive(Debug)]
pub struct Seat {
    audience: Arc<Audience>,
    style: ClientStyle,
    goodbye: bool,
}

impl Seat {
    /// The session ends. Without a goodbye its client may come back and expect the size that it saw.
    pub fn leave(mut self, goodbye: bool) {
        self.goodbye = goodbye;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.audience.leave(self.style, self.goodbye);
    }
}

/// The sessions of one export, by what they know.
#[derive(Debug)]
pub struct Audience {
    grace: Duration,
    state: Mutex<State>,
}

impl Audience {
    /// Those who left without a goodbye count for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self { grace, state: Mutex::default() }
    }

    /// A session begins: before its client is told a size, so that no shrink comes between.
    pub fn enter(self: &Arc<Self>, style: ClientStyle) -> Seat {
        let mut state = self.state.lock();
        match style {
            ClientStyle::Stock => state.stock += 1,
            ClientStyle::Kernel => state.kernel += 1,
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Automatic => {}
        }
        Seat { audience: Arc::clone(self), style, goodbye: false }
    }

    fn leave(&self, style: ClientStyle, goodbye: bool) {
        let mut state = self.state.lock();
        match style {
            ClientStyle::Stock => state.stock = state.stock.saturating_sub(1),
            ClientStyle::Kernel => state.kernel = state.kernel.saturating_sub(1),
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Automatic => return,
        }
        if !goodbye {
            state.lost.push(Instant::now());
        }
    }

    /// All but the one who asks.
    pub fn others(&self, asking: Option<ClientStyle>) -> Others {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.lost.retain(|at| now.duration_since(*at) < self.grace);
        let less = |style| u32::from(asking == Some(style));
        Others {
            stock: state.stock.saturating_sub(less(ClientStyle::Stock)),
            kernel: state.kernel.saturating_sub(less(ClientStyle::Kernel)),
            lost: u32::try_from(state.lost.len()).unwrap_or(u32::MAX),
        }
    }
}
