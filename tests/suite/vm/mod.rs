//! What a virtual machine is made of: unpacked beside the system by `tests/suite/vm/prepare`, which `tests/run` calls.
//!
//! `NBD_SUITE_VM` names the directory (default: `suite-vm` in the target directory). What is missing is a failure that
//! tells what to run, never a reason to skip.

mod machine;

use std::path::PathBuf;

use crate::process::Call;
use crate::trouble::{Trouble, ensure};

pub(crate) use machine::Machine;

/// The unpacked qemu-system-x86_64: a program that brings its own libraries, firmware (`-L`) and modules, and takes the
/// arguments of any other. `-accel tcg` runs on every machine; no KVM is needed.
pub(crate) fn emulator() -> Result<PathBuf, Trouble> {
    unpacked("qemu-system-x86_64")
}

/// One of the things that were unpacked.
fn unpacked(name: &str) -> Result<PathBuf, Trouble> {
    let folder = match std::env::var_os("NBD_SUITE_VM") {
        Some(folder) => PathBuf::from(folder),
        // This binary is target/<profile>/deps/suite-<hash>.
        None => std::env::current_exe()?
            .ancestors()
            .nth(3)
            .map(|target| target.join("suite-vm"))
            .ok_or_else(|| Trouble::new("the suite runs outside a target directory; set NBD_SUITE_VM"))?,
    };
    let path = folder.join(name);
    ensure(path.is_file(), || {
        let folder = folder.display();
        format!("no {name} in {folder}; as root, or after `apt-get update`, run: tests/suite/vm/prepare {folder}")
    })?;
    Ok(path)
}

#[test]
fn the_unpacked_emulator_runs_here_and_can_emulate() -> Result<(), Trouble> {
    let program = emulator()?.display().to_string();
    let output = Call::new(&program).args(["-accel", "help"]).run()?.success()?;
    ensure(output.stdout.lines().any(|line| line == "tcg"), || output.trouble("lists no tcg").to_string())
}
