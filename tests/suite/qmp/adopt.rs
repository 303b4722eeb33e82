//! The hook: a stock qemu in front of the gateway.

use std::path::PathBuf;

use serde_json::json;

use super::daemon::{Monitor, program};
use super::load::Load;
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Running;
use crate::trouble::{Trouble, ensure, eventually};
use crate::vm::emulator;

const SIZE: u64 = 8 << 20;

/// A gateway with a disk, and a qemu that has it open, named in a hook.
struct Pair {
    gateway: Gateway,
    qemu: Running,
    test: Monitor,
    place: Place,
}

/// How a qemu reaches the gateway.
#[derive(Clone, Copy)]
enum By {
    Unix,
    Tcp,
}

impl Pair {
    /// A qemu that `program` starts with these arguments, beside its disk and its monitors. The hook names `node`.
    fn start(program: PathBuf, arguments: &[String], by: By, node: &str) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let hook = format!(
            "size = \"8MiB\"\n[export.resize]\nautomatic = \"never\"\n[[export.notify]]\nqmp = {:?}\nnode = {node:?}\n",
            place.path("qmp")
        );
        let gateway = Gateway::start(&export("disk", "memory:", &hook))?;
        let server = match by {
            By::Unix => format!("server.type=unix,server.path={}", gateway.socket().display()),
            By::Tcp => format!("server.type=inet,server.host=127.0.0.1,server.port={}", gateway.tcp().port()),
        };
        let disk = format!("driver=nbd,node-name=disk0,export=disk,reconnect-delay=10,{server}");
        let mut all = arguments.to_vec();
        all.extend(["--blockdev".to_owned(), disk]);
        for name in ["qmp", "test"] {
            let path = place.path(name);
            all.push("--chardev".to_owned());
            all.push(format!("socket,id={name},path={},server=on,wait=off", path.display()));
        }
        // The two programs spell it differently.
        for name in ["qmp", "test"] {
            let mode = if arguments.is_empty() { "--monitor" } else { "--mon" };
            let more = if arguments.is_empty() { "" } else { ",mode=control" };
            all.extend([mode.to_owned(), format!("chardev={name}{more}")]);
        }
        let mut qemu = Running::start(&program, all, place.path("log"))?;
        qemu.await_ready("its QMP socket", || place.path("test").exists())?;
        let mut test = Monitor::connect(&place.path("test"))?;
        assert_eq!(test.size_of("disk0")?, SIZE);
        Ok(Self { gateway, qemu, test, place })
    }

    /// qemu-system, with a disk that no guest uses.
    fn of_qemu(by: By, node: &str, more: &[String]) -> Result<Self, Trouble> {
        let words = "-machine none -nodefaults -display none -accel tcg".split(' ').map(str::to_owned);
        Self::start(emulator()?, &words.chain(more.iter().cloned()).collect::<Vec<_>>(), by, node)
    }

    fn sees(&mut self, node: &str, size: u64) -> Result<(), Trouble> {
        let test = &mut self.test;
        let seen = eventually("a qemu that sees the new size", || test.size_of(node).is_ok_and(|seen| seen == size));
        seen.map_err(|trouble| trouble.with(self.gateway.log()))?;
        // The hook looks too, and is not to be cut off at that.
        let behind = || self.gateway.metric("nbd_gateway_hooks_behind", &["export=\"disk\""]);
        eventually("a hook that has been heard", || behind().is_ok_and(|behind| behind == 0.0))
    }

    /// Has qemu write and read at the end of its disk.
    fn use_the_end(&mut self, size: u64) -> Result<(), Trouble> {
        let at = size - 4096;
        for command in [format!("write -P 7 {at} 4k"), format!("read -P 7 {at} 4k")] {
            let line = json!({ "command-line": format!("qemu-io disk0 \"{command}\"") });
            let said = self.test.ask("human-monitor-command", line)?;
            ensure(said == "", || format!("{command}: {said}"))?;
        }
        ensure(!self.qemu.log().contains("failed"), || self.qemu.log())
    }
}

#[test]
fn a_qemu_sees_each_new_size_and_no_other_client_is_cut_off() -> Result<(), Trouble> {
    let mut pair = Pair::of_qemu(By::Unix, "disk0", &[])?;
    let mut other = Load::start(&pair.gateway.uri("disk"))?;
    for grows in 2..4 {
        pair.gateway.order_size("disk", SIZE * grows)?;
        pair.sees("disk0", SIZE * grows)?;
        pair.use_the_end(SIZE * grows)?;
        other.goes_on()?;
    }
    other.end()?;
    pair.qemu.stop()?;
    pair.gateway.end()
}

#[test]
fn a_raw_node_on_the_nbd_node_sees_it_too() -> Result<(), Trouble> {
    let mut pair = Pair::of_qemu(By::Unix, "top", &[])?;
    let node = json!({ "driver": "raw", "node-name": "top", "file": "disk0" });
    pair.test.ask("blockdev-add", node)?;
    pair.gateway.order_size("disk", SIZE * 2)?;
    pair.sees("top", SIZE * 2)?;
    pair.qemu.stop()?;
    pair.gateway.end()
}

#[test]
fn a_storage_daemon_that_is_the_only_client_over_tcp_sees_it() -> Result<(), Trouble> {
    let mut pair = Pair::start(program()?, &[], By::Tcp, "disk0")?;
    pair.gateway.order_size("disk", SIZE * 2)?;
    pair.sees("disk0", SIZE * 2)?;
    pair.qemu.stop()?;
    pair.gateway.end()
}

#[test]
fn nobody_is_cut_off_where_the_qemu_cannot_be_told_from_another_client() -> Result<(), Trouble> {
    let mut pair = Pair::of_qemu(By::Tcp, "disk0", &[])?;
    pair.gateway = pair.gateway.expecting_warnings();
    let mut other = Load::start(&format!("nbd://127.0.0.1:{}/disk", pair.gateway.tcp().port()))?;
    pair.gateway.order_size("disk", SIZE * 2)?;
    let gateway = &pair.gateway;
    eventually("a hook that says why", || gateway.log().contains("2 clients have not seen the size"))?;
    assert_eq!(pair.test.size_of("disk0")?, SIZE);
    other.goes_on()?;
    other.end()?;
    // It is tried again.
    pair.sees("disk0", SIZE * 2)?;
    pair.qemu.stop()?;
    pair.gateway.end()
}

#[test]
fn a_node_that_is_no_nbd_disk_is_never_resized() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let file = place.path("local");
    std::fs::File::create(&file)?.set_len(SIZE / 2)?;
    let local = format!("driver=file,node-name=local,filename={}", file.display());
    let mut pair = Pair::of_qemu(By::Unix, "local", &["--blockdev".to_owned(), local])?;
    pair.gateway = pair.gateway.expecting_warnings();
    pair.gateway.order_size("disk", SIZE * 2)?;
    let gateway = &pair.gateway;
    eventually("a hook that says why", || gateway.log().contains("not an NBD node or a raw one on it"))?;
    assert_eq!(std::fs::metadata(&file)?.len(), SIZE / 2);
    pair.use_the_end(SIZE)?;
    pair.qemu.stop()?;
    drop(pair.place);
    pair.gateway.end()
}
