//! qemu-nbd and qemu-storage-daemon. With `-e 1`, its default, qemu-nbd leaves a second connection without a greeting,
//! so nothing here connects to find out whether the server is up.

use std::path::Path;

use super::{Disk, Served};
use crate::image::Image;
use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::Trouble;

/// The dirty bitmap of the qcow2 server, and where it is dirty.
pub(crate) const BITMAP: &str = "since";

/// qemu-nbd on a raw file, for at most `clients` at once.
pub(crate) fn raw(clients: u32, image: &Image) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    image.write_to(&file)?;
    qemu_nbd(place, &["-f", "raw", "--discard=unmap", "-e", &clients.to_string()], &file, "raw")
}

/// qemu-nbd on a raw file, for those with TLS whose certificates it knows.
pub(crate) fn with_tls(certificates: &Path, image: &Image) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    image.write_to(&file)?;
    let object = format!("tls-creds-x509,id=tls0,endpoint=server,verify-peer=yes,dir={}", certificates.display());
    qemu_nbd(place, &["-f", "raw", "-e", "16", "--object", &object, "--tls-creds", "tls0"], &file, "raw")
}

/// qemu-nbd on a qcow2 image whose bitmap knows of the writes since its making, and whose allocation depth shows.
pub(crate) fn qcow2(image: &Image) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let source = place.path("source.raw");
    let file = place.path("disk.qcow2");
    image.write_to(&source)?;
    let convert = Call::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&source).arg(&file);
    convert.run()?.success()?;
    Call::new("qemu-img").args(["bitmap", "--add"]).arg(&file).arg(BITMAP).run()?.success()?;
    // Rewrites what is there, so that the bitmap is dirty in two places and the content is the same.
    let rewrite = [(0x10_0000_usize, 0x1_0000_usize), (0x5a_0000, 0x2_0000)];
    let mut io = Call::new("qemu-io").args(["-f", "qcow2"]).inside(place.root());
    for (index, (offset, length)) in rewrite.into_iter().enumerate() {
        let part = format!("part{index}");
        std::fs::write(place.path(&part), &image.bytes()[offset..offset + length])?;
        io = io.arg("-c").arg(format!("write -s {part} {offset} {length}"));
    }
    io.arg(&file).run()?.success()?;
    qemu_nbd(place, &["-f", "qcow2", "--discard=unmap", "-e", "16", "-A", "-B", BITMAP], &file, "qcow2")
}

fn qemu_nbd(place: Place, options: &[&str], file: &Path, format: &'static str) -> Result<Served, Trouble> {
    let socket = place.path("s");
    let pidfile = place.path("pid");
    let mut arguments = vec!["-t".into(), "-x".into(), "disk".into(), "-D".into(), "a disk of qemu-nbd".into()];
    arguments.extend(["--pid-file".into(), pidfile.clone(), "-k".into(), socket.clone()]);
    arguments.extend(options.iter().map(Into::into));
    arguments.push(file.to_owned());
    let mut process = Running::start(&installed("qemu-nbd")?, arguments, place.path("log"))?;
    process.await_ready("its pid file", || pidfile.exists())?;
    Ok(Served { process, export: "disk", socket, disk: Disk::File(file.to_owned(), format), place })
}

/// qemu-storage-daemon on a raw file.
pub(crate) fn storage_daemon(image: &Image) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let file = place.path("disk.raw");
    image.write_to(&file)?;
    let socket = place.path("s");
    let pidfile = place.path("pid");
    let arguments = [
        format!("--pidfile={}", pidfile.display()),
        format!("--blockdev=driver=file,node-name=file,filename={},discard=unmap", file.display()),
        "--blockdev=driver=raw,node-name=disk,file=file,discard=unmap".to_owned(),
        format!("--nbd-server=addr.type=unix,addr.path={},max-connections=0", socket.display()),
        "--export=type=nbd,id=disk,node-name=disk,name=disk,writable=on".to_owned(),
    ];
    let mut process = Running::start(&installed("qemu-storage-daemon")?, arguments, place.path("log"))?;
    process.await_ready("its pid file", || pidfile.exists())?;
    Ok(Served { process, export: "disk", socket, disk: Disk::File(file, "raw"), place })
}
