//! Promise: the recipes in the README work as printed.
//!
//! A recipe stands between `<!-- NAME -->` and `<!-- /NAME -->`. What is in its `toml` block is saved as `gateway.toml`, and
//! the lines of its `sh` blocks are typed in their order, all in one shell that ends at the first that fails, or at one
//! that says `# refused` and does not. A line that begins with `nbd-gateway serve` runs beside the rest, as in a terminal
//! of its own. Each recipe has a directory of its own name under /tmp, which must not be there before and is gone
//! afterwards.

use std::fs;
use std::path::Path;

use crate::gateway::binary;
use crate::place::Place;
use crate::process::Call;
use crate::readme::isolated;
use crate::trouble::{Trouble, ensure};

/// Types the lines of $2 in a shell, having saved $1 as the configuration; `gateway` is the program.
const SHELL: &str = r#"
set -eu
mkdir bin
ln -s "$GATEWAY" bin/nbd-gateway
export PATH="$PWD/bin:$PATH:/usr/sbin:/sbin"
printf %s "$1" >gateway.toml
config=$PWD/gateway.toml
out=$PWD/out log=$PWD/log
trap 'status=$?; [ $status = 0 ] || cat "$log"; kill $(jobs -p) 2>/dev/null || true; wait; exit $status' EXIT
while IFS= read -r line <&3; do
    echo "\$ $line"
    case $line in *gateway.toml*) cp "$config" . 2>/dev/null || true ;; esac
    case $line in
    "nbd-gateway serve"*)
        $line >"$out" 2>"$log" 3<&- &
        until grep -qx ready "$out"; do kill -0 $!; sleep 0.02; done
        ;;
    *"<<'END'")
        # A file that is written out: up to its own end.
        while IFS= read -r more <&3; do
            line="$line
$more"
            [ "$more" != END ] || break
        done
        eval "$line"
        ;;
    *'# refused'*) if eval "$line"; then exit 1; fi ;;
    *) eval "$line" ;;
    esac
done 3<"$2"
"#;

/// A recipe of the README.
pub(crate) struct Recipe {
    configuration: String,
    lines: Vec<String>,
}

impl Recipe {
    /// What stands between the markers of `name`.
    pub(crate) fn named(name: &str) -> Result<Self, Trouble> {
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
        let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
        let section = readme.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(section, _)| section);
        let section = section.ok_or_else(|| Trouble::new(format!("README.md has no section from {begin} to {end}")))?;
        let mut recipe = Self { configuration: String::new(), lines: Vec::new() };
        let mut language = None;
        for line in section.lines() {
            match (line.strip_prefix("```"), language) {
                (Some(of), None) => language = Some(of),
                (Some(_), Some(_)) => language = None,
                (None, Some("toml")) => recipe.configuration.extend([line, "\n"]),
                (None, Some("sh")) => recipe.lines.push(line.to_owned()),
                (None, _) => {}
            }
        }
        ensure(!recipe.lines.is_empty(), || format!("the recipe {name} types nothing"))?;
        Ok(recipe)
    }

    /// This one, then that one, in one shell.
    pub(crate) fn then(mut self, other: Self) -> Self {
        self.configuration.push_str(&other.configuration);
        self.lines.extend(other.lines);
        self
    }

    /// Types it; what was printed. `folder` is the directory that it makes.
    pub(crate) fn run(self, folder: &str) -> Result<String, Trouble> {
        self.run_by(Call::new("env"), folder)
    }

    /// The same by an `env` of somebody's own.
    fn run_by(self, env: Call, folder: &str) -> Result<String, Trouble> {
        let place = Place::fresh()?;
        let lines = place.path("lines");
        fs::write(&lines, self.lines.join("\n") + "\n")?;
        let folder = Folder::fresh(folder)?;
        let gateway = format!("GATEWAY={}", binary()?.display());
        let call = env.arg(gateway).args(["bash", "-c", SHELL, "recipe", &self.configuration]);
        let output = call.arg(&lines).inside(place.root()).run()?.success()?;
        drop(folder);
        Ok(output.stdout)
    }
}

/// The directory that a recipe makes, and the servers that it leaves running in it.
struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    fn fresh(path: &'a str) -> Result<Self, Trouble> {
        let path = Path::new(path);
        ensure(!path.exists(), || format!("{} is in the way: remove it", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        let pids = fs::read_dir(self.0).into_iter().flatten().flatten();
        for path in pids.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "pid")) {
            let pid = fs::read_to_string(path).unwrap_or_default();
            // A recipe that went through has ended them itself.
            let _ = Call::new("kill").args(pid.split_whitespace()).run();
        }
        // A directory that cannot be removed must not hide the failure that is being reported.
        let _ = fs::remove_dir_all(self.0);
    }
}

/// A disk grows twice under load behind a server that can't be resized, with no error, and its data is what was written.
fn grows_under_load(server: &str) -> Result<(), Trouble> {
    let recipe = Recipe::named(server)?.then(Recipe::named("grow")?);
    let said = recipe.run(&format!("/tmp/nbd-{server}"))?;
    ensure(said.contains("134217728") && said.contains("201326592"), || format!("it did not grow twice: {said}"))
}

#[test]
fn a_disk_behind_nbdkit_grows_under_load_as_the_readme_says() -> Result<(), Trouble> {
    grows_under_load("nbdkit")
}

#[test]
fn a_disk_behind_nbd_server_grows_under_load_as_the_readme_says() -> Result<(), Trouble> {
    grows_under_load("nbd-server")
}

#[test]
fn a_disk_behind_qemu_nbd_grows_under_load_as_the_readme_says() -> Result<(), Trouble> {
    grows_under_load("qemu-nbd")
}

#[test]
fn a_window_over_a_disk_that_was_used_before_grows_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("window")?.run("/tmp/nbd-window")?;
    ensure(said.contains("134217728") && said.contains("201326592"), || format!("it did not grow twice: {said}"))
}

#[test]
fn a_first_configuration_works_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("first")?.run_by(isolated()?, "/tmp/nbd-try")?;
    ensure(said.contains("no problems") && said.lines().any(|line| line == "hello"), || said.clone())
}

#[test]
fn an_operator_resizes_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("operator")?.run_by(isolated()?, "/tmp/nbd-resize")?;
    ensure(said.contains("disk is now 3 GiB\n") && said.contains("disk is now 3.5 GiB\n"), || said.clone())
}

#[test]
fn a_disk_behind_qemu_storage_daemon_grows_under_load_as_the_readme_says() -> Result<(), Trouble> {
    grows_under_load("qsd")
}

#[test]
fn a_tenant_gets_2_tib_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("tenant")?.run_by(isolated()?, "/tmp/nbd-tenant")?;
    let used = format!("nbd_gateway_tenant_used_bytes{{tenant=\"blue\"}} {}", (1024_u64 + 1040) << 30);
    ensure(said.contains(&used), || said.clone())
}
