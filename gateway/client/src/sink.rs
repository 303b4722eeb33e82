//! Where the bytes that are read go: in full, or into a file that has holes where they are zeroes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

const ZEROES: &[u8] = &[0; 64 * 1024];
/// What a file system keeps as a hole, at least: smaller runs of zeroes are written.
const BLOCK: usize = 4096;

/// Takes bytes in order.
pub(super) trait Sink {
    /// The next ones.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The next ones, all of them zero.
    fn zeroes(&mut self, length: u64) -> io::Result<()>;
    /// There are no more.
    fn finish(&mut self) -> io::Result<()>;
}

impl<W: Write> Sink for W {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn zeroes(&mut self, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROES.len());
            self.write_all(ZEROES.get(..now).unwrap_or(ZEROES))?;
            left = left.saturating_sub(u64::try_from(now).unwrap_or(left));
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// A new, empty file. What is zero is not written, whether the server says so or sends it as data.
pub(super) struct Sparse {
    file: File,
    /// Where the next byte goes.
    at: u64,
}

impl Sparse {
    pub(super) fn new(file: File) -> Self {
        Self { file, at: 0 }
    }
}

impl Sink for Sparse {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let hole: usize = rest.chunks(BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
            self.at = self.at.saturating_add(u64::try_from(hole).unwrap_or(u64::MAX));
            rest = rest.get(hole..).unwrap_or_default();
            let full: usize = rest.chunks(BLOCK).take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
            let (now, later) = rest.split_at_checked(full).unwrap_or((rest, &[]));
            if !now.is_empty() {
                self.file.seek(SeekFrom::Start(self.at))?;
                self.file.write_all(now)?;
                self.at = self.at.saturating_add(u64::try_from(full).unwrap_or(u64::MAX));
            }
            rest = later;
        }
        Ok(())
    }

    fn zeroes(&mut self, length: u64) -> io::Result<()> {
        self.at = self.at.saturating_add(length);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.at)
    }
}

fn is_zero(block: &[u8]) -> bool {
    ZEROES.get(..block.len()).is_some_and(|zeroes| zeroes == block)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    /// A new file in a directory of the test's own, and what becomes of it.
    fn written(write: impl FnOnce(&mut Sparse)) -> (Vec<u8>, u64) {
        let mut file = tempfile();
        let mut sparse = Sparse::new(file.try_clone().unwrap());
        write(&mut sparse);
        sparse.finish().unwrap();
        let mut found = Vec::new();
        file.rewind().unwrap();
        io::Read::read_to_end(&mut file, &mut found).unwrap();
        (found, file.metadata().unwrap().blocks() * 512)
    }

    fn tempfile() -> File {
        let fd = rustix::fs::memfd_create("sparse", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        File::from(fd)
    }

    #[test]
    fn zeroes_take_no_space_in_a_file() {
        let (found, taken) = written(|file| {
            file.zeroes(1 << 20).unwrap();
            file.data(&[0; 1 << 20]).unwrap();
            file.data(b"x").unwrap();
            file.zeroes(64 << 20).unwrap();
        });
        assert_eq!(found.len(), (66 << 20) + 1);
        assert!(found.iter().enumerate().all(|(at, byte)| (*byte == b'x') == (at == 2 << 20)));
        assert!(taken <= 1 << 16, "{taken}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_came(pieces in proptest::collection::vec((0..20_000_usize, 0..3_u8), 0..12)) {
            let mut whole = Vec::new();
            let (found, _) = written(|file| {
                for (length, kind) in &pieces {
                    let bytes: Vec<u8> = (0..*length).map(|at| if *kind == 1 { u8::from(at > length / 2) } else { *kind }).collect();
                    match kind {
                        0 => file.zeroes(u64::try_from(*length).unwrap()).unwrap(),
                        _ => file.data(&bytes).unwrap(),
                    }
                    whole.extend(bytes);
                }
            });
            prop_assert!(found == whole);
        }
    }
}
