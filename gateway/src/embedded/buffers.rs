//! Buffers for long reads: each goes back when its reply is sent, so that the next read finds memory that is mapped. Fresh
//! memory costs a page fault for every few KiB.

use bytes::Bytes;
use parking_lot::Mutex;

/// The most that is kept, in bytes.
const MOST: usize = 0x80_0000;

/// Those of the process.
pub(super) static SPARE: Spare = Spare(Mutex::new(Vec::new()));

/// Buffers of [`MOST`] bytes together, in no order.
pub(super) struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    /// A buffer of `length` bytes, of whatever value; none: there is no memory for it.
    pub(super) fn take(&'static self, length: usize) -> Option<Lent> {
        // Not one of twice the length: a longer read may want it.
        let fits = |buffer: &Vec<u8>| (length..length.saturating_mul(2)).contains(&buffer.len());
        let mut spare = self.0.lock();
        let found = spare.iter().rposition(fits).map(|at| spare.swap_remove(at));
        drop(spare);
        let buffer = match found {
            Some(buffer) => buffer,
            None => {
                let mut fresh = Vec::new();
                fresh.try_reserve_exact(length).ok()?;
                fresh.resize(length, 0);
                fresh
            }
        };
        Some(Lent { buffer, length, from: self })
    }
}

/// A buffer that is kept when nobody has it any more.
pub(super) struct Lent {
    buffer: Vec<u8>,
    length: usize,
    from: &'static Spare,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.length).unwrap_or_default()
    }
}

impl From<Lent> for Bytes {
    fn from(lent: Lent) -> Self {
        Self::from_owner(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut spare = self.from.0.lock();
        if spare.iter().map(Vec::len).sum::<usize>().saturating_add(buffer.len()) <= MOST {
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_when_their_replies_are_gone_as_many_as_are_kept_and_fit_reads_of_their_size() {
        static SPARE: Spare = Spare(Mutex::new(Vec::new()));
        let kept = || SPARE.0.lock().iter().map(Vec::len).sum::<usize>();
        let lent: Vec<Bytes> = (0..20).map(|_| SPARE.take(1 << 20).unwrap().into()).collect();
        assert_eq!(kept(), 0);
        let part = lent[0].slice(5..);
        drop(lent);
        assert_eq!(kept(), MOST);
        drop(part);
        assert_eq!(kept(), MOST);
        assert_eq!(SPARE.take(1 << 19).unwrap().as_ref().len(), 1 << 19);
        assert_eq!(kept(), MOST, "half a buffer is not worth one");
        let shorter = SPARE.take((1 << 20) - 4096).unwrap();
        assert_eq!((shorter.as_ref().len(), kept()), ((1 << 20) - 4096, MOST - (1 << 20)));
        drop(shorter);
        assert_eq!(kept(), MOST);
        assert!(SPARE.take(usize::MAX).is_none());
    }
}
