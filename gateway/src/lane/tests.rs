//! A lane with a backend of a few bytes at the other end of a socket pair.

mod late;

use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_net::{Address, Pool, Stream};
use nbd_gateway_proto::handshake::client::Negotiated;
use nbd_gateway_proto::{BUFFER, Buffers, Cmd, CmdFlags, ExportFlags, Framing, Inbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::*;
use crate::fault::Fault;
use crate::request::{Outcome, Request};

struct Nobody;

impl Owner for Nobody {
    fn fits(&self, _: &Negotiated) -> Result<(), Fault> {
        Ok(())
    }
    fn up(&self, _: &Negotiated) {}
    fn lost(&self) {}
    fn unreachable(&self, _: &str) {}
}

/// A lane in its task, the backend's end of its connection, and what ends the lane.
pub(super) fn connected(pool: &Arc<Pool>) -> (Arc<Lane>, UnixStream, watch::Sender<bool>) {
    let (stream, backend) = UnixStream::pair().unwrap();
    let negotiated = Negotiated {
        size: 1 << 20,
        flags: ExportFlags::HAS_FLAGS,
        framing: Framing::Simple,
        contexts: Vec::new(),
        contexts_left_out: 0,
        block_sizes: None,
        name: None,
        description: None,
        resize: None,
    };
    let (end, ending) = watch::channel(false);
    let lane = Lane::new(Arc::default(), Arc::default());
    let first = Connected { negotiated, stream: Stream::Unix(stream), inbox: Inbox::default(), link: Link::new(None) };
    tokio::spawn(run(Arc::clone(&lane), first, life(pool, ending)));
    (lane, backend, end)
}

pub(super) fn life(pool: &Arc<Pool>, end: watch::Receiver<bool>) -> Life {
    Life {
        dialer: Dialer {
            address: Address::Unix("/nonexistent/socket".into()),
            export: String::new(),
            tls: None,
            limit: Duration::from_secs(1),
            plain: false,
        },
        policy: OnLoss { hold: Duration::ZERO, durable: false },
        contexts: Vec::new(),
        owner: Arc::new(Nobody),
        end,
        pool: Arc::clone(pool),
        hurry: Arc::default(),
        name: "test".to_owned(),
    }
}

#[tokio::test]
async fn an_idle_lane_holds_no_receive_buffer() {
    let pool = Arc::new(Pool::new(1));
    let buffer = pool.fresh();
    let address = buffer.as_ptr();
    pool.retire(buffer);
    let (lane, mut backend, _end) = connected(&pool);
    let request = Request::new(Cmd::READ, CmdFlags::NONE, 0, 512);
    let (job, outcome) = Job::for_task(request);
    lane.submit(&mut vec![job], &mut Finished::default());
    let mut header = [0; 28];
    backend.read_exact(&mut header).await.unwrap();
    backend.write_all(&[&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &header[8..16], &[7; 512]].concat()).await.unwrap();
    assert!(matches!(outcome.await, Ok(Outcome::Found(_))));
    tokio::task::yield_now().await;
    // What is left of the one buffer that there is; otherwise a new one.
    let again = pool.fresh();
    assert!((address.addr()..address.addr() + BUFFER).contains(&again.as_ptr().addr()));
}

/// It was forgotten: the next opening took the size that it read for settled.
#[tokio::test]
async fn a_lane_that_ends_leaves_a_resize_that_its_coordinator_has_given_up_to_the_next_opening() {
    let (lane, mut backend, end) = connected(&Arc::new(Pool::new(1)));
    lane.late.set_guard(Duration::from_secs(10));
    let (job, outcome) = Job::for_task(Request::new(Cmd::RESIZE, CmdFlags::NONE, 512, 0));
    lane.submit(&mut vec![job], &mut Finished::default());
    backend.read_exact(&mut [0; 28]).await.unwrap();
    assert!(lane.late.outstanding().is_none());
    drop(outcome);
    end.send_replace(true);
    backend.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(lane.late.has_resize() && lane.late.outstanding().is_some());
}

fn read(offset: u64) -> (Job, tokio::sync::oneshot::Receiver<Outcome>) {
    let request = Request::new(Cmd::READ, CmdFlags::NONE, offset, 512);
    Job::for_task(request)
}

#[tokio::test]
async fn a_lane_is_taken_aside_after_its_last_answer_and_what_comes_then_waits() {
    let (lane, mut backend, end) = connected(&Arc::new(Pool::new(1)));
    let (first, answered) = read(0);
    lane.submit(&mut vec![first], &mut Finished::default());
    let mut header = [0; 28];
    backend.read_exact(&mut header).await.unwrap();
    let aside = tokio::spawn({
        let lane = Arc::clone(&lane);
        async move { lane.step_aside().await }
    });
    tokio::task::yield_now().await;
    assert!(!aside.is_finished(), "gone before its request was answered");
    backend.write_all(&[&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &header[8..16], &[7; 512]].concat()).await.unwrap();
    assert!(matches!(answered.await, Ok(Outcome::Found(_))));
    aside.await.unwrap();
    let mut rest = Vec::new();
    backend.read_to_end(&mut rest).await.unwrap();
    assert_eq!((rest.len(), &rest[6..8]), (28, &[0, 2][..]), "a DISC, and nothing more");
    let (later, mut waits) = read(512);
    lane.submit(&mut vec![later], &mut Finished::default());
    tokio::task::yield_now().await;
    assert!(waits.try_recv().is_err(), "answered without a connection");
    end.send_replace(true);
    assert!(matches!(waits.await, Ok(Outcome::Failed(_))));
}
