//! LVM, Ceph and ZFS, played by scripts: a file `size` is the disk, `calls` lists what changed it, `broken` makes that fail.

use std::fs;

use super::{MIB, expect_reached, expect_refused, order};
use crate::place::Place;
use crate::process::{Call, Output};
use crate::trouble::{Trouble, ensure};

/// A shipped program, its argument, and the stand-ins for what it runs.
struct Kind {
    name: &'static str,
    disk: &'static str,
    tools: &'static [(&'static str, &'static str)],
    /// What sizes are rounded up to, in bytes.
    unit: u64,
    /// How the disk is grown to 64 MiB.
    call: &'static str,
}

/// What changes a size does so by this.
const SET: &str = r#"
set_size() { # SIZE UNIT
    [ ! -e "$ROOT/broken" ] || { echo 'no room left' >&2; exit 5; }
    echo $((($1 + $2 - 1) / $2 * $2)) >"$ROOT/size"
}
wrong() { echo "unexpected: $*" >&2; exit 99; }
"#;

const KINDS: [Kind; 3] = [
    Kind {
        name: "lvm",
        disk: "vg0/vm",
        tools: &[
            (
                "lvs",
                r#"[ "$*" = '--noheadings --nosuffix --units b --options lv_size vg0/vm' ] || wrong "$@"
                printf '  %s\n' "$(cat "$ROOT/size")""#,
            ),
            (
                "lvextend",
                r#"echo "$*" >>"$ROOT/calls"
                [ "$1 $3" = '--size vg0/vm' ] || wrong "$@"
                bytes=${2%b}
                [ $((bytes % 512)) = 0 ] || { echo "Size is not a multiple of 512." >&2; exit 3; }
                [ "$bytes" -gt "$(cat "$ROOT/size")" ] || { echo 'New size not larger than existing size' >&2; exit 5; }
                set_size "$bytes" 4194304
                echo '  Logical volume vg0/vm successfully resized.'"#,
            ),
        ],
        unit: 4 * MIB,
        call: "--size 67108864b vg0/vm",
    },
    Kind {
        name: "rbd",
        disk: "pool/vm",
        tools: &[(
            "rbd",
            r#"case "$*" in
            'info --format json pool/vm')
                echo '{"name":"vm","id":"1","size":'"$(cat "$ROOT/size")"',"objects":9,"order":22,"object_size":4194304}' ;;
            'resize --no-progress --size '*B' pool/vm')
                echo "$*" >>"$ROOT/calls"
                set_size "${4%B}" 1 ;;
            *) wrong "$@" ;;
            esac"#,
        )],
        unit: 1,
        call: "resize --no-progress --size 67108864B pool/vm",
    },
    Kind {
        name: "zfs",
        disk: "tank/vm",
        tools: &[(
            "zfs",
            r#"case "$*" in
            'get -Hp -o value volblocksize tank/vm') echo 16384 ;;
            'get -Hp -o value volsize tank/vm') cat "$ROOT/size" ;;
            'set volsize='*' tank/vm')
                echo "$*" >>"$ROOT/calls"
                size=${2#volsize=}
                [ $((size % 16384)) = 0 ] || { echo 'must be a multiple of volume block size (16K)' >&2; exit 1; }
                set_size "$size" 1 ;;
            *) wrong "$@" ;;
            esac"#,
        )],
        unit: 16384,
        call: "set volsize=67108864 tank/vm",
    },
];

/// A disk of 32 MiB, and a PATH on which its tools are.
struct Scene<'a> {
    kind: &'a Kind,
    place: Place,
}

impl<'a> Scene<'a> {
    fn new(kind: &'a Kind) -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        fs::write(place.path("size"), format!("{}\n", 32 * MIB))?;
        for (tool, text) in kind.tools {
            let (source, target) = (place.path("source"), place.path(tool));
            fs::write(&source, format!("#!/bin/sh\nset -eu\nROOT={:?}\n{SET}\n{text}\n", place.root()))?;
            // By another process: a file that this one wrote may be open in a child that it is starting just now.
            Call::new("install").args(["-m", "755"]).arg(source).arg(target).run()?.success()?;
        }
        Ok(Self { kind, place })
    }

    fn order(&self, from: u64, to: u64) -> Result<Output, Trouble> {
        let path = format!("{}:/usr/bin:/bin", self.place.root().display());
        order(self.kind.name, &path, &[self.kind.disk], from, to)
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.place.path("calls")).unwrap_or_default()
    }
}

#[test]
fn disks_grow_to_at_least_what_is_wanted_by_one_call() -> Result<(), Trouble> {
    for kind in &KINDS {
        let scene = Scene::new(kind)?;
        expect_reached(scene.order(32 * MIB, 64 * MIB)?, 64 * MIB)?;
        assert_eq!(scene.calls(), format!("{}\n", kind.call));
        expect_reached(scene.order(64 * MIB, 64 * MIB + 1)?, (64 * MIB + 1).next_multiple_of(kind.unit))?;
    }
    Ok(())
}

#[test]
fn a_disk_that_is_large_enough_is_left_as_it_is() -> Result<(), Trouble> {
    for kind in &KINDS {
        let scene = Scene::new(kind)?;
        // As after an answer that was lost, or when another hand was faster.
        expect_reached(scene.order(16 * MIB, 32 * MIB)?, 32 * MIB)?;
        expect_reached(scene.order(16 * MIB, 20 * MIB)?, 32 * MIB)?;
        ensure(scene.calls().is_empty(), || format!("{}: {}", kind.name, scene.calls()))?;
    }
    Ok(())
}

#[test]
fn no_disk_is_made_smaller() -> Result<(), Trouble> {
    for kind in &KINDS {
        let scene = Scene::new(kind)?;
        expect_refused(&scene.order(32 * MIB, 16 * MIB)?, "never reduced from here")?;
        ensure(scene.calls().is_empty(), || format!("{}: {}", kind.name, scene.calls()))?;
    }
    Ok(())
}

#[test]
fn what_the_tool_complains_of_is_passed_on_and_no_size_is_printed() -> Result<(), Trouble> {
    for kind in &KINDS {
        let scene = Scene::new(kind)?;
        fs::write(scene.place.path("broken"), "")?;
        expect_refused(&scene.order(32 * MIB, 64 * MIB)?, "no room left")?;
        // A disk that is not there has no size.
        fs::remove_file(scene.place.path("size"))?;
        expect_refused(&scene.order(32 * MIB, 64 * MIB)?, "No such file")?;
    }
    Ok(())
}
