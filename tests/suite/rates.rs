//! Promise: rates of I/O are kept as the README says, and a tenant that waits for its turn slows no other.
//!
//! Measured with fio, which knows nothing of it. Upper bounds hold on any machine; how much comes through depends on what
//! else the machine does, so there the best of three looks counts, and only ratios are compared.

use std::thread;

use serde_json::Value;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

/// How often a noisy machine is looked at.
const LOOKS: usize = 3;

/// What fio got.
struct Got {
    requests: f64,
    seconds: f64,
}

impl Got {
    fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// Random READs of 4 KiB, by so many clients at such a depth, for so many seconds.
fn fio(gateway: &Gateway, name: &str, clients: usize, depth: usize, seconds: u32) -> Result<Call, Trouble> {
    Ok(Call::new("fio")
        .args(["--name=reads", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--size=4M", "--time_based", "--thread"])
        .args(["--group_reporting", "--output-format=json"])
        .args([format!("--iodepth={depth}"), format!("--numjobs={clients}"), format!("--runtime={seconds}")])
        .arg(format!("--uri={}", gateway.uri(name))))
}

fn run(fio: Call) -> Result<Got, Trouble> {
    let place = Place::fresh()?;
    let said = fio.inside(place.root()).run()?.success()?.stdout;
    let json: Value = serde_json::from_str(&said[said.find('{').unwrap_or(0)..])?;
    let read = &json["jobs"][0]["read"];
    let (Some(requests), Some(milliseconds)) = (read["total_ios"].as_f64(), read["runtime"].as_f64()) else {
        return Err(Trouble::new(format!("fio does not tell how much it read:\n{said}")));
    };
    Ok(Got { requests, seconds: milliseconds / 1000.0 })
}

/// What each case bounds: the tenant's keys, the export's, how many requests for each second and at once with two clients.
const BOUNDS: [(&str, &str, &str, f64, f64); 5] = [
    ("of a tenant", "io = { iops = \"400/s\" }", "", 400.0, 40.0),
    ("of an export", "", "io = { iops = \"400/s\", burst = \"500ms\" }", 400.0, 200.0),
    ("of each session", "", "session-io = { read-iops = \"200/s\" }", 400.0, 40.0),
    ("in bytes", "io = { read-bandwidth = \"1600KiB/s\" }", "", 400.0, 40.0),
    ("of both, the lower one", "io = { iops = \"9000/s\" }", "io = { bandwidth = \"1600KiB/s\" }", 400.0, 40.0),
];

#[test]
fn a_bound_lets_through_its_burst_its_rate_and_a_request_for_each_session() -> Result<(), Trouble> {
    const CLIENTS: usize = 2;
    for (what, tenant, of_export, rate, burst) in BOUNDS {
        let more = format!("tenant = \"t\"\nsize = \"4MiB\"\n[export.limits]\n{of_export}");
        let tables =
            format!("[[tenant]]\nname = \"t\"\n[tenant.limits]\n{tenant}\n\n{}", export("e", "memory:", &more));
        let gateway = Gateway::start(&tables)?;
        let mut looks = Vec::new();
        for _ in 0..LOOKS {
            let got = run(fio(&gateway, "e", CLIENTS, 16, 3)?)?;
            // fio's clock ticks in milliseconds, and each of its clients has one of its own.
            let most = burst + rate * (got.seconds + 0.02) + CLIENTS as f64;
            ensure(got.requests <= most, || {
                format!("{what}: {} requests in {} s, more than {most}", got.requests, got.seconds)
            })?;
            eprintln!("{what}: {} requests in {} s, {most} at most", got.requests, got.seconds);
            looks.push(got.rate() / rate);
            if got.rate() > 0.9 * rate {
                break;
            }
        }
        ensure(looks.last().is_some_and(|last| *last > 0.9), || {
            format!("{what}: of what its bound allows came through, three times: {looks:?}")
        })?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn a_tenant_at_its_limit_leaves_another_what_it_has_alone() -> Result<(), Trouble> {
    // How much comes through is decided by a slow server, not by what else this machine does. One thread for both.
    let served = nbdkit(&["--filter=delay"], &["memory", "8M", "rdelay=5ms"], &Image::sparse(4))?;
    let of = |name: &str| export(name, &served.uri(), &format!("tenant = {name:?}"));
    let tables = format!(
        "[runtime]\nthreads = 1\n[[tenant]]\nname = \"free\"\n[[tenant]]\nname = \"bound\"\n[tenant.limits]\n\
         io = {{ iops = \"50/s\" }}\n\n{}{}",
        of("free"),
        of("bound")
    );
    let gateway = Gateway::start(&tables)?;
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        let alone = run(fio(&gateway, "free", 1, 8, 2)?)?;
        // It has far more to do than it may, before, while and after the other is measured.
        let bound = fio(&gateway, "bound", 4, 32, 5)?;
        let bound = thread::spawn(move || run(bound));
        let beside = run(fio(&gateway, "free", 1, 8, 2)?)?;
        ensure(!bound.is_finished(), || "the bound tenant was done before the other".into())?;
        bound.join().expect("it does not panic")?;
        eprintln!("{} requests a second alone, {} beside one at its limit", alone.rate(), beside.rate());
        looks.push(beside.rate() / alone.rate());
        if looks.last().is_some_and(|ratio| *ratio > 0.9) {
            return gateway.end();
        }
    }
    Err(Trouble::new(format!(
        "beside a tenant at its limit, of what it has alone a tenant had, three times: {looks:?}"
    )))
}
