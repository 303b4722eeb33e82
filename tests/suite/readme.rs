//! Promise: what the README and `serve` tell a newcomer to type works as printed. (The README's first lines are for more
//! than one terminal, and a browser: see `page/first.rs`.)
//!
//! All use the embedded default's fixed ports, so each runs in a network namespace of its own where the kernel lets us.

use std::fs;
use std::path::Path;

use crate::gateway::binary;
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

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
nbd-gateway() { "$GATEWAY" "$@"; }
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
pub(crate) const WITH_LOOPBACK: &str = "
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))
os.execvp(sys.argv[1], sys.argv[1:])
";

fn newcomer(serve: &str, commands: &str) -> Result<String, Trouble> {
    let place = Place::fresh()?;
    // Not on the path: it is not on a newcomer's either.
    let gateway = format!("GATEWAY={}", binary()?.display());
    let call =
        isolated()?.arg(gateway).args(["bash", "-c", NEWCOMER, "newcomer", serve, commands]).inside(place.root());
    let output = call.run()?.success()?;
    Ok(output.stdout)
}

/// `env`, with a network of its own where the kernel lets us: what follows may use fixed ports.
pub(crate) fn isolated() -> Result<Call, Trouble> {
    Ok(Call::new("env").args(isolation()?))
}

/// What a command begins with to have a network of its own; nothing where the kernel does not let us.
pub(crate) fn isolation() -> Result<Vec<String>, Trouble> {
    let words = ["unshare", "--map-root-user", "--net"];
    let isolated = Call::new("env").args(words).arg("true").run()?.status.success();
    let words = words.iter().chain(&["/usr/bin/python3", "-c", WITH_LOOPBACK, "env"]);
    Ok(if isolated { words.map(|word| (*word).to_owned()).collect() } else { Vec::new() })
}

/// The lines of code in the README's section of that name: those that start the gateway, and those that use it.
pub(crate) fn section(name: &str) -> Result<(String, String), Trouble> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let section = readme.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(section, _)| section);
    let section = section.ok_or_else(|| Trouble::new(format!("README.md has no section from {begin} to {end}")))?;
    let (mut fenced, mut serves) = (false, false);
    let (mut serve, mut commands) = (Vec::new(), Vec::new());
    for line in section.lines() {
        let fence = line.starts_with("```");
        fenced ^= fence;
        if fenced && !fence && !line.trim().is_empty() {
            if serves {
                commands.push(line)
            } else {
                serve.push(line)
            }
            serves |= line.split_whitespace().any(|word| word == "serve");
        }
    }
    ensure(serves && !commands.is_empty(), || {
        format!("README.md should first start the gateway, then use it; it says {serve:?}, then {commands:?}")
    })?;
    Ok((serve.join("\n"), commands.join("\n")))
}

#[test]
fn the_way_to_tls_in_the_readme_works_as_printed() -> Result<(), Trouble> {
    let (serve, commands) = section("tls")?;
    let said = newcomer(&serve, &commands)?;
    ensure(said.contains("with TLS") && said.contains("virtual size: 1 GiB"), || said)
}

#[test]
fn the_commands_that_serve_prints_without_a_configuration_work_as_printed() -> Result<(), Trouble> {
    let said = newcomer("cargo run --release -- serve", "")?;
    ensure(said.lines().filter(|line| line.starts_with("$ ")).count() >= 2, || format!("only these: {said}"))
}
