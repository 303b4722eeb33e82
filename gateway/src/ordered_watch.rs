//! A value that several tasks follow, woken in the order in which they began to follow it.
//!
//! Each follower has its own `watch` channel: tokio wakes the receivers of one channel in random order.

use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Debug, Default)]
pub(crate) struct OrderedWatch<T>(Mutex<State<T>>);

#[derive(Debug, Default)]
struct State<T> {
    now: T,
    followers: Vec<watch::Sender<T>>,
}

impl<T: Clone> OrderedWatch<T> {
    pub(crate) const fn new(now: T) -> Self {
        Self(Mutex::new(State { now, followers: Vec::new() }))
    }

    /// Calls `look` with the value, under the lock.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.lock().now)
    }

    /// A receiver of later changes; the latest wins.
    pub(crate) fn follow(&self) -> watch::Receiver<T> {
        let mut state = self.0.lock();
        let (sender, receiver) = watch::channel(state.now.clone());
        state.followers.retain(|follower| !follower.is_closed());
        state.followers.push(sender);
        receiver
    }

    /// Changes the value. `change` returns whether to wake the followers.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        let mut state = self.0.lock();
        if change(&mut state.now) {
            let State { now, followers } = &mut *state;
            followers.retain(|follower| follower.send(now.clone()).is_ok());
        }
    }
}

impl<T: Clone + PartialEq> OrderedWatch<T> {
    /// Sets the value, and wakes the followers if it is different.
    pub(crate) fn set(&self, value: T) {
        self.change(|now| core::mem::replace(now, value) != *now);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn followers_are_woken_in_the_order_in_which_they_began_to_follow() {
        let (value, heard) = (OrderedWatch::new(0), Arc::new(Mutex::new(Vec::new())));
        for number in 0..40 {
            let (mut follower, heard) = (value.follow(), Arc::clone(&heard));
            tokio::spawn(async move {
                while follower.changed().await.is_ok() {
                    heard.lock().push((*follower.borrow_and_update(), number));
                }
            });
        }
        for now in [1, 1, 2] {
            tokio::task::yield_now().await;
            value.set(now);
        }
        tokio::task::yield_now().await;
        let expected: Vec<(i32, i32)> = [1, 2].into_iter().flat_map(|now| (0..40).map(move |n| (now, n))).collect();
        assert_eq!(*heard.lock(), expected);
        assert_eq!(value.look(|now| *now), 2);
    }

    #[tokio::test]
    async fn a_dropped_follower_is_removed() {
        let value = OrderedWatch::new(0);
        (0..1000).for_each(|_| drop(value.follow()));
        assert_eq!(value.0.lock().followers.len(), 1);
        value.set(1);
        assert!(value.0.lock().followers.is_empty());
    }
}
