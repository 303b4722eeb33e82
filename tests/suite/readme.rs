//! Promise: what the README and `serve` tell a newcomer to type works as printed.
//!
//! Both use the embedded default's fixed ports, so each runs in a network namespace of its own where the kernel lets us.

use std::fs;
use std::path::Path;

use crate::gateway::binary;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

const BEGIN: &str = "<!-- try -->";
const END: &str = "<!-- /try -->";

/// Starts the line in $1, waits until it says `ready`, runs the lines in $2 (default: the indented ones that `serve`
/// printed), and ends the first one as Ctrl-C would.
const NEWCOMER: &str = r#"
set -eu
cargo() { # the newcomer builds; here it is built already
    [ "$1" = run ]
    while [ "$1" != -- ]; do shift; done
    shift
    "$GATEWAY" "$@"
}
eval "$1" >out 2>log &
server=$!
trap 'cat out log; kill -KILL "$server" 2>/dev/null || true' EXIT
until grep -qx ready out; do kill -0 "$server"; sleep 0.02; done
commands=${2:-$(sed -n 's/^  *//p' out)}
[ -n "$commands" ]
while read -r command; do
    echo "\$ $command"
    eval "$command" </dev/null
done <<<"$commands"
# The job is the shell that runs the line; its child is the gateway.
pkill -INT -P "$server" || kill -INT "$server"
wait "$server"
trap - EXIT
! grep -E ' (WARN|ERROR) ' log
"#;

/// Brings the loopback interface up in a fresh network namespace, then becomes the command.
const WITH_LOOPBACK: &str = "
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))
os.execvp(sys.argv[1], sys.argv[1:])
";

/// Does $1 in a shell, saves $2 as gateway.toml, runs the gateway with it, types the lines of $3, and ends it as Ctrl-C would.
/// A line that says `# refused` has to fail, every other to succeed.
const RECIPE: &str = r#"
set -eu
nbd-gateway() { "$GATEWAY" "$@"; }
eval "$1"
printf '%s\n' "$2" >gateway.toml
"$GATEWAY" serve --config gateway.toml >out 2>log &
server=$!
trap 'cat out log; kill -KILL "$server" 2>/dev/null || true' EXIT
until grep -qx ready out; do kill -0 "$server"; sleep 0.02; done
while read -r command; do
    echo "\$ $command"
    case $command in
        *'# refused'*) if eval "$command" </dev/null; then exit 1; fi ;;
        *) eval "$command" </dev/null ;;
    esac
done <<<"$3"
kill -INT "$server"
wait "$server"
trap - EXIT
! grep -E ' (WARN|ERROR) ' log
"#;

fn newcomer(serve: &str, commands: &str) -> Result<String, Trouble> {
    alone(&Place::fresh()?, NEWCOMER, &[serve, commands])
}

/// A script of bash with these words, in a place and a network of its own.
fn alone(place: &Place, script: &str, words: &[&str]) -> Result<String, Trouble> {
    // Not on the path: it is not on a newcomer's either.
    let gateway = format!("GATEWAY={}", binary()?.display());
    let isolated = Call::new("unshare").args(["--map-root-user", "--net", "true"]).run()?.status.success();
    let call = if isolated {
        Call::new("unshare").args(["--map-root-user", "--net", "/usr/bin/python3", "-c", WITH_LOOPBACK, "env"])
    } else {
        Call::new("env")
    };
    let call = call.arg(gateway).args(["bash", "-c", script, "newcomer"]).args(words).inside(place.root());
    let output = call.run()?.success()?;
    Ok(output.stdout)
}

/// What stands between two lines of the README.
fn section(begin: &str, end: &str) -> Result<String, Trouble> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let section = readme.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(section, _)| section);
    section.map(str::to_owned).ok_or_else(|| Trouble::new(format!("README.md has no section from {begin} to {end}")))
}

#[test]
fn the_commands_in_the_readme_work_as_printed() -> Result<(), Trouble> {
    let section = section(BEGIN, END)?;
    let mut fenced = false;
    let mut lines = section.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        fenced && !fence && !line.trim().is_empty()
    });
    let serve = lines.next().unwrap_or_default();
    let commands = lines.collect::<Vec<_>>().join("\n");
    ensure(serve.contains(" serve") && !commands.is_empty(), || {
        format!("README.md should first start the gateway, then use it; it says {serve:?}, then {commands:?}")
    })?;
    newcomer(serve, &commands).map(|_| ())
}

#[test]
fn the_commands_that_serve_prints_without_a_configuration_work_as_printed() -> Result<(), Trouble> {
    let said = newcomer("cargo run --release -- serve", "")?;
    ensure(said.lines().filter(|line| line.starts_with("$ ")).count() >= 2, || format!("only these: {said}"))
}

/// Its files are in a directory of /tmp there, and in one of the test's own here.
#[test]
fn an_operators_recipe_works_as_printed() -> Result<(), Trouble> {
    let section = section("<!-- operator -->", "<!-- /operator -->")?;
    let place = Place::fresh()?;
    let section = section.replace("/tmp/nbd-resize", &place.root().display().to_string());
    let fenced: Vec<&str> = section.split("```").skip(1).step_by(2).collect();
    let [setup, config, commands] = fenced[..] else {
        return Err(Trouble::new(format!(
            "README.md should prepare, configure, and order; it has {} parts",
            fenced.len()
        )));
    };
    let body = |fence: &str, kind: &str| {
        let body =
            fence.strip_prefix(kind).and_then(|rest| rest.strip_prefix('\n')).map(|body| body.trim_end().to_owned());
        body.ok_or_else(|| Trouble::new(format!("README.md should have a part of {kind} here, not {fence:?}")))
    };
    let words = [body(setup, "sh")?, body(config, "toml")?, body(commands, "sh")?];
    let said = alone(&place, RECIPE, &words.each_ref().map(String::as_str))?;
    ensure(said.contains("disk is now 3 GiB") && said.contains("disk is now 3584 MiB"), || said.clone())
}
