//! Promise: with `driver = "qmp"` a disk of a stock qemu-storage-daemon grows under its clients, and whatever goes wrong its
//! export is there afterwards; with `[[export.notify]] qmp` a stock qemu that has an export open sees the new size.

mod adopt;
mod daemon;
mod driver;
mod guest;
mod load;
mod relay;

pub(crate) use daemon::Monitor;
