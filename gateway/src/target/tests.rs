//! A target in front of another one, as what reads ahead would be.

use std::path::Path;
use std::sync::Arc;

use nbd_gateway_config::{Config, Driver};
use nbd_gateway_proto::handshake::BlockSizes;
use nbd_gateway_proto::{Cmd, CmdFlags, Payload};
use parking_lot::Mutex;

use super::embedded::Embedded;
use super::*;
use crate::embedded::EmbeddedDisk;
use crate::fault::Fault;
use crate::request::Request;

/// Writes down what passes, and passes it on.
#[derive(Debug)]
struct Recorder {
    behind: Embedded,
    seen: Mutex<Vec<String>>,
}

impl Recorder {
    fn saw(&self, what: String) {
        self.seen.lock().push(what);
    }
}

impl Target for Recorder {
    fn facts(&self) -> &Facts {
        self.behind.facts()
    }

    fn submit(&self, origin: Origin, jobs: &mut Vec<Job>, finished: &mut Finished) {
        let commands: Vec<String> = jobs.iter().map(|job| job.request.command.to_string()).collect();
        self.saw(format!("{origin:?}: {}", commands.join(" ")));
        self.behind.submit(origin, jobs, finished);
    }

    fn lower_end(&self, end: u64) {
        self.saw(format!("end {end}"));
    }

    fn ranges_of(&self, session: SessionId) -> Vec<(Cookie, ByteRange)> {
        self.behind.ranges_of(session)
    }

    fn read_size(&self, purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        self.behind.read_size(purpose)
    }

    fn set_size(&self, size: u64) -> Pending<'_, Result<u64, DiskError>> {
        self.behind.set_size(size)
    }

    fn close<'a>(&'a self, export: &'a ExportName) -> Pending<'a, ()> {
        self.saw("closed".to_owned());
        self.behind.close(export)
    }
}

#[tokio::test]
async fn a_target_in_front_of_another_sees_every_request_the_lowered_end_and_the_close() {
    let text =
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"e\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n";
    let config = Config::parse(text, Path::new("config.toml")).unwrap().export_for("e").unwrap();
    let behind = Embedded::new(EmbeddedDisk::memory(1 << 20).unwrap(), &Driver::Origin);
    let recorder = Arc::new(Recorder { behind, seen: Mutex::default() });
    let size = recorder.facts().size;
    let core = Core::new(&config, Arc::<Recorder>::clone(&recorder), Arc::new(View::new(size)));
    let request = |command, payload: Payload| {
        let length = 512;
        Request { command, flags: CmdFlags::NONE, offset: 4096, length, payload }
    };
    let write = request(Cmd::WRITE, vec![7; 512].into());
    assert!(matches!(core.call(write).await, Outcome::Done));
    let (job, read) = Job::for_task(request(Cmd::READ, Payload::empty()));
    core.bridge(SessionId::after(3), job);
    assert!(matches!(read.await.unwrap(), Outcome::Found(_)));
    core.lower_end(1 << 19);
    core.drained_beyond(1 << 19).await;
    assert_eq!(core.set_size(1 << 19).await.unwrap(), 1 << 19);
    assert_eq!((core.read_size(Purpose::Resize).await.unwrap(), core.disk()), (1 << 19, 1 << 19));
    core.close().await;
    let seen = recorder.seen.lock();
    assert_eq!(*seen, ["Gateway: NBD_CMD_WRITE", "Session(SessionId(4)): NBD_CMD_READ", "end 524288", "closed"]);
}

/// Takes requests, and answers none before it is let.
#[derive(Debug)]
struct Parked {
    facts: Facts,
    jobs: Mutex<Vec<Job>>,
}

impl Target for Parked {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn submit(&self, _origin: Origin, jobs: &mut Vec<Job>, _finished: &mut Finished) {
        self.jobs.lock().append(jobs);
    }

    fn ranges_of(&self, _session: SessionId) -> Vec<(Cookie, ByteRange)> {
        Vec::new()
    }

    fn read_size(&self, _purpose: Purpose) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(self.facts.size) })
    }

    fn close<'a>(&'a self, _export: &'a ExportName) -> Pending<'a, ()> {
        Box::pin(async {})
    }
}

/// They were zeroed over what the next client had written there.
#[tokio::test]
async fn the_edges_of_zeroes_whose_client_left_during_the_middle_are_not_touched() {
    let text =
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[export]]\nname = \"e\"\nbackend = \"memory:\"\nsize = \"1MiB\"\n";
    let config = Config::parse(text, Path::new("config.toml")).unwrap().export_for("e").unwrap();
    let disk = Embedded::new(EmbeddedDisk::memory(1 << 20).unwrap(), &Driver::Origin);
    let block_sizes = Some(BlockSizes { minimum: 4096, preferred: 4096, maximum: 1 << 20 });
    let facts = Facts { block_sizes, ..disk.facts().clone() };
    let parked = Arc::new(Parked { facts, jobs: Mutex::default() });
    let core = Core::new(&config, Arc::<Parked>::clone(&parked), Arc::new(View::new(1 << 20)));
    for leaves in [false, true] {
        let (job, outcome) = Job::for_task(Request::new(Cmd::WRITE_ZEROES, CmdFlags::NONE, 512, 3 * 4096));
        core.bridge(SessionId::after(3), job);
        tokio::task::yield_now().await;
        let middle = parked.jobs.lock().pop().unwrap();
        assert_eq!((middle.request.command, middle.request.offset), (Cmd::WRITE_ZEROES, 4096));
        let _stays = (!leaves).then_some(outcome);
        middle.finish(Outcome::Done, &mut Finished::default());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let first_edge = parked.jobs.lock().pop().map(|job| job.request.command);
        assert_eq!(first_edge, (!leaves).then_some(Cmd::READ));
    }
}
