//! All that qemu does with a qcow2 image, on an export that is shown as large and is not.

use std::path::Path;

use crate::image::Image;
use crate::place::Place;
use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

pub(super) fn qemu_io(uri: &str, commands: &[&str]) -> Result<Output, Trouble> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    Call::new("qemu-io").args(["-f", "qcow2"]).args(commands).arg(uri).run()
}

fn qemu_img(words: &[&str]) -> Result<String, Trouble> {
    Ok(Call::new("qemu-img").args(words).run()?.success()?.stdout)
}

/// From `qemu-img create` on. `file` is where the backend keeps it.
pub(super) fn live(uri: &str, file: &Path) -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let raw = place.path("source.raw");
    Image::sparse(11).write_to(&raw)?;
    let (raw, file) = (raw.display().to_string(), file.display().to_string());
    let whole = |what: &str| -> Result<(), Trouble> {
        // Over NBD, and the file itself: it is a valid image of its real size.
        qemu_img(&["check", "-f", "qcow2", uri]).map_err(|e| Trouble::new(format!("{what}: {e}")))?;
        qemu_img(&["check", "-U", "-f", "qcow2", &file]).map_err(|e| Trouble::new(format!("{what}: {e}")))?;
        qemu_img(&["compare", "-U", "-f", "qcow2", "-F", "qcow2", uri, &file])?;
        Ok(())
    };
    qemu_img(&["create", "-f", "qcow2", uri, "1G"])?;
    whole("created")?;
    let first = ["write -P 1 0 8M", "write -P 2 500M 8M", "read -P 1 0 8M", "read -P 2 500M 8M", "read -P 0 8M 8M"];
    qemu_io(uri, &first)?.success()?;
    let second =
        ["write -z 2M 1M", "discard 4M 1M", "read -P 0 2M 1M", "aio_write -P 3 700M 4M", "aio_write -P 4 800M 4M"];
    qemu_io(uri, &second)?.success()?;
    whole("written")?;
    qemu_img(&["snapshot", "-c", "before", uri])?;
    qemu_io(uri, &["write -P 5 0 16M", "read -P 3 700M 4M", "read -P 4 800M 4M"])?.success()?;
    qemu_img(&["bitmap", "-f", "qcow2", "--add", uri, "since"])?;
    qemu_img(&["resize", "-f", "qcow2", uri, "2T"])?;
    qemu_io(uri, &["write -P 6 1900G 4M", "read -P 6 1900G 4M"])?.success()?;
    qemu_img(&["snapshot", "-l", uri])?;
    whole("grown")?;
    for options in [&["-O", "qcow2"][..], &["-c", "-O", "qcow2"]] {
        qemu_img(&[&["convert", "-f", "raw"], options, &[&raw, uri]].concat())?;
        whole("converted")?;
        qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &raw, uri])?;
    }
    qemu_img(&["create", "-f", "qcow2", uri, "8M"])?;
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "qcow2", &raw, uri])?;
    whole("converted into what was there")?;
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &raw, uri])?;
    let (size, most) = (std::fs::metadata(&file)?.len(), 128 << 20);
    ensure(size < most, || format!("the backend has {size} bytes for an image of much less"))
}
