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
    grace: Duration,
    stock: u32,
    kernel: u32,
    lost: Vec<Instant>,
    /// Rises with each session that comes or goes.
    changes: u64,
}

/// A session that wishes for another size, as it was when it asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    style: ClientStyle,
    changes: u64,
}

/// A session's place in the openers; given up when it is dropped.
#[derive(Debug)]
pub(crate) struct OpenGuard {
    openers: Arc<Openers>,
    style: ClientStyle,
    goodbye: bool,
}

impl OpenGuard {
    /// The session ends. Without a goodbye its client may come back and expect the size that it saw.
    pub(crate) fn leave(mut self, goodbye: bool) {
        self.goodbye = goodbye;
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.openers.leave(self.style, self.goodbye);
    }
}

/// The sessions of one export, by what they know.
#[derive(Debug)]
pub(crate) struct Openers {
    state: Mutex<State>,
}

impl Openers {
    /// Those who left without a goodbye count for `grace`.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { state: Mutex::new(State { grace, ..State::default() }) }
    }

    /// They count for so long from now on, those who have left already too.
    pub(crate) fn adjust(&self, grace: Duration) {
        self.state.lock().grace = grace;
    }

    /// The same, where somebody whom nobody here has seen may come back, as one who left `at` that moment.
    pub(crate) fn expecting_return(grace: Duration, at: Instant) -> Self {
        Self { state: Mutex::new(State { grace, lost: vec![at], ..State::default() }) }
    }

    /// Whether nobody is here, and nobody is known who may come back.
    pub(crate) fn is_over(&self) -> bool {
        self.relying() == 0
    }

    /// How many are here, or may come back.
    pub(crate) fn relying(&self) -> usize {
        let state = self.state.lock();
        let now = Instant::now();
        let awaited = state.lost.iter().filter(|at| now.duration_since(**at) < state.grace).count();
        let here = state.stock.saturating_add(state.kernel);
        awaited.saturating_add(usize::try_from(here).unwrap_or(usize::MAX))
    }

    /// A session begins: before its client is told a size, so that no shrink comes between.
    pub(crate) fn enter(self: &Arc<Self>, style: ClientStyle) -> OpenGuard {
        let mut state = self.state.lock();
        state.changes = state.changes.wrapping_add(1);
        match style {
            ClientStyle::Stock => state.stock += 1,
            ClientStyle::Kernel => state.kernel += 1,
            ClientStyle::ExplicitSimple | ClientStyle::ExplicitStructured | ClientStyle::Automatic => {}
        }
        OpenGuard { openers: Arc::clone(self), style, goodbye: false }
    }

    fn leave(&self, style: ClientStyle, goodbye: bool) {
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
    pub(crate) fn asking(&self, style: ClientStyle) -> Asking {
        Asking { style, changes: self.state.lock().changes }
    }

    /// All but the one who asks. If anybody has come or gone since, it may be the one who is gone, so all count.
    pub(crate) fn others(&self, asking: Option<Asking>) -> Others {
        let mut state = self.state.lock();
        let (now, grace) = (Instant::now(), state.grace);
        state.lost.retain(|at| now.duration_since(*at) < grace);
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
mod suspend;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::state::carried;

    #[tokio::test(start_paused = true)]
    async fn one_who_asked_and_left_does_not_hide_another() {
        let openers = Arc::new(Openers::new(Duration::from_secs(1)));
        let mut first = openers.enter(ClientStyle::Stock);
        let asking = openers.asking(ClientStyle::Stock);
        assert_eq!(openers.others(Some(asking)), Others::default());
        let _second = openers.enter(ClientStyle::Stock);
        first.goodbye = true;
        drop(first);
        assert_eq!(openers.others(Some(asking)), Others { stock: 1, ..Others::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_without_a_goodbye_counts_for_its_grace() {
        let openers = Arc::new(Openers::new(Duration::from_secs(1)));
        drop(openers.enter(ClientStyle::Kernel));
        assert_eq!(openers.others(None).lost, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(openers.others(None), Others::default());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_counts_elsewhere_for_the_rest_of_its_grace() {
        let [openers, elsewhere] = [(); 2].map(|()| Arc::new(Openers::new(Duration::from_secs(2))));
        drop(openers.enter(ClientStyle::Kernel));
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(openers.enter(ClientStyle::Stock));
        let _stays = openers.enter(ClientStyle::Stock);
        elsewhere.resume(carried(&openers.suspend()));
        assert_eq!(openers.others(None), Others { stock: 1, ..Others::default() });
        assert_eq!(elsewhere.others(None), Others { lost: 2, ..Others::default() });
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(elsewhere.others(None).lost, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(elsewhere.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn one_whom_nobody_has_seen_may_come_back_as_well() {
        let openers = Arc::new(Openers::expecting_return(Duration::from_secs(2), Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((openers.others(None).lost, openers.is_over()), (1, false));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((openers.others(None).lost, openers.is_over()), (0, true));
        let guard = openers.enter(ClientStyle::Stock);
        assert!(!openers.is_over());
        guard.leave(true);
        assert!(openers.is_over());
    }
}
