//! What counting costs a request: the additions of one answered READ, and the two looks at the clock that its duration
//! takes; alone and in batches, whose requests share these looks as the gateway's do, on one thread and on several that
//! serve the same export.
//!
//! `cargo run --release -p nbd-gateway-metrics --example cost`. Of many short rounds the fastest tells what it costs where
//! nothing else goes on, and the one in the middle what it costs where threads meet, on a machine that is quiet. With
//! `-- once BATCH` it does a single round of such batches, to be counted by `valgrind --tool=callgrind`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "it measures, in real time"
)]

use std::hint::black_box;
use std::time::Instant;

use nbd_gateway_metrics::{Command, Direction, ExportMetrics, Metrics, Outcome};

/// Requests of a round: about a millisecond.
const ROUND: u32 = 9_600;
const ROUNDS: u32 = 200;

/// A round of requests, so many at a time.
fn counts(export: &ExportMetrics, batch: u32) {
    for _ in 0..ROUND / batch {
        let since = Instant::now();
        export.in_flight.add(batch.into());
        let now = black_box(Instant::now());
        for n in 0..batch {
            let took = now.saturating_duration_since(since).as_secs_f64() + f64::from(n % 128) * 4e-6;
            export.in_flight.dec();
            export.answered(Command::Read, Outcome::Ok, took, Some((Direction::Read, 4096)));
        }
    }
}

/// The looks at the clock alone.
fn looks() {
    for _ in 0..ROUND {
        let since = Instant::now();
        black_box(since.elapsed().as_secs_f64());
    }
}

/// Nanoseconds for each request: of a thread's fastest round, and of the one in the middle.
fn rounds(round: impl Fn()) -> (f64, f64) {
    let timed = |_| {
        let begun = Instant::now();
        round();
        begun.elapsed().as_secs_f64()
    };
    let mut took: Vec<f64> = (0..ROUNDS).map(timed).collect();
    took.sort_by(f64::total_cmp);
    let of = |n: usize| took[n] / f64::from(ROUND) * 1e9;
    (of(0), of(took.len() / 2))
}

fn main() {
    let metrics = Metrics::new("0").unwrap();
    let export = metrics.export("vm", None);
    if let [once, batch] = std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        assert_eq!(once, "once");
        return counts(&export, batch.parse().unwrap());
    }
    let (fastest, median) = rounds(looks);
    println!("two looks at the clock: {fastest:.0} ns, half of the rounds within {median:.0} ns");
    for (threads, batch) in [1, 2, 4].into_iter().flat_map(|threads| [1, 8, 32].map(|batch| (threads, batch))) {
        std::thread::scope(|scope| {
            let one = || scope.spawn(|| rounds(|| counts(&export, batch)));
            let running: Vec<_> = (0..threads).map(|_| one()).collect();
            let ended = running.into_iter().map(|thread| thread.join().unwrap());
            let (fastest, median) = ended.fold((0.0, 0.0), |(a, b), (c, d)| (c.max(a), d.max(b)));
            println!(
                "{threads} thread(s), {batch} in a batch: {fastest:.0} ns, half of the rounds within {median:.0} ns"
            );
        });
    }
}
