//! Whoever adds up the files, all the time, and asks nobody. Two equal passes over all of them make a sample: between them
//! no size has changed, so there was a moment at which all of these were true.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::diary::Diary;
use super::town::{Export, TENANTS, length};
use crate::trouble::Trouble;

/// How often there was a sample.
#[derive(Default)]
pub(super) struct Witness {
    pub(super) samples: AtomicU64,
    /// The fullest that any tenant was, in thousandths of its quota.
    pub(super) fullest: AtomicU64,
}

impl Witness {
    /// Looks until told to stop.
    pub(super) fn look(&self, exports: &[Export], diary: &Diary, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match sample(exports) {
                Ok(Some(sizes)) => self.judge(exports, &sizes, diary),
                Ok(None) => {}
                Err(trouble) => diary.violated(&format!("an export's file can't be looked at: {trouble}")),
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn judge(&self, exports: &[Export], sizes: &[u64], diary: &Diary) {
        self.samples.fetch_add(1, Ordering::Relaxed);
        for (tenant, (name, quota)) in TENANTS.iter().enumerate() {
            let sum = sum(exports, sizes, tenant);
            self.fullest.fetch_max(sum * 1000 / quota, Ordering::Relaxed);
            if sum > *quota {
                diary.violated(&format!(
                    "tenant {name}: its files sum to {sum}, {} more than its quota of {quota}\n{}",
                    sum - quota,
                    shown(exports, sizes)
                ));
            }
        }
    }
}

/// The lengths of all files, if they were the same twice.
fn sample(exports: &[Export]) -> Result<Option<Vec<u64>>, Trouble> {
    let first = lengths(exports)?;
    Ok((lengths(exports)? == first).then_some(first))
}

pub(super) fn lengths(exports: &[Export]) -> Result<Vec<u64>, Trouble> {
    exports.iter().map(|export| length(&export.file)).collect()
}

pub(super) fn sum(exports: &[Export], sizes: &[u64], tenant: usize) -> u64 {
    exports.iter().zip(sizes).filter(|(export, _)| export.tenant == tenant).map(|(_, size)| size).sum()
}

pub(super) fn shown(exports: &[Export], sizes: &[u64]) -> String {
    let line =
        |(export, size): (&Export, &u64)| format!("  {:<14} {size:>9}  {}\n", export.name, export.file.display());
    exports.iter().zip(sizes).map(line).collect()
}
