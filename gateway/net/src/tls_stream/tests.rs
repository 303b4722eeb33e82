//! Streams inside TLS against each other over a socket pair: what is moved, what waits, and how it ends.

use std::sync::atomic::{AtomicU32, Ordering};

use nbd_gateway_tests::pki::Ca;
use tokio::net::UnixStream;

use super::*;
use crate::{Batch, Outbox, Written};
use nbd_gateway_proto::Payload;

/// A directory that is gone after the test.
struct Place(std::path::PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nbd-gateway-net-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Both ends of a connection: the listener's and the client's.
async fn pair() -> (TlsStream, TlsStream) {
    let place = Place::new();
    let ca = Ca::new("ca");
    ca.listener(&place.0, &["h"]);
    ca.client(&place.0, "blue");
    let listener = ListenerTls::open(&place.0, true, true, None).unwrap();
    let backend = BackendTls::open(Some(&place.0), "h", true, None).unwrap();
    again(&listener, &backend).await
}

async fn again(listener: &ListenerTls, backend: &BackendTls) -> (TlsStream, TlsStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (ours, theirs) = tokio::join!(
        TlsStream::accept(Stream::Unix(ours), listener),
        TlsStream::connect(Stream::Unix(theirs), backend)
    );
    let (ours, certificate) = ours.unwrap();
    assert_eq!(certificate.unwrap().subject, "CN=blue,O=Example");
    let (Stream::Tls(ours), Stream::Tls(theirs)) = (ours, theirs.unwrap()) else { panic!("no TLS") };
    (*ours, *theirs)
}

/// The listener's writing half and the client's reading half; the other two keep the connection open.
async fn one_way() -> (TlsWrite, TlsRead, impl Sized) {
    let (ours, theirs) = pair().await;
    let ((keep, write), (read, open)) = (ours.split(), theirs.split());
    (write, read, (keep, open))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

/// What comes, up to `length` bytes or the end.
async fn receive(read: &mut TlsRead, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let mut buffer = BytesMut::with_capacity(4096.min(length - all.len()));
        let most = buffer.capacity();
        let got = std::future::poll_fn(|cx| read.poll_fill(cx, &mut buffer)).await.unwrap();
        assert_eq!((got, buffer.capacity()), (buffer.len(), most), "only the room that there is");
        if got == 0 {
            break;
        }
        all.extend_from_slice(&buffer);
    }
    all
}

/// What the task of a session or a lane does when its socket is full.
async fn write_out(outbox: &Outbox, released: &mut u64) {
    loop {
        if outbox.is_blocked() {
            std::future::poll_fn(|cx| outbox.poll_room(cx)).await.unwrap();
        }
        match outbox.flush().0 {
            Written::Progress(more) => *released += more.bytes,
            Written::Broken(error, _) => panic!("{error}"),
        }
        if !outbox.is_blocked() {
            return;
        }
    }
}

#[tokio::test]
async fn what_many_slices_hold_arrives_in_order_through_a_socket_that_is_often_full() {
    let (write, mut read, _others) = one_way().await;
    let outbox = Outbox::default();
    outbox.connect(WriteHalf::Tls(write));
    let mut sent = Vec::new();
    for n in 0..300usize {
        let (head, body) = (pattern(n % 40), pattern(n * 97 % 20_000));
        outbox.append(|batch: &mut Batch| {
            batch.head(|out| out.extend_from_slice(&head));
            batch.body(&Payload::from(bytes::Bytes::from(body.clone())));
            let bytes = u64::try_from(body.len()).unwrap();
            batch.release(crate::Released { requests: 1, bytes, ..crate::Released::default() });
        });
        sent.extend([head, body].concat());
    }
    let mut released = 0;
    let length = sent.len();
    let (got, ()) = tokio::join!(receive(&mut read, length), write_out(&outbox, &mut released));
    assert!(got == sent, "other bytes");
    assert!(outbox.is_empty());
    assert_eq!(released, (0..300u64).map(|n| n * 97 % 20_000).sum::<u64>());
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer_within_the_bound() {
    let (write, mut read, _others) = one_way().await;
    let big = pattern(8 << 20);
    let mut taken = 0;
    let full = loop {
        match write.try_write(&[IoSlice::new(&big[taken..])]) {
            Ok(n) => {
                assert!(n <= BUFFERED, "{n} bytes taken at once");
                taken += n;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(write.try_flush().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(taken < 4 << 20, "{taken} bytes are in the socket and in the buffer");
    let outbox = Outbox::default();
    outbox.connect(WriteHalf::Tls(write));
    outbox.append(|batch: &mut Batch| batch.head(|out| out.extend_from_slice(b"last")));
    assert!(matches!(outbox.flush(), (Written::Progress(_), true)));
    assert!(outbox.is_blocked() && !outbox.is_empty());
    let mut released = 0;
    let (got, ()) = tokio::join!(receive(&mut read, taken + 4), write_out(&outbox, &mut released));
    assert!(got[..taken] == big[..taken] && &got[taken..] == b"last");
}

#[tokio::test]
async fn what_tls_keeps_back_is_written_though_nothing_is_appended() {
    let (write, mut read, _others) = one_way().await;
    // All but the last bytes fill the socket; those are taken by TLS, and the outbox has nothing left.
    let outbox = Outbox::default();
    outbox.connect(WriteHalf::Tls(write));
    let chunk = pattern(64 * 1024);
    let mut sent = 0;
    while !outbox.is_blocked() {
        outbox.append(|batch: &mut Batch| batch.head(|out| out.extend_from_slice(&chunk)));
        sent += chunk.len();
        let _ = outbox.flush();
    }
    assert!(!outbox.is_empty(), "it is not with the kernel");
    let mut released = 0;
    let (got, ()) = tokio::join!(receive(&mut read, sent), write_out(&outbox, &mut released));
    assert_eq!(got.len(), sent);
    assert!(outbox.is_empty());
}

#[tokio::test]
async fn new_keys_change_nothing_for_either_side() {
    let (ours, theirs) = pair().await;
    let (mut read_ours, write_ours) = ours.split();
    let (mut read_theirs, write_theirs) = theirs.split();
    for round in 0..3 {
        for (write, read) in [(&write_ours, &mut read_theirs), (&write_theirs, &mut read_ours)] {
            let text = pattern(1000 + round);
            assert_eq!(write.try_write(&[IoSlice::new(&text)]).unwrap(), text.len());
            assert!(receive(read, text.len()).await == text);
            write.0.connection.lock().refresh_traffic_keys().unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_and_still_knows_who_it_is() {
    let place = Place::new();
    let ca = Ca::new("ca");
    ca.listener(&place.0, &["h"]);
    ca.client(&place.0, "blue");
    let listener = ListenerTls::open(&place.0, true, true, None).unwrap();
    let backend = BackendTls::open(Some(&place.0), "h", true, None).unwrap();
    let kind = |stream: &TlsStream| stream.write.0.connection.lock().handshake_kind();
    let (first, theirs) = again(&listener, &backend).await;
    assert_eq!(kind(&first), Some(rustls::HandshakeKind::Full));
    // The tickets come with the first bytes.
    let (mut read, _write) = theirs.split();
    first.write.try_write(&[IoSlice::new(b"x")]).unwrap();
    receive(&mut read, 1).await;
    let (second, _theirs) = again(&listener, &backend).await;
    assert_eq!(kind(&second), Some(rustls::HandshakeKind::Resumed));
    // A change of the files ends that: what was taken before is looked at again.
    ca.listener(&place.0, &["h"]);
    let (third, _theirs) = again(&listener, &backend).await;
    assert_eq!(kind(&third), Some(rustls::HandshakeKind::Full));
}

#[tokio::test]
async fn goodbye_says_that_nothing_follows_and_a_cut_does_not() {
    for polite in [true, false] {
        let (ours, theirs) = pair().await;
        let (mut read, _open) = theirs.split();
        let outbox = Outbox::default();
        let (_keep, write) = ours.split();
        outbox.connect(WriteHalf::Tls(write));
        outbox.append(|batch: &mut Batch| batch.head(|out| out.extend_from_slice(b"bye")));
        let _ = outbox.flush();
        if polite {
            let _ = outbox.disconnect();
        } else {
            outbox.cut();
        }
        assert_eq!(receive(&mut read, 100).await, b"bye", "then the end");
        let mut rest = [0];
        let said = io::Read::read(&mut read.shared.connection.lock().reader(), &mut rest);
        assert_eq!(said.is_ok_and(|n| n == 0), polite, "close_notify");
    }
}

#[tokio::test]
async fn a_whole_stream_moves_to_another_runtime_with_what_was_received() {
    let (ours, theirs) = pair().await;
    let mut theirs = Stream::Tls(Box::new(theirs));
    theirs.write_all(&pattern(100_000)).await.unwrap();
    let mut ours = Stream::Tls(Box::new(ours));
    let mut first = BytesMut::with_capacity(10);
    assert_eq!(ours.fill(&mut first).await.unwrap(), 10);
    let mut ours = ours.rehome().unwrap();
    let mut rest = BytesMut::from(&first[..]);
    while rest.len() < 100_000 {
        rest.reserve(50_000);
        assert!(ours.fill(&mut rest).await.unwrap() > 0);
    }
    assert!(rest[..] == pattern(100_000));
    theirs.close().await.unwrap();
    assert_eq!(ours.fill(&mut rest).await.unwrap(), 0);
}
