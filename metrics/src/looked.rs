//! What nothing tells the metrics of, and is looked at before each page instead.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Something whose metrics are as old as the last look at it.
pub trait Looked: Send + Sync {
    /// Brings its metrics up to date. May read small files.
    fn look(&self);
}

/// All of it, as long as somebody has it.
#[derive(Clone, Default)]
pub(crate) struct Looks(Arc<Mutex<Vec<Weak<dyn Looked>>>>);

impl Looks {
    pub(crate) fn add(&self, thing: Weak<dyn Looked>) {
        self.0.lock().push(thing);
    }

    pub(crate) fn look(&self) {
        let there: Vec<Arc<dyn Looked>> = {
            let mut things = self.0.lock();
            things.retain(|thing| thing.strong_count() > 0);
            things.iter().filter_map(Weak::upgrade).collect()
        };
        // Not under the lock: things may come and go meanwhile.
        there.iter().for_each(|thing| thing.look());
    }
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicU32);

    impl Looked for Counts {
        fn look(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_thing_is_looked_at_each_time_as_long_as_somebody_has_it() {
        let (looks, one, two) = (Looks::default(), Arc::new(Counts::default()), Arc::new(Counts::default()));
        for thing in [&one, &two] {
            let thing: Arc<dyn Looked> = Arc::<Counts>::clone(thing);
            looks.add(Arc::downgrade(&thing));
        }
        looks.look();
        drop(two);
        looks.look();
        assert_eq!((one.0.load(Ordering::Relaxed), looks.0.lock().len()), (2, 1));
    }
}
