//! Promise: the programs in `config/drivers/` do what they say: they read an order, grow and never shrink, and print the size
//! reached. LVM, Ceph and ZFS are played by stand-ins that know the few words used; qemu-img is the real one.

mod image;
mod stand_ins;

use std::path::{Path, PathBuf};

use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

const MIB: u64 = 1 << 20;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/drivers").join(name)
}

/// Runs one of them as the gateway would, with `path` for its PATH.
fn order(name: &str, path: &str, arguments: &[&str], from: u64, to: u64) -> Result<Output, Trouble> {
    Call::new("env")
        .args([format!("PATH={path}"), format!("NBD_GATEWAY_OLD_SIZE={from}"), format!("NBD_GATEWAY_NEW_SIZE={to}")])
        .args(["NBD_GATEWAY_EXPORT=vm", "NBD_GATEWAY_TENANT=blue"])
        .arg(shipped(name))
        .args(arguments)
        .run()
}

/// It succeeded, and printed this size and nothing else.
fn expect_reached(output: Output, size: u64) -> Result<(), Trouble> {
    let output = output.success()?;
    ensure(output.stdout == format!("{size}\n"), || output.trouble(&format!("should have printed {size}")).to_string())
}

/// It failed with these words, and printed no size.
fn expect_refused(output: &Output, words: &str) -> Result<(), Trouble> {
    let refused = !output.status.success() && output.stdout.is_empty() && output.stderr.contains(words);
    ensure(refused, || output.trouble(&format!("should have failed with {words:?}")).to_string())
}
