//! What orders a session to shut down: the gateway that drains, or its export that leaves.

use tokio::sync::watch;

use crate::export::Teardown;

/// Where the orders of one session come from. Each clone hears all of them.
#[derive(Clone, Debug)]
pub(super) struct Shutdown {
    gateway: watch::Receiver<bool>,
    export: watch::Receiver<Teardown>,
    heard: Teardown,
}

impl Shutdown {
    pub(super) const fn new(gateway: watch::Receiver<bool>, export: watch::Receiver<Teardown>) -> Self {
        Self { gateway, export, heard: Teardown::Not }
    }

    /// Whether it is to take nothing new.
    pub(super) fn is_ordered(&self) -> bool {
        self.now() != Teardown::Not
    }

    /// A gateway that drains ends each session as an export that drains does.
    fn now(&self) -> Teardown {
        let drains = if *self.gateway.borrow() { Teardown::Drained } else { Teardown::Not };
        drains.max(*self.export.borrow())
    }

    /// The next order, each once, also one that was given before. Cancel-safe: yes.
    pub(super) async fn next(&mut self) -> Teardown {
        loop {
            self.gateway.mark_unchanged();
            self.export.mark_unchanged();
            let order = self.now();
            if self.heard < order {
                self.heard = order;
                return order;
            }
            // Whoever is gone orders nothing any more.
            tokio::select! {
                // In any order: what both order is looked at together.
                biased;
                Ok(()) = self.gateway.changed() => {}
                Ok(()) = self.export.changed() => {}
                else => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_order_is_heard_once_and_the_sterner_one_counts() {
        let (gateway, export) = (watch::Sender::new(false), watch::Sender::new(Teardown::Not));
        let mut shutdown = Shutdown::new(gateway.subscribe(), export.subscribe());
        assert!(!shutdown.is_ordered());
        let silent = |shutdown: &mut Shutdown| ready(shutdown).is_none();
        assert!(silent(&mut shutdown));
        gateway.send_replace(true);
        assert_eq!(ready(&mut shutdown), Some(Teardown::Drained));
        export.send_replace(Teardown::Drained);
        assert!(silent(&mut shutdown), "that it knows");
        export.send_replace(Teardown::Cut);
        assert_eq!(ready(&mut shutdown), Some(Teardown::Cut));
        drop((gateway, export));
        assert!(silent(&mut shutdown));
        let (_gateway, late) = (watch::Sender::new(false), watch::Sender::new(Teardown::Parted));
        let mut shutdown = Shutdown::new(_gateway.subscribe(), late.subscribe());
        assert_eq!(ready(&mut shutdown), Some(Teardown::Parted), "one that was given before");
    }

    fn ready(shutdown: &mut Shutdown) -> Option<Teardown> {
        let mut next = std::pin::pin!(shutdown.next());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match next.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(order) => Some(order),
            std::task::Poll::Pending => None,
        }
    }
}
