//! qemu-img, the real one.

use std::path::Path;

use super::{MIB, expect_reached, expect_refused, order};
use crate::image::Image;
use crate::peer::Server;
use crate::place::Place;
use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

fn grow(format: &str, file: &Path, from: u64, to: u64) -> Result<Output, Trouble> {
    order("qemu-img", "/usr/bin:/bin", &[format, &file.display().to_string()], from, to)
}

#[test]
fn images_grow_and_keep_what_they_hold() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let content = place.path("content");
    Image::sparse(1).write_to(&content)?;
    for format in ["raw", "qcow2"] {
        // A name that would be something else as a URI, or as an option.
        let file = place.path(&format!("a,driver=null:b c.{format}"));
        let target = file.display().to_string();
        Call::new("qemu-img").args(["convert", "-O", format]).arg(&content).arg(&target).run()?.success()?;
        expect_reached(grow(format, &file, 8 * MIB, 12 * MIB)?, 12 * MIB)?;
        // Once more; and for less than it has by now.
        expect_reached(grow(format, &file, 8 * MIB, 12 * MIB)?, 12 * MIB)?;
        expect_reached(grow(format, &file, 8 * MIB, 10 * MIB)?, 12 * MIB)?;
        expect_reached(grow(format, &file, 12 * MIB, 12 * MIB + 1)?, 12 * MIB + 512)?;
        expect_refused(&grow(format, &file, 12 * MIB, 4 * MIB)?, "never reduced from here")?;
        let back = place.path("back");
        Call::new("qemu-img").args(["convert", "-f", format, "-O", "raw", &target]).arg(&back).run()?.success()?;
        let (before, after) = (std::fs::read(&content)?, std::fs::read(&back)?);
        ensure(after.len() as u64 == 12 * MIB + 512 && after.starts_with(&before), || "the data is another".into())?;
        ensure(after[before.len()..].iter().all(|byte| *byte == 0), || "what was exposed is not zero".into())?;
    }
    Ok(())
}

#[test]
fn an_image_that_is_missing_of_another_format_or_served_is_left_alone() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    expect_refused(&grow("raw", &place.path("none"), MIB, 2 * MIB)?, "No such file")?;
    let raw = place.path("raw");
    Image::sparse(1).write_to(&raw)?;
    expect_refused(&grow("qcow2", &raw, 8 * MIB, 12 * MIB)?, "not in qcow2 format")?;
    let served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let disk = served.file().ok_or_else(|| Trouble::new("qemu-nbd serves a file"))?;
    expect_refused(&grow("raw", disk, 8 * MIB, 12 * MIB)?, "lock")?;
    assert_eq!(std::fs::metadata(disk)?.len(), 8 * MIB);
    Ok(())
}
