//! What the disks hold: bytes that say where they belong, so that a misplaced, stale or missing sector is told apart.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::trouble::{Trouble, ensure};

/// The size of every disk in the matrix.
pub(crate) const SIZE: usize = 8 << 20;

/// The content of a disk.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Image(Vec<u8>);

impl Image {
    /// Data and holes in turn, in runs that are multiples of 64 KiB, the finest grain that all servers keep.
    pub(crate) fn sparse(seed: u64) -> Self {
        let mut image = Self(vec![0; SIZE]);
        // A run at either end, single blocks, and a long one.
        for (start, length) in [(0, 2), (5, 1), (16, 32), (50, 1), (52, 1), (90, 5), (127, 1)] {
            image.scribble(seed, start << 16, length << 16);
        }
        image
    }

    /// A hole.
    pub(crate) fn of_zeroes() -> Self {
        Self(vec![0; SIZE])
    }

    /// Data everywhere.
    pub(crate) fn full(seed: u64) -> Self {
        let mut image = Self(vec![0; SIZE]);
        image.scribble(seed, 0, SIZE);
        image
    }

    /// Never-zero bytes that depend on the seed and on where they stand.
    pub(crate) fn scribble(&mut self, seed: u64, offset: usize, length: usize) {
        for (index, byte) in self.0[offset..offset + length].iter_mut().enumerate() {
            *byte = byte_at(seed, offset + index);
        }
    }

    pub(crate) fn put(&mut self, offset: usize, length: usize, byte: u8) {
        self.0[offset..offset + length].fill(byte);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn read_from(path: &Path) -> Result<Self, Trouble> {
        fs::read(path).map(Self).map_err(|e| Trouble::new(format!("cannot read {}: {e}", path.display())))
    }

    /// Writes it as a sparse file: runs of zeroes of 64 KiB become holes.
    pub(crate) fn write_to(&self, path: &Path) -> Result<(), Trouble> {
        let file = fs::File::create(path)?;
        file.set_len(self.0.len() as u64)?;
        for (index, block) in self.0.chunks(1 << 16).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                file.write_all_at(block, (index as u64) << 16)?;
            }
        }
        Ok(())
    }

    /// Fails with the first difference.
    pub(crate) fn expect_same(&self, other: &Self, whose: &str) -> Result<(), Trouble> {
        ensure(self.0.len() == other.0.len(), || {
            format!("{whose} holds {} bytes where {} were expected", other.0.len(), self.0.len())
        })?;
        let differs = |at: &usize| self.0[*at] != other.0[*at];
        let Some(first) = (0..self.0.len()).find(differs) else { return Ok(()) };
        let count = (first..self.0.len()).filter(differs).count();
        Err(Trouble::new(format!(
            "{whose} differs in {count} bytes, first at {first}: expected {} but found {}",
            hex(&self.0[first..]),
            hex(&other.0[first..])
        )))
    }
}

/// The byte that belongs at `offset` of the pattern `seed`: never zero, and different in neighbouring blocks.
fn byte_at(seed: u64, offset: usize) -> u8 {
    let mut word = (offset as u64 / 8) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word.to_be_bytes()[offset % 8] | 1
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
