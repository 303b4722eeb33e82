//! Which process has a file locked, for the sentence of a refusal. flock(2) does not say; the kernel's list of locks does,
//! where this process may read it (`ProcSubset=pid` hides it).

use rustix::fd::AsFd;
use rustix::fs::{fstat, major, minor};

/// In brackets and after a space, to stand in a sentence: ` (process 7, "qemu-nbd")`. Empty if it can't be found out. Blocks.
pub(crate) fn holder(file: impl AsFd) -> String {
    let found = fstat(file).ok().zip(std::fs::read_to_string("/proc/locks").ok()).and_then(|(file, locks)| {
        process(&locks, &format!("{:02x}:{:02x}:{}", major(file.st_dev), minor(file.st_dev), file.st_ino))
    });
    match found {
        None => String::new(),
        Some(process) if process == std::process::id() => " (another export of this gateway)".to_owned(),
        Some(process) => match std::fs::read_to_string(format!("/proc/{process}/comm")) {
            Ok(name) => format!(" (process {process}, {:?})", name.trim_end()),
            Err(_) => format!(" (process {process})"),
        },
    }
}

/// The first process that the list has for a file. A request that waits has an arrow before its kind, a process of another
/// namespace the number 0.
fn process(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, process, locked, ..] = words.as_slice() else { return None };
        process.parse().ok().filter(|process| *locked == file && *process != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_has_who_holds_a_lock_and_who_waits_for_it() {
        let list = "1: POSIX  ADVISORY  WRITE 7 fe:00:12 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 0 fe:00:12 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 8 fe:00:12 0 EOF\n\
                    3: FLOCK  ADVISORY  READ 9 fe:00:13 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 10 fe:00:12 0 EOF\n";
        for (file, holder) in [("fe:00:12", Some(10)), ("fe:00:13", Some(9)), ("fe:00:1", None)] {
            assert_eq!(process(list, file), holder, "{file}");
        }
    }
}
