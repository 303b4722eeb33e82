//! Promise: no growth takes a tenant's files over its quota, whatever is killed when; and when all is well again, the books
//! are what the files are.
//!
//! Chance decides who wants which size, and what breaks. `NBD_GATEWAY_CHAOS_SECONDS` is how long it goes on (20 if absent),
//! `NBD_GATEWAY_CHAOS_SEED` repeats what a run has printed, as far as timing lets it.

mod actor;
pub(crate) mod diary;
pub(crate) mod dice;
mod full;
mod rest;
mod server;
pub(crate) mod storm;
mod town;
mod witness;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actor::Actor;
use diary::Diary;
use dice::Dice;
use storm::Storm;
use town::{Export, Town};
use witness::Witness;

use crate::trouble::{Trouble, ensure};

/// How many want something at a time.
const ACTORS: usize = 6;

/// How long it goes on between two rests.
const ROUND: Duration = Duration::from_secs(10);

#[test]
fn files_stay_within_quotas_and_books_are_right_whatever_is_killed_when() -> Result<(), Trouble> {
    let seconds = number("NBD_GATEWAY_CHAOS_SECONDS").unwrap_or(20);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("NBD_GATEWAY_CHAOS_SEED").unwrap_or(now.subsec_nanos().into());
    eprintln!("NBD_GATEWAY_CHAOS_SEED={seed} NBD_GATEWAY_CHAOS_SECONDS={seconds}");
    let ((mut town, exports), diary, witness) = (Town::build()?, Diary::new(), Witness::default());
    let outcome = run(&mut town, &exports, &diary, &witness, seed, Duration::from_secs(seconds));
    let samples = witness.samples.load(Ordering::Relaxed);
    eprintln!("{samples} samples; the fullest tenant had {} of 1000", witness.fullest.load(Ordering::Relaxed));
    outcome.map_err(|trouble| {
        Trouble::new(format!("NBD_GATEWAY_CHAOS_SEED={seed} NBD_GATEWAY_CHAOS_SECONDS={seconds}\n{trouble}"))
            .with(format!("--- the gateway's log:\n{}", town.gateway.log_tail(150)))
    })?;
    // A run in which nothing came near its bound would prove nothing.
    ensure(samples > 100 && witness.fullest.load(Ordering::Relaxed) > 800, || "nobody wanted anything".into())
}

fn run(
    town: &mut Town,
    exports: &[Export],
    diary: &Diary,
    witness: &Witness,
    seed: u64,
    time: Duration,
) -> Result<(), Trouble> {
    let mut dice = Dice::new(seed);
    // An export that no gateway ever opened counts nowhere.
    rest::settle(town, exports)?;
    let end = Instant::now() + time;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| witness.look(exports, diary, &stop));
        let mut rounds = || {
            while Instant::now() < end {
                round(town, exports, diary, &mut dice, end.min(Instant::now() + ROUND))?;
            }
            Ok(())
        };
        let outcome = rounds();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// A storm, and the rest after it.
fn round(town: &mut Town, exports: &[Export], diary: &Diary, dice: &mut Dice, end: Instant) -> Result<(), Trouble> {
    let (way, stop) = (town.way.clone(), AtomicBool::new(false));
    let mut storm = Storm::default();
    let blown = thread::scope(|scope| {
        for number in 0..ACTORS {
            let actor = Actor { name: format!("actor {number}"), exports, way: &way, diary };
            let dice = dice.split();
            let stop = &stop;
            scope.spawn(move || actor.act(dice, stop));
        }
        let blown = storm.blow(town, diary, dice, end);
        // Also those who wait for something broken come to an end.
        let healed = storm.heal(town, diary, Instant::now() + Duration::from_secs(3600));
        stop.store(true, Ordering::Relaxed);
        blown.and(healed)
    });
    blown.and_then(|()| storm.end(town, diary))?;
    diary.note("storm", "rest");
    let settled = rest::settle(town, exports).map_err(|trouble| trouble.with(diary.recent()));
    diary.check()?;
    settled
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a whole number"))
}
