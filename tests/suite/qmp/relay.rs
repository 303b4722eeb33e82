//! A QMP socket in front of another, which breaks off right after it has passed on a command.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use crate::trouble::Trouble;

pub(super) struct Relay {
    /// The command to break off at, once.
    at: Arc<Mutex<Option<String>>>,
}

impl Relay {
    /// Listens at `path`, in front of `qemu`; one client at a time, as qemu does.
    pub(super) fn start(qemu: &Path, path: PathBuf) -> Result<Self, Trouble> {
        let at = Arc::new(Mutex::new(None));
        let (listener, qemu, shared) = (UnixListener::bind(path)?, qemu.to_owned(), Arc::clone(&at));
        // Ends with the test's process: nobody connects any more.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // The one who is broken off learns it from the end of his stream.
                let _ = serve(&client, &qemu, &shared);
                let _ = client.shutdown(Shutdown::Both);
            }
        });
        Ok(Self { at })
    }

    /// Breaks off the next client that sends this.
    pub(super) fn cut_at(&self, command: &str) {
        *self.at.lock() = Some(command.to_owned());
    }
}

fn serve(client: &UnixStream, qemu: &Path, at: &Mutex<Option<String>>) -> Result<(), Trouble> {
    let mut server = UnixStream::connect(qemu)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || std::io::copy(&mut from, &mut to).map(drop));
    for line in BufReader::new(client).lines() {
        let line = line?;
        writeln!(server, "{line}")?;
        if at.lock().take_if(|command| line.contains(command.as_str())).is_some() {
            break;
        }
    }
    server.shutdown(Shutdown::Both)?;
    let _ = back.join();
    Ok(())
}
