//! A QMP socket in front of another, which breaks off right after it has passed on a command.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::trouble::Trouble;

pub(super) struct Relay {
    /// The command to break off at, once.
    at: Arc<Mutex<Option<String>>>,
    /// Nobody is let through.
    shut: Arc<AtomicBool>,
    /// Nobody is to be, after it has broken off.
    stay: Arc<AtomicBool>,
}

impl Relay {
    /// Listens at `path`, in front of `qemu`; one client at a time, as qemu does.
    pub(super) fn start(qemu: &Path, path: PathBuf) -> Result<Self, Trouble> {
        let at = Arc::new(Mutex::new(None));
        let shut = Arc::new(AtomicBool::new(false));
        let (listener, qemu, shared) = (UnixListener::bind(path)?, qemu.to_owned(), Arc::clone(&at));
        let stay = Arc::new(AtomicBool::new(false));
        let (closed, stays) = (Arc::clone(&shut), Arc::clone(&stay));
        // Ends with the test's process: nobody connects any more.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::SeqCst) {
                    continue;
                }
                // The one who is broken off learns it from the end of his stream.
                let cut = serve(&client, &qemu, &shared);
                if cut.is_ok_and(|cut| cut) && stays.load(Ordering::SeqCst) {
                    closed.store(true, Ordering::SeqCst);
                }
                let _ = client.shutdown(Shutdown::Both);
            }
        });
        Ok(Self { at, shut, stay })
    }

    /// Breaks off the next client that sends this, and lets nobody through afterwards.
    pub(super) fn cut_and_shut_at(&self, command: &str) {
        self.stay.store(true, Ordering::SeqCst);
        self.cut_at(command);
    }

    /// Lets clients through again.
    pub(super) fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }

    /// Breaks off the next client that sends this.
    pub(super) fn cut_at(&self, command: &str) {
        *self.at.lock() = Some(command.to_owned());
    }
}

/// Whether the client was broken off on purpose.
fn serve(client: &UnixStream, qemu: &Path, at: &Mutex<Option<String>>) -> Result<bool, Trouble> {
    let mut server = UnixStream::connect(qemu)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || std::io::copy(&mut from, &mut to).map(drop));
    let mut cut = false;
    for line in BufReader::new(client).lines() {
        let line = line?;
        writeln!(server, "{line}")?;
        if at.lock().take_if(|command| line.contains(command.as_str())).is_some() {
            cut = true;
            break;
        }
    }
    server.shutdown(Shutdown::Both)?;
    let _ = back.join();
    Ok(cut)
}
