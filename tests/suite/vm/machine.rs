//! A virtual machine with a Debian kernel, busybox, e2fsprogs and the gateway's binary, that does what a test tells it.
//!
//! It is emulated in software, so it runs wherever the suite does and boots in seconds. The host's loopback is 10.0.2.2
//! in it. Nothing of it is left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{emulator, unpacked};
use crate::gateway::binary;
use crate::place::Place;
use crate::process::{Call, Running};
use crate::trouble::{Trouble, ensure};

/// How long a boot or a script may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine that has booted.
pub(crate) struct Machine {
    process: Running,
    port: BufReader<UnixStream>,
    place: Place,
}

impl Machine {
    /// Boots one. `nbd-gateway` is on its path.
    pub(crate) fn boot() -> Result<Self, Trouble> {
        Self::boot_with(&[])
    }

    /// The same, with more arguments for the emulator.
    pub(crate) fn boot_with(more: &[String]) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let initrd = place.path("initrd");
        let mut image = fs::read(unpacked("base.cpio")?)?;
        image.extend(overlay(&place)?);
        fs::write(&initrd, image)?;
        let (port, console) = (place.path("port"), place.path("console"));
        let arguments = [
            "-accel tcg -cpu qemu64 -machine q35 -m 512 -smp 2 -nodefaults -no-user-config -display none -no-reboot"
                .to_owned(),
            format!("-kernel {} -initrd {}", unpacked("vmlinuz")?.display(), initrd.display()),
            format!("-serial file:{}", console.display()),
            "-netdev user,id=net -device virtio-net-pci,netdev=net,romfile=".to_owned(),
            format!("-chardev socket,id=port,path={},server=on,wait=off", port.display()),
            "-device virtio-serial-pci -device virtserialport,chardev=port,name=suite".to_owned(),
        ];
        let mut arguments: Vec<_> = arguments.iter().flat_map(|words| words.split(' ')).map(str::to_owned).collect();
        arguments.extend(["-append".to_owned(), "console=ttyS0 panic=-1 quiet loglevel=4".to_owned()]);
        arguments.extend_from_slice(more);
        let mut process = Running::start(&emulator()?, arguments, place.path("log"))?;
        // The socket is there a moment before anybody listens on it.
        let mut stream = None;
        process.await_ready("its port", || {
            stream = UnixStream::connect(&port).ok();
            stream.is_some()
        })?;
        let stream = stream.ok_or_else(|| Trouble::new("its port is gone again"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut machine = Self { process, port: BufReader::new(stream), place };
        machine.answer()?;
        Ok(machine)
    }

    /// Runs a script with busybox's shell, as root; what it said, on both streams, if it succeeded.
    pub(crate) fn sh(&mut self, script: &str) -> Result<String, Trouble> {
        let (status, said) = self.try_sh(script)?;
        ensure(status == 0, || {
            format!("in the machine, this ended with {status}:\n{script}\n{said}\n{}", self.console())
        })?;
        Ok(said)
    }

    /// The same with its exit status, whatever that is.
    pub(crate) fn try_sh(&mut self, script: &str) -> Result<(i32, String), Trouble> {
        write!(self.port.get_mut(), "{script}\n#run\n")?;
        self.answer().map_err(|trouble| trouble.with(format!("in the machine, during:\n{script}\n{}", self.console())))
    }

    /// Looks until a script succeeds.
    pub(crate) fn await_that(&mut self, what: &str, script: &str) -> Result<(), Trouble> {
        let looks = format!("for i in $(seq 300); do if {script}; then exit 0; fi; sleep 0.1; done; exit 1");
        let (status, said) = self.try_sh(&looks)?;
        ensure(status == 0, || format!("in the machine, not in time: {what}\n{said}\n{}", self.console()))
    }

    fn answer(&mut self) -> Result<(i32, String), Trouble> {
        let mut line = String::new();
        let read = self.port.read_line(&mut line);
        let numbers = line.trim_end().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let Some((status, length)) = numbers else {
            return Err(self.process.trouble(&format!("answered {line:?} ({read:?})")).with(self.console()));
        };
        let mut said = vec![0; length];
        self.port.read_exact(&mut said)?;
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    }

    /// The end of what its kernel said.
    fn console(&self) -> String {
        let said = fs::read(self.place.path("console")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<_> = said.lines().collect();
        format!("--- its console:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }
}

/// What a test adds to the initramfs: the first program, and the gateway with the libraries of this host.
fn overlay(place: &Place) -> Result<Vec<u8>, Trouble> {
    let root = place.path("overlay");
    for folder in ["bin", "host/lib"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let gateway = binary()?;
    let copy = root.join("host/nbd-gateway");
    // What is for debuggers is most of it; all of it would have to be unpacked in emulation.
    Call::new("strip").arg("-o").arg(&copy).arg(&gateway).run()?.success()?;
    let needs = Call::new("ldd").arg(&gateway).run()?.success()?.stdout;
    let paths = needs.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    let mut loader = None;
    for library in paths {
        let name = library.file_name().unwrap_or_default();
        fs::copy(library, root.join("host/lib").join(name))?;
        if name.to_string_lossy().starts_with("ld-") {
            loader = Some(name.to_string_lossy().into_owned());
        }
    }
    let loader = loader.ok_or_else(|| Trouble::new(format!("ldd names no loader: {needs}")))?;
    let script = format!("#!/bin/sh\nexec /host/lib/{loader} --library-path /host/lib /host/nbd-gateway \"$@\"\n");
    for (name, text) in [("init", include_str!("init")), ("bin/nbd-gateway", &script)] {
        fs::write(root.join(name), text)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let pack = format!("find . | '{}' cpio -o -H newc >../overlay.cpio", unpacked("busybox")?.display());
    Call::new("sh").args(["-c", &pack]).inside(&root).run()?.success()?;
    Ok(fs::read(place.path("overlay.cpio"))?)
}
