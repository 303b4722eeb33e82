//! Deterministic simulation: a gateway between scripted clients and a scripted server, in one thread and virtual time.
//!
//! Sessions, lanes, exports, the coordinator and the ledger are the real ones, on real sockets. A seed decides everything
//! else: configuration, requests, delays, errors, cuts, crashes, kills of the gateway. [`checker`] compares replies with what the server executed.
//! A seed that violates a promise is printed with the command that replays it.
//!
//! The same seed has the same history, because: a current-thread runtime polls tasks in the order of their wake-ups; the
//! kernel reports sockets in the order of their events; the paused clock only moves when no task can run; every `select!`
//! is biased; values with several followers are [`OrderedWatch`](crate::ordered_watch::OrderedWatch)es; no other thread
//! takes part.

#![expect(clippy::as_conversions, reason = "sizes and counts of a simulation are small")]

mod checker;
mod client;
mod disk;
mod history;
mod killed;
mod random;
mod scene;
mod server;
mod transcripts;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use random::Random;
use scene::{FalseClaim, Phase, Scene};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    fingerprint: u64,
    steps: u64,
    violation: Option<String>,
}

/// Time for all open requests once no faults are injected: a hold, a guard and a resize.
const CALM: Duration = Duration::from_secs(120);
/// Limit of a whole simulation.
const LIMIT: Duration = Duration::from_secs(1800);

thread_local! {
    /// A panic of any task of this thread.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether the export is handed over to itself now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandOvers {
    None,
    Many,
}

/// Runs the simulation of one seed. With `verbose`, it prints each event.
fn simulate(seed: u64, claim: FalseClaim, hand_overs: HandOvers, verbose: bool) -> Outcome {
    let (outcome, panicked) = in_virtual_time(async |directory| run(seed, claim, hand_overs, directory, verbose).await);
    Outcome { violation: panicked.or(outcome.violation), ..outcome }
}

/// Runs `act` in this thread, with a directory for sockets. With its result the panic of any task.
fn in_virtual_time<T>(act: impl AsyncFnOnce(PathBuf) -> T) -> (T, Option<String>) {
    record_panics();
    let directory = Directory::new();
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let result = runtime.block_on(act(directory.0.clone()));
    (result, PANIC.take())
}

fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with(|panicked| *panicked.borrow_mut() = Some(info.to_string()));
            before(info);
        }));
    });
}

async fn run(seed: u64, claim: FalseClaim, hand_overs: HandOvers, directory: PathBuf, verbose: bool) -> Outcome {
    let mut random = Random::new(seed);
    let scene = Scene::new(&mut random, claim, &directory, verbose);
    let world = scene.world().clone();
    let mut violation = world.lock().history.first_violation();
    tokio::spawn(server::run(world.clone(), directory, random.split()));
    if hand_overs == HandOvers::Many {
        tokio::spawn(hand_over(scene.clone(), random.clone()));
    }
    let whole = timeout(LIMIT, act(scene.clone(), random));
    tokio::select! {
        // A violation first: it ends the simulation.
        biased;
        _ = violation.wait_for(Option::is_some) => {}
        ended = whole => if ended.is_err() {
            scene.violated(format_args!("the simulation did not end within {LIMIT:?}"));
        }
    }
    let world = world.lock();
    let violation = violation.borrow().clone();
    Outcome { fingerprint: world.history.fingerprint(), steps: world.history.now(), violation }
}

async fn act(scene: Scene, mut random: Random) {
    let mut clients = JoinSet::new();
    for number in 1..=random.between(2, 4) {
        let actions = random.between(10, 60);
        clients.spawn(client::run(scene.clone(), number, actions, random.split()));
    }
    let faults = tokio::spawn(inject_faults(scene.clone(), random.split()));
    let _ = faults.await;
    scene.note(format_args!("no more faults"));
    sleep(Duration::from_secs(random.below(30))).await;
    scene.note(format_args!("no more requests"));
    scene.enter(Phase::Quiet);
    sleep(CALM).await;
    scene.enter(Phase::Still);
    while clients.join_next().await.is_some() {}
    end(&scene, random.percent(50)).await;
}

/// Cuts connections, crashes, shuts down and restarts the server, grows its disk, and kills the gateway.
async fn inject_faults(scene: Scene, mut random: Random) {
    let world = scene.world().clone();
    for _ in 0..random.below(12) {
        sleep(Duration::from_millis(random.pick(&[1, 20, 300, 2_000, 10_000]))).await;
        match random.below(13) {
            0..5 => world.lock().cut_one(&mut random),
            5..8 => {
                world.lock().crash(&mut random);
                sleep(Duration::from_millis(random.pick(&[0, 0, 5, 500, 5_000, 45_000]))).await;
                world.lock().start();
            }
            8 if !scene.reads_ahead() => {
                let more = random.between(1, 4) as usize * 4;
                world.lock().grow_outside(more);
            }
            9 => {
                world.lock().leave();
                sleep(Duration::from_millis(random.pick(&[5, 500, 5_000]))).await;
                world.lock().crash(&mut random);
                sleep(Duration::from_millis(random.pick(&[0, 5, 5_000]))).await;
                world.lock().start();
            }
            _ => {
                scene.kill_gateway().await;
                sleep(Duration::from_millis(random.pick(&[0, 0, 50, 3_000]))).await;
                scene.begin_gateway();
                scene.note(format_args!("gateway is up"));
            }
        }
    }
    sleep(Duration::from_secs(random.below(20))).await;
    world.lock().server.faultless = true;
}

/// Hands the export over to itself, at any moment of what clients and the server do.
async fn hand_over(scene: Scene, mut random: Random) {
    while scene.phase() < Phase::Still {
        sleep(Duration::from_millis(random.pick(&[0, 1, 2, 5, 30, 300, 3_000]))).await;
        for _ in 0..random.below(8) {
            yield_now().await;
        }
        match scene.hand_over().await {
            Some(sessions) => scene.note(format_args!("handed over with {sessions} sessions")),
            None => scene.note(format_args!("not handed over")),
        };
    }
}

/// All clients have left: nothing may remain.
async fn end(scene: &Scene, drains: bool) {
    if drains {
        scene.drain();
    }
    // Guards expire, and the server answers the last requests.
    sleep(CALM).await;
    if scene.sessions() > 0 {
        scene.violated(format_args!("{} sessions remain", scene.sessions()));
    }
    let Some(registry) = scene.registry() else { return };
    if timeout(CALM, registry.close_all()).await.is_err() {
        scene.violated(format_args!("an export is not closed after {CALM:?}"));
    }
    registry.ledger().close().await;
    scene.enter(Phase::Over);
    scene.note(format_args!("over"));
}

/// A directory for the server's socket.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nbd-gateway-simulation-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The seeds to run.
fn seeds() -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().unwrap());
    let first = number("NBD_GATEWAY_SEED").unwrap_or(0);
    let count = number("NBD_GATEWAY_SEEDS").unwrap_or(250);
    first..first + count
}

/// Runs seeds in parallel until one violates a promise. Returns that seed and the violation.
fn first_violation(seeds: Range<u64>, claim: FalseClaim, hand_overs: HandOvers) -> Option<(u64, String)> {
    let verbose = seeds.end - seeds.start == 1;
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<BTreeMap<u64, String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while found.lock().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if let Some(violation) = simulate(seed, claim, hand_overs, verbose).violation {
                        found.lock().insert(seed, violation);
                    }
                }
            });
        }
    });
    found.into_inner().pop_first()
}

#[test]
fn no_seed_violates_a_promise() {
    try_seeds(seeds(), HandOvers::None, "no_seed_violates_a_promise");
}

#[test]
fn handing_over_at_any_moment_violates_no_promise() {
    // Each takes as long as several without hand-overs.
    let Range { start, end } = seeds();
    try_seeds(start..start + (end - start).div_ceil(4), HandOvers::Many, "handing_over");
}

fn try_seeds(seeds: Range<u64>, hand_overs: HandOvers, test: &str) {
    if let Some((seed, violation)) = first_violation(seeds, FalseClaim::Nothing, hand_overs) {
        panic!(
            "seed {seed} violates a promise: {violation}\nreplay it: NBD_GATEWAY_SEED={seed} NBD_GATEWAY_SEEDS=1 \
             cargo test -p nbd-gateway --lib simulation::{test} -- --nocapture"
        );
    }
}

#[test]
fn the_same_seed_has_the_same_history() {
    for seed in 0..20 {
        for hand_overs in [HandOvers::None, HandOvers::Many] {
            let again = || simulate(seed, FalseClaim::Nothing, hand_overs, false);
            assert_eq!(again(), again(), "seed {seed}, hand-overs: {hand_overs:?}");
        }
    }
}

#[test]
fn simulations_find_the_consequences_of_a_false_statement_about_the_server() {
    for (claim, what) in [
        (FalseClaim::NoLateWrites, &["which began after it had ended", "ended before that began", "undid"][..]),
        (FalseClaim::Durable, &["before a FLUSH that was"]),
        (FalseClaim::Zeroed, &["unzeroed data was read"]),
    ] {
        let found = first_violation(0..2000, claim, HandOvers::None);
        let known = |violation: &str| what.iter().any(|what| violation.contains(what));
        assert!(found.as_ref().is_some_and(|(_, violation)| known(violation)), "{claim:?}: {found:?}");
    }
}
