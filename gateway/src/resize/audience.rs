//! Who has an export open, as far as it matters to a shrink: how many sessions know nothing of resize, and how many of
//! those left without a goodbye and may come back expecting the size that they saw.

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
    /// Rises with each session that comes or goes.
    changes: u64,
}

/// A session that wishes for another size, as it was when it asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    style: ClientStyle,
    changes: u64,
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

    /// A session begins.
    pub fn enter(&self, style: ClientStyle) {
        let mut state = self.state.lock();
        state.changes = state.changes.wrapping_add(1);
        match style {
            ClientStyle::Stock => state.stock += 1,
            ClientStyle::Kernel => state.kernel += 1,
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Automatic => {}
        }
    }

    /// A session ends, with or without DISC.
    pub fn leave(&self, style: ClientStyle, goodbye: bool) {
        let mut state = self.state.lock();
        state.changes = state.changes.wrapping_add(1);
        match style {
            ClientStyle::Stock => state.stock = state.stock.saturating_sub(1),
            ClientStyle::Kernel => state.kernel = state.kernel.saturating_sub(1),
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Automatic => return,
        }
        if !goodbye {
            state.lost.push(Instant::now());
        }
    }

    /// A session of this style asks now.
    pub fn asking(&self, style: ClientStyle) -> Asking {
        Asking { style, changes: self.state.lock().changes }
    }

    /// All but the one who asks. If anybody has come or gone since, it may be the one who is gone, so all count.
    pub fn others(&self, asking: Option<Asking>) -> Others {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.lost.retain(|at| now.duration_since(*at) < self.grace);
        let itself = asking.filter(|asking| asking.changes == state.changes).map(|asking| asking.style);
        let less = |style| u32::from(itself == Some(style));
        Others {
            stock: state.stock.saturating_sub(less(ClientStyle::Stock)),
            kernel: state.kernel.saturating_sub(less(ClientStyle::Kernel)),
            lost: u32::try_from(state.lost.len()).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_who_asked_and_left_does_not_hide_another() {
        let audience = Audience::new(Duration::from_secs(1));
        audience.enter(ClientStyle::Stock);
        let asking = audience.asking(ClientStyle::Stock);
        assert_eq!(audience.others(Some(asking)), Others::default());
        audience.enter(ClientStyle::Stock);
        audience.leave(ClientStyle::Stock, true);
        assert_eq!(audience.others(Some(asking)), Others { stock: 1, ..Others::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_without_a_goodbye_counts_for_its_grace() {
        let audience = Audience::new(Duration::from_secs(1));
        audience.enter(ClientStyle::Kernel);
        audience.leave(ClientStyle::Kernel, false);
        assert_eq!(audience.others(None).lost, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(audience.others(None), Others::default());
    }
}
