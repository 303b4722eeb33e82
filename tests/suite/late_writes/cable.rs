//! A cable between the gateway and a server, which a test can cut: both ends see their connection end, and nothing else
//! happens to either.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::place::Place;
use crate::trouble::Trouble;

pub(super) struct Cable {
    place: Place,
    pairs: Arc<Mutex<Vec<(UnixStream, UnixStream)>>>,
}

impl Cable {
    /// To the server at `far`.
    pub(super) fn to(far: &Path) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let listener = UnixListener::bind(place.path("near"))?;
        let pairs: Arc<Mutex<Vec<(UnixStream, UnixStream)>>> = Arc::default();
        let (kept, far) = (Arc::clone(&pairs), far.to_owned());
        // Ends with the test's process: nobody connects any more.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // Without a server the gateway sees the end of its connection.
                let _ = plug(near, &far, &kept);
            }
        });
        Ok(Self { place, pairs })
    }

    pub(super) fn near(&self) -> PathBuf {
        self.place.path("near")
    }

    /// Cuts what is connected now.
    pub(super) fn cut(&self) {
        for (near, far) in self.pairs.lock().drain(..) {
            for end in [near, far] {
                // One that is gone already is cut.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

fn plug(near: UnixStream, far: &Path, pairs: &Mutex<Vec<(UnixStream, UnixStream)>>) -> io::Result<()> {
    let far = UnixStream::connect(far)?;
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far.try_clone()?, near.try_clone()?)] {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    pairs.lock().push((near, far));
    Ok(())
}
