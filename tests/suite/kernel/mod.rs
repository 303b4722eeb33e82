//! Promise: a disk of the Linux kernel grows under a mounted file system, and nothing that happens to its connections
//! is an error to those who use it. In a virtual machine, since a kernel's devices are everybody's.
//!
//! One boot for all of it; what is done in it stands in a file each.

mod faults;
mod recipe;
mod served;
mod several;
mod shrink;
mod stock;

use std::fs;
use std::net::TcpListener;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Served, Server};
use crate::place::Place;
use crate::trouble::{Trouble, ensure};
use crate::vm::Machine;

/// A machine, and a gateway that it reaches at [`Stage::host`].
struct Stage {
    machine: Machine,
    gateway: Gateway,
    /// nbdkit with the file behind the export `vm`.
    served: Served,
    port: u16,
}

impl Stage {
    fn set() -> Result<Self, Trouble> {
        let served = Server::NbdkitFile.start(&Image::sparse(1))?;
        grow(&served, 32)?;
        let port = free_port()?;
        // nbdkit's size is changed by another hand, and its answered writes outlive it: they are in the page cache.
        let vm = export(
            "vm",
            &served.uri(),
            "on-backend-loss = { hold = \"30s\", durable = true }\n[export.resize]\npoll = \"100ms\"\n",
        );
        let vm1 = export("vm1", "memory:", "size = \"64MiB\"\n");
        let tables = format!(
            "[[listener]]\naddress = \"127.0.0.1:{port}\"\n[admin]\naddress = \"127.0.0.1:0\"\n{vm}{vm1}{}",
            export("small", "memory:", "size = \"1MiB\"\n[export.resize]\nshrink = true\nshrink-grace = \"0s\"\n")
        );
        // The backend is killed on purpose.
        let gateway = Gateway::start_in(Place::fresh()?, &tables)?.expecting_warnings();
        Ok(Self { machine: Machine::boot()?, gateway, served, port })
    }

    /// An export's URI, seen from the machine.
    fn uri(&self, export: &str) -> String {
        format!("nbd://10.0.2.2:{}/{export}", self.port)
    }

    /// Starts the agent; its output is in `/run/NAME.log`, its process id in `/run/NAME.pid`.
    fn start_agent(&mut self, name: &str, arguments: &str) -> Result<(), Trouble> {
        let line = format!("nbd-gateway agent {arguments} >/run/{name}.log 2>&1 & echo $! >/run/{name}.pid");
        self.machine.sh(&line).map(drop)
    }

    /// Waits until the agent has said these words so many times.
    fn await_said(&mut self, name: &str, words: &str, times: u32) -> Result<(), Trouble> {
        let look = format!("[ $(grep -c '{words}' /run/{name}.log) -ge {times} ]");
        let waited = self.machine.await_that(&format!("the agent says {words:?} {times} times"), &look);
        waited.map_err(|trouble| match self.machine.sh(&format!("cat /run/{name}.log")) {
            Ok(log) => trouble.with(format!("--- it said:\n{log}")).with(self.gateway.log()),
            Err(lost) => trouble.with(lost),
        })
    }

    /// Sends it SIGTERM, and waits for its end; its exit status.
    fn end_agent(&mut self, name: &str) -> Result<(), Trouble> {
        let end = format!("kill $(cat /run/{name}.pid)");
        self.machine.sh(&end)?;
        self.machine.await_that("the agent ends", &format!("! kill -0 $(cat /run/{name}.pid) 2>/dev/null"))
    }
}

/// Grows the file behind nbdkit, as whoever owns it would.
fn grow(served: &Served, mib: u64) -> Result<(), Trouble> {
    let file = served.file().ok_or_else(|| Trouble::new("this nbdkit has no file"))?;
    Ok(fs::File::options().write(true).open(file)?.set_len(mib << 20)?)
}

/// A port that a gateway gets again after it was killed: none that the kernel gives to those who want any.
fn free_port() -> Result<u16, Trouble> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let free = (first..first + 100).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| Trouble::new(format!("no port free from {first} on")))
}

#[test]
fn a_mounted_disk_of_the_kernel_grows_under_load_over_lost_connections() -> Result<(), Trouble> {
    let mut stage = Stage::set()?;
    faults::each_is_a_sentence(&mut stage)?;
    recipe::works_as_printed(&mut stage)?;
    served::grows_three_times(&mut stage)?;
    several::are_replaced_one_by_one(&mut stage)?;
    shrink::goes_only_with_an_order(&mut stage)?;
    stock::is_reached_past_its_old_end_by_another_connection(&mut stage)?;
    faults::without_the_module(&mut stage)?;
    let Stage { gateway, machine, .. } = stage;
    drop(machine);
    ensure(!gateway.log().contains(" ERROR "), || gateway.log())?;
    gateway.end()
}
