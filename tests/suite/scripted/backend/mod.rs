//! A backend that does as its script says: with abilities that a test chooses, replies that a test holds back, and one
//! named fault. It remembers every request, and tests wait for what it has seen instead of for time to pass.

mod fault;
mod handshake;
mod transmission;

pub(crate) use fault::Fault;

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::numbers::flag;
use super::{Framing, Link, PATIENCE};
use crate::image::Image;
use crate::place::Place;
use crate::trouble::Trouble;

/// How a backend takes to another size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resizing {
    /// Not at all, and it sets bit 9 only if its script's flags say so.
    No,
    /// By NBD_CMD_RESIZE; what a grow exposes is of this byte.
    Explicit { exposes: u8 },
    /// By writes past its end.
    ByWrites,
    /// By the whole extension: it tells these features in NBD_INFO_RESIZE. What a grow exposes is zero.
    Native { features: u16 },
}

/// What a backend can do and what it does wrong.
#[derive(Clone)]
pub(crate) struct Script {
    /// The most that it agrees to.
    pub(crate) framing: Framing,
    pub(crate) flags: u16,
    /// Minimum, preferred, maximum.
    pub(crate) blocks: Option<[u32; 3]>,
    /// Names of its metadata contexts; the number of the first one's id is 7, so that nobody takes it for an index.
    pub(crate) contexts: &'static [&'static str],
    pub(crate) fault: Option<Fault>,
    /// How many connections the fault strikes; later ones are served well.
    pub(crate) struck: u32,
    /// Requests of this command fail with this error.
    pub(crate) refuses: Option<(u16, u32)>,
    /// What it makes of a new size.
    pub(crate) resizing: Resizing,
    /// Each connection keeps to the size that its handshake told, or that it asked for itself.
    pub(crate) pins: bool,
    /// Zeroes in a structured READ are sent as holes, and the chunks last one first.
    pub(crate) chunked: bool,
}

impl Default for Script {
    fn default() -> Self {
        let flags =
            flag::HAS_FLAGS | flag::FLUSH | flag::FUA | flag::TRIM | flag::WRITE_ZEROES | flag::DF | flag::CACHE;
        Self {
            framing: Framing::Structured,
            flags,
            blocks: None,
            contexts: &["base:allocation"],
            fault: None,
            struck: u32::MAX,
            refuses: None,
            resizing: Resizing::No,
            pins: false,
            chunked: false,
        }
    }
}

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which connection, counted from 0.
    pub(crate) connection: u32,
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What the backend has been through.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) disk: Vec<u8>,
    pub(crate) seen: Vec<Seen>,
    /// Connections ever made, and those still open.
    pub(crate) connections: u32,
    pub(crate) live: u32,
    /// While set, requests are taken but not answered.
    held: bool,
    /// While set, what was held is answered last request first.
    backwards: bool,
    /// While set, a flood goes on; a resize that was to be late is done.
    flooding: bool,
    landed: bool,
    /// The next answer to INFO or GO is made at once, and sent later.
    info_late: bool,
    /// There is such an answer.
    pub(crate) info_waits: bool,
    closing: bool,
    streams: Vec<UnixStream>,
}

impl Story {
    pub(crate) fn count(&self, command: u16) -> usize {
        self.seen.iter().filter(|seen| seen.command == command).count()
    }
}

struct Shared {
    story: Mutex<Story>,
    /// What connections made from now on go by.
    script: Mutex<Script>,
    news: Condvar,
}

impl Shared {
    fn tell<T>(&self, change: impl FnOnce(&mut Story) -> T) -> T {
        let result = change(&mut self.story.lock());
        self.news.notify_all();
        result
    }

    /// Waits until `holds`; false if it does not in time.
    fn wait(&self, mut holds: impl FnMut(&Story) -> bool) -> bool {
        let mut story = self.story.lock();
        !self.news.wait_while_until(&mut story, |story| !holds(story), Instant::now() + PATIENCE).timed_out()
    }
}

/// A running backend, with the disk of [`Image::sparse`].
pub(crate) struct Backend {
    shared: Arc<Shared>,
    pub(crate) socket: PathBuf,
    listening: Option<JoinHandle<()>>,
    _place: Place,
}

impl Backend {
    pub(crate) fn start(script: Script) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let socket = place.path("b");
        let listener = UnixListener::bind(&socket)?;
        let story = Story { disk: Self::content().bytes().to_vec(), ..Story::default() };
        let shared = Arc::new(Shared { story: Mutex::new(story), script: Mutex::new(script), news: Condvar::new() });
        let listening = thread::spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        Ok(Self { shared, socket, listening: Some(listening), _place: place })
    }

    /// One that grows by NBD_CMD_RESIZE for those who ask.
    pub(crate) fn growing() -> Result<Self, Trouble> {
        let script = Script::default();
        let resizing = Resizing::Explicit { exposes: 0 };
        Self::start(Script { flags: script.flags | flag::SEND_RESIZE, resizing, ..script })
    }

    /// What the disk holds at first.
    pub(crate) fn content() -> Image {
        Image::sparse(5)
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// The name of the directory that its socket is in.
    pub(crate) fn place_name(&self) -> Result<String, Trouble> {
        let name = self.socket.parent().and_then(|folder| folder.file_name());
        name.map(|name| name.to_string_lossy().into_owned()).ok_or_else(|| Trouble::new("a socket without a directory"))
    }

    /// Looks at what has happened so far.
    pub(crate) fn story<T>(&self, look: impl FnOnce(&Story) -> T) -> T {
        look(&self.shared.story.lock())
    }

    /// Waits until the story holds what a test waits for.
    pub(crate) fn await_that(&self, what: &str, holds: impl FnMut(&Story) -> bool) -> Result<(), Trouble> {
        if self.shared.wait(holds) {
            Ok(())
        } else {
            let seen = self.story(|story| format!("{} connections, {:x?}", story.connections, story.seen));
            Err(Trouble::new(format!("the scripted backend waited in vain for {what}; it saw {seen}")))
        }
    }

    /// Another hand changes the disk: how long it is, or what it holds.
    pub(crate) fn meddle(&self, change: impl FnOnce(&mut Vec<u8>)) {
        self.shared.tell(|story| change(&mut story.disk));
    }

    /// Resizes that were to be late are done and answered.
    pub(crate) fn land(&self) {
        self.shared.tell(|story| story.landed = true);
    }

    /// The next answer to INFO or GO is made at once, and waits until it is released.
    pub(crate) fn hold_info(&self) {
        self.shared.tell(|story| story.info_late = true);
    }

    /// Sends that answer.
    pub(crate) fn release_info(&self) {
        self.shared.tell(|story| story.info_waits = false);
    }

    /// From now on requests are taken but not answered.
    pub(crate) fn hold(&self) {
        self.shared.tell(|story| story.held = true);
    }

    /// Answers what was held, in order.
    pub(crate) fn release(&self) {
        self.shared.tell(|story| story.held = false);
    }

    /// Answers what was held, last request first.
    pub(crate) fn release_backwards(&self) {
        self.shared.tell(|story| (story.held, story.backwards) = (false, true));
    }

    /// Puts the disk back to what it held at first.
    pub(crate) fn restore(&self) {
        self.shared.tell(|story| story.disk.copy_from_slice(Self::content().bytes()));
    }

    /// Closes every connection, and goes by another script for new ones: a server that was started again as something else.
    pub(crate) fn become_another(&self, script: Script) {
        *self.shared.script.lock() = script;
        self.cut();
    }

    /// Closes every connection; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.shared.tell(|story| story.streams.drain(..).for_each(|stream| close(&stream)));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.tell(|story| {
            story.closing = true;
            story.landed = true;
            story.flooding = false;
            story.held = false;
        });
        // Wakes the listener, which then sees that it is over.
        let _ = UnixStream::connect(&self.socket);
        self.cut();
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let number = shared.tell(|story| {
            story.connections += 1;
            story.live += 1;
            story.streams.extend(stream.try_clone());
            story.connections - 1
        });
        if shared.tell(|story| story.closing) {
            return;
        }
        let (shared, mut script) = (shared.clone(), shared.script.lock().clone());
        if number >= script.struck {
            script.fault = None;
        }
        // A connection that the gateway ends early is what many tests are about, so how it ended says nothing.
        thread::spawn(move || {
            let _ = serve(&stream, &shared, &script, number);
            close(&stream);
            shared.tell(|story| story.live -= 1);
        });
    }
}

fn serve(stream: &UnixStream, shared: &Arc<Shared>, script: &Script, number: u32) -> Result<(), Trouble> {
    // An idle connection may stay idle: only writing has a deadline.
    let mut link = Link::over(stream.try_clone()?)?;
    stream.set_read_timeout(None)?;
    if let Some(framing) = handshake::shake(&mut link, script, shared)? {
        transmission::serve(link, shared, script, framing, number)?;
    }
    Ok(())
}

fn close(stream: &UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// Says nothing more, and waits for the other side to lose patience.
fn fall_silent(link: &mut Link) {
    let _ = link.0.read_to_end(&mut Vec::new());
}
