//! Promise: no flushed write is ever overwritten by an older one, whatever is cut, killed or stopped, and however late a
//! server's writes land. The checker knows what its clients were told, and nothing of the gateway.
//!
//! Chance decides who writes what, and what goes wrong. `NBD_GATEWAY_CHAOS_SECONDS` is how long it goes on (60 if absent),
//! `NBD_GATEWAY_CHAOS_SEED` repeats what a run has printed, as far as timing lets it.

mod client;
mod model;
mod sector;
mod server;
mod storm;
mod town;
mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::{Client, Seen};
use server::{Kind, LATEST, SECTORS};
use storm::{LONGEST, Storm, Weather};
use town::{Export, Plan, Town};

use crate::chaos::diary::Diary;
use crate::chaos::dice::Dice;
use crate::chaos::number;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// How many clients there are at a time.
const CLIENTS: usize = 8;

/// How long it goes on between two looks at the disks.
const ROUND: Duration = Duration::from_secs(15);

/// More than all that can make a write late, together.
const GUARD: &str = "late-write-guard = \"4s\"";

const PLANS: [Plan; 7] = [
    ("late", Kind::Late, true),
    ("blocks", Kind::LateBlocks, true),
    ("direct", Kind::Late, false),
    ("delay", Kind::Delay, true),
    ("qemu", Kind::QemuNbd, true),
    ("qcow2", Kind::Qcow2, false),
    ("reference", Kind::Reference, true),
];

#[test]
fn no_flushed_write_is_overwritten_by_an_older_one_whatever_fails_when() -> Result<(), Trouble> {
    let (storm, seen) = run(&PLANS, GUARD, Weather::Everything, 60)?;
    // A run in which little happened would prove nothing.
    ensure(storm.cuts > 20 && storm.gateway_kills > 0 && storm.server_kills > 0, || "nothing went wrong".into())?;
    ensure(seen.writes.into_inner() > 300, || "nobody wrote much".into())?;
    ensure(seen.stuck.into_inner() == 0, || "a request was never answered".into())
}

/// The checker is put to the test: where nothing is held back after a cut, it has to find what is lost.
#[test]
fn without_the_guard_an_older_write_is_found_over_a_flushed_one() -> Result<(), Trouble> {
    let found = run(&PLANS[..1], "late-write-guard = \"0s\"", Weather::Cuts, 60);
    let Err(trouble) = found else {
        return Err(Trouble::new("a server whose writes land late, and nothing was found"));
    };
    ensure(trouble.to_string().contains("is safe; its writes"), || trouble.to_string())
}

fn run(plans: &[Plan], guard: &str, weather: Weather, usual: u64) -> Result<(Storm, Seen), Trouble> {
    let seconds = number("NBD_GATEWAY_CHAOS_SECONDS").unwrap_or(usual);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = number("NBD_GATEWAY_CHAOS_SEED").unwrap_or(now.subsec_nanos().into());
    let told = format!("NBD_GATEWAY_CHAOS_SEED={seed} NBD_GATEWAY_CHAOS_SECONDS={seconds}");
    eprintln!("{told}");
    let ((mut town, exports), diary, seen) = (Town::build(plans, guard)?, Diary::new(), Seen::default());
    let (mut storm, mut dice) = (Storm::default(), Dice::new(seed));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut outcome = Ok(());
    while outcome.is_ok() && Instant::now() < end {
        let until = end.min(Instant::now() + ROUND);
        outcome = round(weather, (&mut town, &exports), &mut storm, (&diary, &seen), &mut dice, until);
    }
    eprintln!(
        "{} writes, {} flushes and {} reads answered, {} errors, {} connections of clients lost; \
         {} connections to servers cut, {} servers and {} gateways killed",
        seen.writes.load(Ordering::Relaxed),
        seen.flushes.load(Ordering::Relaxed),
        seen.reads.load(Ordering::Relaxed),
        seen.errors.load(Ordering::Relaxed),
        seen.lost.load(Ordering::Relaxed),
        storm.cuts,
        storm.server_kills,
        storm.gateway_kills
    );
    outcome.map_err(|trouble| {
        Trouble::new(format!("{told}\n{trouble}"))
            .with(format!("--- the gateway's log:\n{}", town.gateway.log_tail(60)))
    })?;
    Ok((storm, seen))
}

/// A storm, then a look at every disk once nothing is under way any more.
fn round(
    weather: Weather,
    (town, exports): (&mut Town, &[Export]),
    storm: &mut Storm,
    (diary, seen): (&Diary, &Seen),
    dice: &mut Dice,
    end: Instant,
) -> Result<(), Trouble> {
    let (socket, stop) = (town.gateway.socket().to_owned(), AtomicBool::new(false));
    let blown = thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = Client { number, exports, socket: &socket, diary, seen };
            let dice = dice.split();
            let stop = &stop;
            scope.spawn(move || client.act(dice, stop));
        }
        let blown = storm.blow(weather, (town, exports), diary, dice, end);
        let healed = storm.heal(town, diary, Instant::now() + Duration::from_secs(3600));
        stop.store(true, Ordering::Relaxed);
        blown.and(healed)
    });
    blown?;
    diary.check()?;
    diary.note("storm", "rest");
    // Nothing shows when the last write of a connection that is gone has landed: all are given the time that they may take.
    thread::sleep(LATEST + Duration::from_millis(LONGEST));
    for (export, server) in exports.iter().zip(&town.servers) {
        let bytes = server.content()?;
        look(export, &socket, &bytes).map_err(|trouble| trouble.with(diary.recent()))?;
        export.model.forget_the_old();
    }
    Ok(())
}

/// What is on the disk is what may be there, and what the gateway says of it.
fn look(export: &Export, socket: &Path, bytes: &[u8]) -> Result<(), Trouble> {
    let floors = export.model.floors(0..SECTORS);
    let judged = export.model.judge(0, &floors, bytes, true);
    judged.map_err(|what| Trouble::new(format!("the disk of {}: {what}", export.name)))?;
    let (mut client, _) = RawClient::open(socket, export.name, Framing::Structured)?;
    ensure(client.read(0, bytes.len() as u64)? == bytes, || {
        format!("{}: the gateway shows other bytes than are on the disk", export.name)
    })?;
    client.leave()
}
