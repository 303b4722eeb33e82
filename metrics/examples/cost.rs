//! What counting costs a request: the additions of one answered READ, and the two looks at the clock that its duration
//! takes, on one thread and on several that serve the same export.
//!
//! `cargo run --release -p nbd-gateway-metrics --example cost`. Of many short rounds the fastest tells what it costs where
//! nothing else goes on, and the one in the middle what it costs where threads meet, on a machine that is quiet.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "it measures, in real time"
)]

use std::hint::black_box;
use std::time::Instant;

use nbd_gateway_metrics::{Command, Direction, Metrics, Outcome};

/// Requests of a round: about a millisecond.
const ROUND: u32 = 10_000;
const ROUNDS: u32 = 200;

/// Nanoseconds for each request: of a thread's fastest round, and of the one in the middle.
fn rounds(metrics: &Metrics, counts: bool) -> (f64, f64) {
    let export = metrics.export("vm");
    let round = || {
        let begun = Instant::now();
        for n in 0..ROUND {
            let since = Instant::now();
            export.in_flight.inc();
            let took = black_box(since.elapsed().as_secs_f64() + f64::from(n % 128) * 4e-6);
            export.in_flight.dec();
            export.answered(Command::Read, Outcome::Ok, took, Some((Direction::Read, 4096)));
        }
        begun.elapsed().as_secs_f64()
    };
    let clock = || {
        let begun = Instant::now();
        for _ in 0..ROUND {
            let since = Instant::now();
            black_box(since.elapsed().as_secs_f64());
        }
        begun.elapsed().as_secs_f64()
    };
    let mut took: Vec<f64> = (0..ROUNDS).map(|_| if counts { round() } else { clock() }).collect();
    took.sort_by(f64::total_cmp);
    let of = |n: usize| took[n] / f64::from(ROUND) * 1e9;
    (of(0), of(took.len() / 2))
}

fn main() {
    let metrics = Metrics::new("0").unwrap();
    let (fastest, median) = rounds(&metrics, false);
    println!("the clock alone: {fastest:.0} ns, half of the rounds within {median:.0} ns");
    for threads in [1, 2, 4] {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| rounds(&metrics, true))).collect();
            let ended = running.into_iter().map(|thread| thread.join().unwrap());
            let (fastest, median) = ended.fold((0.0, 0.0), |(a, b), (c, d)| (c.max(a), d.max(b)));
            println!("{threads} thread(s): {fastest:.0} ns, half of the rounds within {median:.0} ns");
        });
    }
}
