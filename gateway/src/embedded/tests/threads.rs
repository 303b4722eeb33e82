//! The pool: every job ends exactly once, whatever happens on its thread, and nobody waits for another's disk.

use std::fmt::{self, Debug, Formatter};

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::embedded::store::Performed;

const MIB: u64 = 0x10_0000;

#[test]
fn thousands_in_flight_end_exactly_once_each() {
    let directory = Directory::new();
    for disk in [directory.disk(16 * MIB).0, EmbeddedDisk::memory(16 * MIB).unwrap()] {
        let fill = |n: u64| u8::try_from(n % 251).unwrap() + 1;
        let payload = |n: u64| vec![fill(n); 0x1000];
        let mut answers = Vec::new();
        for batch in 0..64 {
            answers.extend(begin(
                &disk,
                (batch * 64..batch * 64 + 64).map(|n| {
                    let fua = CmdFlags::NONE.with_if(CmdFlags::FUA, n % 16 == 0);
                    write(fua, n * 0x1000, payload(n))
                }),
            ));
            answers.extend(begin(&disk, [request(Cmd::FLUSH, CmdFlags::NONE, 0, 0)]));
        }
        // A sender answers once and is gone: a second answer, or none, can't look like this.
        assert_eq!(answers.len(), 4096 + 64);
        for answer in answers {
            assert!(matches!(answer.blocking_recv(), Ok(Outcome::Done)));
        }
        let reads = begin(&disk, (0..4096).map(|n| request(Cmd::READ, CmdFlags::NONE, n * 0x1000, 0x1000)));
        for (n, answer) in (0..).zip(reads) {
            assert!(bytes(answer.blocking_recv().unwrap(), n * 0x1000) == payload(n), "block {n}");
        }
    }
}

#[test]
fn sessions_on_many_threads_share_an_origin() {
    let directory = Directory::new();
    for disk in [directory.disk(8 * MIB).0, EmbeddedDisk::memory(8 * MIB).unwrap()] {
        std::thread::scope(|scope| {
            for session in 0..8_u64 {
                let disk = &disk;
                scope.spawn(move || {
                    let byte = u8::try_from(session + 1).unwrap();
                    for round in 0..8 {
                        // Neighbours in one chunk, so that they contend for it.
                        let at = round * MIB + session * 0x1100;
                        let answers = begin(
                            disk,
                            [
                                write(CmdFlags::NONE, at, vec![byte; 0x1100]),
                                request(Cmd::FLUSH, CmdFlags::NONE, 0, 0),
                                request(Cmd::BLOCK_STATUS, CmdFlags::NONE, 0, 8 * MIB),
                            ],
                        );
                        for answer in answers {
                            assert!(!matches!(answer.blocking_recv().unwrap(), Outcome::Failed(_)));
                        }
                        assert!(read(disk, at, 0x1100) == vec![byte; 0x1100]);
                    }
                });
            }
        });
    }
}

#[test]
fn memory_is_read_and_written_in_the_thread_that_submits() {
    let disk = EmbeddedDisk::memory(16 * MIB).unwrap();
    let at_once = |request: Request| {
        let said = format!("{request:?}");
        begin(&disk, [request]).remove(0).try_recv().unwrap_or_else(|_| panic!("not answered at once: {said}"))
    };
    assert!(matches!(at_once(write(CmdFlags::FUA, 0x1000, vec![7; 0x1_0000])), Outcome::Done));
    assert!(bytes(at_once(request(Cmd::READ, CmdFlags::NONE, 0x1000, 0x1000)), 0x1000) == vec![7; 0x1000]);
    for (command, length) in [(Cmd::TRIM, 0x1000), (Cmd::WRITE_ZEROES, 0x1000), (Cmd::CACHE, MIB), (Cmd::FLUSH, 0)] {
        assert!(matches!(at_once(request(command, CmdFlags::NONE, 0, length)), Outcome::Done), "{command}");
    }
    assert!(bytes(at_once(request(Cmd::READ, CmdFlags::NONE, 0, 0x2000)), 0)[0x1000..] == vec![7; 0x1000]);
    // A long READ looks for holes once, on a thread of the pool; where it found data it is answered at once from then on.
    must(&disk, write(CmdFlags::NONE, 8 * MIB, vec![8; 0x2_0000]));
    assert_eq!(read(&disk, 8 * MIB, 0x1_0000).len(), 0x1_0000);
    assert!(bytes(at_once(request(Cmd::READ, CmdFlags::NONE, 8 * MIB, 0x2_0000)), 8 * MIB) == vec![8; 0x2_0000]);
}

/// A store whose requests wait until it is let go, or panic.
struct Stuck {
    admission: Admission,
    stuck: Mutex<bool>,
    freed: Condvar,
}

impl Stuck {
    fn new(stuck: bool) -> Arc<Self> {
        Arc::new(Self { admission: Admission::new(), stuck: Mutex::new(stuck), freed: Condvar::new() })
    }
}

impl Debug for Stuck {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Stuck")
    }
}

impl Store for Stuck {
    fn admission(&self) -> &Admission {
        &self.admission
    }
    fn facts(&self) -> Facts {
        EmbeddedDisk::memory(self.size()).unwrap().facts()
    }
    fn size(&self) -> u64 {
        MIB
    }
    fn set_size(&self, _: u64) -> Result<u64, DiskError> {
        Err(DiskError::Closed)
    }
    fn at_once(&self, _: &Request, _: &mut u64) -> Option<Outcome> {
        None
    }
    fn perform(&self, request: &Request) -> Performed {
        assert!(request.offset != 13, "a bug in a store");
        let mut stuck = self.stuck.lock();
        while *stuck {
            self.freed.wait(&mut stuck);
        }
        Performed::Answer(Outcome::Done)
    }
    fn settle(&self, task: Task, finished: &mut Finished) {
        task.answer(Outcome::Done, finished);
    }
    fn release(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[test]
fn a_disk_that_hangs_stops_only_itself() {
    let pool = Pool::start(4).unwrap();
    let stuck = Stuck::new(true);
    let hung = EmbeddedDisk { store: Arc::<Stuck>::clone(&stuck), pool: Arc::clone(&pool) };
    let sound = EmbeddedDisk { store: Stuck::new(false), pool };
    let requests = |n| (0..n).map(|_| request(Cmd::READ, CmdFlags::NONE, 0, 1));
    let waiting = begin(&hung, requests(100));
    for answer in begin(&sound, requests(100)) {
        assert!(matches!(answer.blocking_recv(), Ok(Outcome::Done)));
    }
    *stuck.stuck.lock() = false;
    stuck.freed.notify_all();
    for answer in waiting {
        assert!(matches!(answer.blocking_recv(), Ok(Outcome::Done)));
    }
}

#[tokio::test]
async fn a_panic_loses_no_job_no_thread_and_no_count() {
    let disk = EmbeddedDisk { store: Stuck::new(false), pool: Pool::start(1).unwrap() };
    let offsets = [1, 13, 2, 13, 3];
    let answers = begin(&disk, offsets.map(|offset| request(Cmd::READ, CmdFlags::NONE, offset, 1)));
    for (offset, answer) in offsets.into_iter().zip(answers) {
        // A task's sender that is dropped is the news; a client's ticket answers EIO.
        assert_eq!(answer.await.is_err(), offset == 13);
    }
    disk.close().await.unwrap();
}
