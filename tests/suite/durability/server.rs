//! Servers whose writes land late: after the answer to others that came later, and after their connection has ended. The
//! disk of each is a file that can be read without asking anybody.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::sector::SECTOR;
use crate::image::Image;
use crate::peer::Served;
use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::Trouble;

/// How late a server's write may land, at most, after everything that holds it up outside the server.
pub(super) const LATEST: Duration = Duration::from_millis(800);

/// Sectors of each disk.
pub(super) const SECTORS: usize = 512;

/// A write of nbdkit's eval plugin: of seven, one takes long and one longer. `$$` stands in for chance.
const WRITE: &str = "pwrite=case $(($$ % 7)) in 0) sleep 0.6;; 1) sleep 0.3;; esac; \
                     dd of=DISK bs=1M seek=$4 iflag=fullblock oflag=seek_bytes conv=notrunc status=none";
const READ: &str = "pread=dd if=DISK bs=1M skip=$4 count=$3 iflag=count_bytes,skip_bytes status=none";

/// What a server is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// nbdkit's eval plugin.
    Late,
    /// The same, and it takes whole blocks of 4 KiB only.
    LateBlocks,
    /// nbdkit's delay filter over a file.
    Delay,
    /// qemu-nbd for one client at a time, whose storage is a late nbdkit.
    QemuNbd,
    /// qemu-nbd with a qcow2 image: what was not flushed may be gone with the process.
    Qcow2,
    /// nbd-server.
    Reference,
}

impl Kind {
    /// Whether what the server has answered outlives its process.
    pub(super) fn keeps(self) -> bool {
        self != Self::Qcow2
    }

    /// Whether several connections are one to it.
    pub(super) fn takes_lanes(self) -> bool {
        matches!(self, Self::Late | Self::Delay | Self::Qcow2)
    }

    const fn export(self) -> &'static str {
        match self {
            Self::QemuNbd | Self::Qcow2 | Self::Reference => "disk",
            Self::Late | Self::LateBlocks | Self::Delay => "",
        }
    }
}

/// A server that can be killed and stopped.
pub(super) struct Server {
    pub(super) kind: Kind,
    process: Process,
    place: Place,
    /// The storage of a server that has none of its own.
    behind: Option<Box<Self>>,
}

enum Process {
    Own(Running),
    /// It leaves its process group, so that it can be neither killed nor stopped here.
    Reference(Served),
}

impl Server {
    pub(super) fn start(kind: Kind) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        let disk = place.path("disk");
        fs::File::create(&disk)?.set_len((SECTORS * SECTOR) as u64)?;
        let behind = if kind == Kind::QemuNbd { Some(Box::new(Self::start(Kind::Late)?)) } else { None };
        let process = match kind {
            Kind::Reference => Process::Reference(crate::peer::Server::Reference.start(&Image::of_zeroes())?),
            Kind::Qcow2 => {
                let size = (SECTORS * SECTOR).to_string();
                Call::new("qemu-img")
                    .args(["create", "-f", "qcow2"])
                    .arg(place.path("qcow2"))
                    .arg(size)
                    .run()?
                    .success()?;
                own(&place, "qemu-nbd", &qemu(&place, &["-e", "16", "-f", "qcow2"], place.path("qcow2").display()))?
            }
            Kind::QemuNbd => {
                let socket = behind.as_ref().map(|server| server.socket().display().to_string()).unwrap_or_default();
                let image = format!("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket}");
                own(&place, "qemu-nbd", &qemu(&place, &["-e", "1", "--image-opts"], image))?
            }
            Kind::Late | Kind::LateBlocks | Kind::Delay => own(&place, "nbdkit", &nbdkit(&place, kind, &disk))?,
        };
        Ok(Self { kind, process, place, behind })
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        match &self.process {
            Process::Own(_) => self.place.path("s"),
            Process::Reference(served) => served.socket.clone(),
        }
    }

    /// Its NBD URI, past any network.
    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.kind.export(), self.socket().display())
    }

    pub(super) const fn export(&self) -> &'static str {
        self.kind.export()
    }

    /// What is on its disk now.
    pub(super) fn content(&self) -> Result<Vec<u8>, Trouble> {
        let mut bytes = match (&self.process, &self.behind) {
            (_, Some(behind)) => behind.content()?,
            (Process::Reference(served), _) => fs::read(served.file().ok_or_else(|| Trouble::new("no file"))?)?,
            _ if self.kind == Kind::Qcow2 => {
                let copy = self.place.path("copy");
                Call::new("nbdcopy").arg(self.uri()).arg(&copy).run()?.success()?;
                fs::read(copy)?
            }
            _ => fs::read(self.place.path("disk"))?,
        };
        bytes.truncate(SECTORS * SECTOR);
        Ok(bytes)
    }

    /// Whether it can be killed and stopped.
    pub(super) const fn can_be_hurt(&self) -> bool {
        matches!(self.process, Process::Own(_))
    }

    /// SIGKILL to all of it.
    pub(super) fn kill(&mut self) -> Result<(), Trouble> {
        let Process::Own(process) = &mut self.process else { return Ok(()) };
        process.kill()?;
        for left in ["s", "pid"].map(|name| self.place.path(name)) {
            if left.exists() {
                fs::remove_file(left)?;
            }
        }
        Ok(())
    }

    /// Starts what was killed.
    pub(super) fn start_again(&mut self) -> Result<(), Trouble> {
        let Process::Own(process) = &mut self.process else { return Ok(()) };
        process.start_again()?;
        let pidfile = self.place.path("pid");
        process.await_ready("its pid file", || pidfile.exists())
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn pause(&self, pause: bool) {
        if let Process::Own(process) = &self.process {
            process.signal(if pause { Signal::STOP } else { Signal::CONT });
        }
    }
}

fn own(place: &Place, program: &str, arguments: &[String]) -> Result<Process, Trouble> {
    let mut process = Running::start(&installed(program)?, arguments, place.path("log"))?;
    let pidfile = place.path("pid");
    process.await_ready("its pid file", || pidfile.exists())?;
    Ok(Process::Own(process))
}

fn nbdkit(place: &Place, kind: Kind, disk: &Path) -> Vec<String> {
    let path = |name: &str| place.path(name).display().to_string();
    // More threads than there are requests under way: none waits for another's delay.
    let mut arguments: Vec<String> = ["-f", "--threads=64", "-P"].map(str::to_owned).to_vec();
    arguments.extend([path("pid"), "-U".to_owned(), path("s")]);
    let disk = disk.display().to_string();
    if kind == Kind::Delay {
        arguments.extend(["--filter=delay", "file"].map(str::to_owned));
        arguments.extend([disk, "wdelay=200ms".to_owned()]);
        return arguments;
    }
    if kind == Kind::LateBlocks {
        arguments.push("--filter=blocksize-policy".to_owned());
    }
    arguments.push("eval".to_owned());
    arguments.push(format!("get_size=echo {}", SECTORS * SECTOR));
    arguments.extend([READ, WRITE].map(|script| script.replace("DISK", &disk)));
    for ability in ["can_write", "can_flush", "flush", "can_multi_conn"] {
        arguments.push(format!("{ability}=exit 0"));
    }
    arguments.push("thread_model=echo parallel".to_owned());
    if kind == Kind::LateBlocks {
        let bounds = ["minimum=4096", "preferred=4096", "maximum=1M"].map(|bound| format!("blocksize-{bound}"));
        arguments.extend(bounds);
        arguments.push("blocksize-error-policy=error".to_owned());
    }
    arguments
}

fn qemu(place: &Place, more: &[&str], image: impl ToString) -> Vec<String> {
    let path = |name: &str| place.path(name).display().to_string();
    let mut arguments: Vec<String> = ["-t", "-x", "disk", "--pid-file"].map(str::to_owned).to_vec();
    arguments.extend([path("pid"), "-k".to_owned(), path("s")]);
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    arguments.push(image.to_string());
    arguments
}
