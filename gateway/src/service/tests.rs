//! A socket in the manager's place, and shards that hang.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::UnixDatagram;

use super::environment::{Environment, EnvironmentError};
use super::pulse::Round;
use super::*;

/// A manager's socket, with an abstract name that nobody else has.
struct Ear {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Ear {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("nbd-gateway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: UnixDatagram::from_std(socket).unwrap(), address }
    }

    async fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

/// Holds a shard until it is dropped.
fn hang(shards: &Shards, number: usize) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    shards.all().nth(number).unwrap().spawn(async move {
        let _ = released.recv();
    });
    release
}

fn quiet() -> ServiceStatus {
    ServiceStatus { draining: false, exports: 1, sessions: 0, over_quota: 0 }
}

#[test]
fn the_address_is_a_path_or_an_abstract_name() {
    let read = |text: &str| Environment { socket: Some(text.into()), ..Environment::default() }.address();
    assert_eq!(read("/run/x").unwrap().unwrap().as_pathname(), Some(PathBuf::from("/run/x").as_path()));
    assert_eq!(read("@a/b").unwrap().unwrap().as_abstract_name(), Some(b"a/b".as_slice()));
    assert!(read("").unwrap().is_none());
    assert!(Environment::default().address().unwrap().is_none());
    for wrong in ["vsock:2:1234".to_owned(), "run/x".to_owned(), format!("/{}", "x".repeat(200))] {
        assert_eq!(read(&wrong).unwrap_err(), EnvironmentError::Address(OsString::from(wrong)));
    }
}

#[test]
fn the_watchdog_is_that_of_this_process() {
    let read = |usec: &str, of: Option<&str>| {
        let (watchdog, watchdog_of) = (Some(usec.into()), of.map(OsString::from));
        Environment { watchdog, watchdog_of, own: 7, socket: None }.watchdog()
    };
    assert_eq!(read("1500000", None), Ok(Some(Duration::from_millis(1500))));
    assert_eq!(read("1500000", Some("7")), Ok(Some(Duration::from_millis(1500))));
    assert_eq!(read("1500000", Some("8")), Ok(None));
    assert_eq!((read("", None), read("0", None)), (Ok(None), Ok(None)));
    assert_eq!(Environment::default().watchdog(), Ok(None));
    assert_eq!(read("30s", None), Err(EnvironmentError::Watchdog("30s".into())));
}

#[tokio::test]
async fn the_way_of_a_process_is_told_in_the_words_of_sd_notify() {
    let ear = Ear::new();
    let service = Service::at(ear.address.clone(), None);
    service.ready().await;
    assert_eq!(ear.hear().await, "READY=1\n");
    let clock = || Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap().as_micros();
    let before = clock();
    service.reloading().await;
    let told = ear.hear().await;
    let told = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    let (at, rest) = told.split_once('\n').unwrap();
    assert!((before..=clock()).contains(&at.parse().unwrap()), "{before} {at}");
    assert_eq!(rest, "STATUS=reading the configuration anew\n");
    service.ready().await;
    assert_eq!(ear.hear().await, "READY=1\n");
    service.stopping(Duration::from_secs(30)).await;
    assert_eq!(ear.hear().await, "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\n");
}

#[tokio::test(start_paused = true)]
async fn the_sentence_is_told_when_it_is_another() {
    let ear = Ear::new();
    let service = Service::at(ear.address.clone(), None);
    let sessions = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&sessions);
    let look = move || {
        let looks = seen.fetch_add(1, Ordering::Relaxed);
        // Four looks each see the same.
        ServiceStatus { sessions: looks / 4, ..quiet() }
    };
    let tending = tokio::spawn(service.clone().tend(Shards::here(), look));
    for expected in ["0 sessions", "1 session", "2 sessions"] {
        assert_eq!(ear.hear().await, format!("STATUS=taking clients; 1 export open, {expected}\n"));
    }
    tending.abort();
}

#[tokio::test]
async fn there_is_no_sign_of_life_while_a_shard_hangs() {
    let ear = Ear::new();
    let shards = Shards::start(3).unwrap();
    // In half of it a shard that is not held answers on a busy machine too.
    let service = Service::at(ear.address.clone(), Some(Duration::from_secs(1)));
    let (one, two) = (hang(&shards, 1), hang(&shards, 2));
    let tending = tokio::spawn(service.tend(shards, quiet));
    assert_eq!(ear.hear().await, "STATUS=taking clients; 1 export open, 0 sessions\n");
    assert_eq!(ear.hear().await, "STATUS=no answer of shard-1, shard-2\n");
    drop(one);
    // With the next look at the sentence, long after several rounds would have been.
    assert_eq!(ear.hear().await, "STATUS=taking clients; 1 export open, 0 sessions; no answer of shard-1, shard-2\n");
    drop(two);
    assert_eq!(ear.hear().await, "WATCHDOG=1\n");
    assert_eq!(ear.hear().await, "WATCHDOG=1\n");
    tending.abort();
}

#[tokio::test]
async fn a_shard_that_has_ended_never_answers() {
    let shards = Shards::start(1).unwrap();
    let mut round = Round::ask(&shards);
    round.answered().await;
    assert!(round.silent().is_empty());
    // Its runtime drops what it is asked.
    let mut round = Round::unheard(2);
    tokio::select! {
        biased;
        () = round.answered() => panic!("{:?}", round.silent()),
        () = std::future::ready(()) => assert_eq!(round.silent(), [0, 1]),
    }
}

#[tokio::test]
async fn a_manager_that_is_not_there_is_no_hindrance() {
    let service = Service::at(SocketAddr::from_pathname("/nonexistent/notify").unwrap(), None);
    service.ready().await;
    service.stopping(Duration::ZERO).await;
    Service::none().ready().await;
}
