//! An nbdkit whose first write takes as long as the test likes: it has received it, and lands it when it is told to.

use std::fs;
use std::path::PathBuf;

use crate::peer::{Served, nbdkit_as_it_is};
use crate::place::Place;
use crate::trouble::{Trouble, eventually};

pub(super) struct Slow {
    pub(super) served: Served,
    place: Place,
}

impl Slow {
    pub(super) fn start() -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        fs::write(place.path("first"), "")?;
        fs::write(place.path("disk"), vec![0; 1 << 20])?;
        let at = place.root().display();
        // The disk of each write is opened when it lands.
        let land = format!("dd of={at}/disk seek=$4 oflag=seek_bytes conv=notrunc status=none <{at}/w.$$");
        let pwrite = format!(
            "pwrite=cat >{at}/w.$$; if mv {at}/first {at}/holds 2>/dev/null; then \
             until [ -e {at}/go ]; do sleep 0.02; done; {land}; touch {at}/landed; else {land}; fi"
        );
        let pread = format!("pread=dd if={at}/disk skip=$4 count=$3 iflag=count_bytes,skip_bytes status=none");
        let plain = ["get_size=echo 1M", "can_write=exit 0", "can_flush=exit 0", "flush=exit 0"];
        let parallel = "thread_model=echo parallel";
        let words: Vec<&str> = ["eval"].into_iter().chain(plain).chain([parallel, &pread, &pwrite]).collect();
        Ok(Self { served: nbdkit_as_it_is(&[], &words)?, place })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// Waits until it has received its first write.
    pub(super) fn await_first(&self) -> Result<(), Trouble> {
        eventually("the server has the first write", || self.path("holds").exists())
    }

    /// Has the first write land, and waits until it has.
    pub(super) fn land(&self) -> Result<(), Trouble> {
        fs::write(self.path("go"), "")?;
        eventually("the first write has landed", || self.path("landed").exists())
    }

    /// The first bytes of its disk.
    pub(super) fn disk(&self) -> Result<Vec<u8>, Trouble> {
        Ok(fs::read(self.path("disk"))?[..512].to_vec())
    }
}
