//! When the service manager is told that the device is there: once, as soon as it has the size that it should.
//!
//! A device that was just attached has the size that its server said then. One that was found attached may be behind, and
//! its connection dead: that one is ready when a size that was told is in force, or was judged and is not for it.

/// What the manager is still to be told.
pub(super) struct Readiness(Option<Box<dyn FnOnce() + Send>>);

impl Readiness {
    /// Of a device that `is_new`, just attached, or was found.
    pub(super) fn of(ready: Box<dyn FnOnce() + Send>, is_new: bool) -> Self {
        let mut readiness = Self(Some(ready));
        if is_new {
            readiness.is_right();
        }
        readiness
    }

    /// The device has the size that it should.
    pub(super) fn is_right(&mut self) {
        if let Some(ready) = self.0.take() {
            ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_manager_is_told_once_when_the_size_is_right_and_of_a_new_device_at_once() {
        for is_new in [false, true] {
            let told = Arc::new(AtomicU32::new(0));
            let count = Arc::clone(&told);
            let ready = Box::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            });
            let mut readiness = Readiness::of(ready, is_new);
            assert_eq!(told.load(Ordering::Relaxed), u32::from(is_new), "one that was found may be behind");
            readiness.is_right();
            readiness.is_right();
            assert_eq!(told.load(Ordering::Relaxed), 1);
        }
    }
}
