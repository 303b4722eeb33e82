//! The thread that writes the log. Every other thread appends to a bounded queue and goes on: a pipe that nobody reads, a
//! terminal that is stopped or a disk that hangs costs lines of the log, and nothing else.
//!
//! Lines that do not fit, and lines that can't be written, are dropped and counted; when the next lines are written, the log
//! says how many were lost. tracing-appender was tried first: it bounds lines but not bytes, and reports a stuck output at the
//! end of the process by printing, which blocks if standard output is stuck too.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::IntCounter;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::time::Instant;

/// The most bytes that wait to be written. As many again are being written.
const MOST: usize = 1 << 20;

/// The queue of lines that wait for the thread; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread has taken lines and has not written all of them yet.
    writing: bool,
    /// Lines lost since the log said so last.
    lost: u64,
}

impl Lines {
    /// Starts the thread, which writes to `output` until the process ends. `dropped` counts lines that were lost.
    ///
    /// # Errors
    /// The system's, if there is no thread to be had.
    pub(super) fn start(output: impl AsFd + Send + 'static, dropped: IntCounter) -> io::Result<Self> {
        let queue = Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), dropped });
        let lines = Self(Arc::clone(&queue));
        std::thread::Builder::new().name("log".to_owned()).spawn(move || queue.write_all(&output))?;
        Ok(lines)
    }

    /// Appends one line, with its line break. Never blocks.
    pub(super) fn append(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        if state.waiting.len().saturating_add(line.len()) > MOST {
            drop(state);
            self.0.lose(1);
            return;
        }
        state.waiting.extend_from_slice(line);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, but no longer than `limit`. Whether they are.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let over = (Instant::now() + limit).into_std();
        let mut state = self.0.state.lock();
        while !state.waiting.is_empty() || state.writing {
            if self.0.changed.wait_until(&mut state, over).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Queue {
    fn lose(&self, lines: u64) {
        self.dropped.inc_by(lines);
        let mut state = self.state.lock();
        state.lost = state.lost.saturating_add(lines);
    }

    fn write_all(&self, output: &impl AsFd) {
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() {
                self.changed.wait(&mut state);
            }
            let bytes = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            match write(output, &bytes) {
                Ok(()) => {
                    let lost = std::mem::take(&mut self.state.lock().lost);
                    if lost > 0 {
                        tracing::warn!(lost, "lines of the log were lost: standard error did not take them in time");
                    }
                }
                Err(_) => self.lose(bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()),
            }
            self.state.lock().writing = false;
            self.changed.notify_all();
        }
    }
}

/// Writes all of it, however long that takes.
fn write(output: &impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Another process that has the same pipe or terminal made it non-blocking.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(output, PollFlags::OUT)], None)?),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The subscriber writes one line at a time.
impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A line that is not to be logged is empty.
        if !line.is_empty() {
            self.append(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::OwnedFd;

    use nbd_gateway_metrics::Metrics;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn started() -> (Lines, BufReader<File>, IntCounter) {
        let (read, write) = io::pipe().unwrap();
        let dropped = Metrics::new("0").unwrap().log_dropped();
        (Lines::start(write, dropped.clone()).unwrap(), BufReader::new(File::from(OwnedFd::from(read))), dropped)
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let (lines, mut read, dropped) = started();
        for n in 0..1000 {
            lines.append(format!("line {n}\n").as_bytes());
        }
        for n in 0..1000 {
            let mut line = String::new();
            read.read_line(&mut line).unwrap();
            assert_eq!(line, format!("line {n}\n"));
        }
        assert!(lines.flush(LIMIT));
        assert_eq!(dropped.get(), 0);
    }

    /// The pipe holds 64 KiB: what comes after that and after what may wait is dropped, at once.
    #[test]
    fn an_output_that_nobody_reads_holds_nobody_up_and_takes_a_bounded_number_of_bytes() {
        let (lines, mut read, dropped) = started();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..10_000 {
            lines.append(&line);
        }
        assert!(!lines.flush(Duration::from_millis(1)), "nobody reads");
        assert!(lines.0.state.lock().waiting.len() <= MOST);
        let kept = 10_000 - dropped.get();
        assert!((1024..=3 * 1024).contains(&kept), "{kept} lines were kept");
        for _ in 0..kept {
            let mut line = String::new();
            read.read_line(&mut line).unwrap();
            assert_eq!(line.len(), 1024);
        }
        lines.append(b"on\n");
        let mut on = [0; 3];
        read.read_exact(&mut on).unwrap();
        assert_eq!((&on, lines.flush(LIMIT)), (b"on\n", true));
    }

    #[test]
    fn an_output_that_is_broken_costs_its_lines_and_no_more() {
        let (lines, read, dropped) = started();
        drop(read);
        lines.append(b"one\ntwo\n");
        assert!(lines.flush(LIMIT));
        lines.append(b"three\n");
        assert!(lines.flush(LIMIT));
        assert_eq!((dropped.get(), lines.0.state.lock().lost), (3, 3));
    }
}
