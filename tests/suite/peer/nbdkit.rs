//! nbdkit, whose plugins and filters give a server of any abilities.

use std::path::Path;

use super::{Disk, Served};
use crate::image::Image;
use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::{Trouble, ensure};

impl Served {
    /// Tells an nbdkit that serves a file to end, waits until it has, and starts another in its place.
    pub(crate) fn replace_nbdkit(&mut self) -> Result<(), Trouble> {
        let status = self.process.stop()?;
        ensure(status.success(), || format!("nbdkit ended with {status}"))?;
        let Disk::File(raw, _) = &self.disk else { return Err(Trouble::new("this nbdkit takes its disk with it")) };
        std::fs::remove_file(&self.socket)?;
        let pidfile = self.place.path("pid-again");
        let arguments = ["-f".as_ref(), "-P".as_ref(), pidfile.as_path(), "-U".as_ref(), &self.socket];
        let plugin = ["file".as_ref(), raw.as_path()];
        self.process =
            Running::start(&installed("nbdkit")?, arguments.into_iter().chain(plugin), self.place.path("log"))?;
        self.process.await_ready("its pid file", || pidfile.exists())
    }
}

/// Starts nbdkit with `flags`, then the plugin and its parameters, where `DISK` stands for a file that holds `image`;
/// a plugin without a file gets the image over NBD, past no gateway.
pub(crate) fn nbdkit(flags: &[&str], plugin: &[&str], image: &Image) -> Result<Served, Trouble> {
    let served = start(flags, plugin, Some(image))?;
    if matches!(served.disk, Disk::InServer) {
        let raw = served.place.path("disk.raw");
        Call::new("nbdcopy").arg("--destination-is-zero").arg(&raw).arg(served.uri()).run()?.success()?;
    }
    Ok(served)
}

/// Starts nbdkit with a plugin that makes up its own content.
pub(crate) fn nbdkit_as_it_is(flags: &[&str], plugin: &[&str]) -> Result<Served, Trouble> {
    start(flags, plugin, None)
}

/// Starts nbdkit on a file that others look at, and may change, too.
pub(crate) fn nbdkit_on(file: &Path) -> Result<Served, Trouble> {
    let file = file.to_str().ok_or_else(|| Trouble::new("a path that is no text"))?;
    start(&[], &["file", file], None)
}

/// The same, and a second client is turned away.
pub(crate) fn nbdkit_for_one(file: &Path) -> Result<Served, Trouble> {
    let file = file.to_str().ok_or_else(|| Trouble::new("a path that is no text"))?;
    start(&["--filter=limit"], &["file", file, "limit=1"], None)
}

fn start(flags: &[&str], plugin: &[&str], image: Option<&Image>) -> Result<Served, Trouble> {
    let place = Place::fresh()?;
    let socket = place.path("s");
    let pidfile = place.path("pid");
    let raw = place.path("disk.raw");
    if let Some(image) = image {
        image.write_to(&raw)?;
    }
    let on_file = plugin.contains(&"DISK");
    let mut arguments = vec!["-f".into(), "-P".into(), pidfile.clone(), "-U".into(), socket.clone()];
    arguments.extend(flags.iter().map(Into::into));
    arguments.extend(plugin.iter().map(|word| if *word == "DISK" { raw.clone() } else { word.into() }));
    let mut process = Running::start(&installed("nbdkit")?, arguments, place.path("log"))?;
    // The process id is written when the socket listens.
    process.await_ready("its pid file", || pidfile.exists())?;
    let disk = if on_file { Disk::File(raw, "raw") } else { Disk::InServer };
    Ok(Served { process, export: "", socket, disk, place })
}
