//! Promise: the Debian package, installed by dpkg into a root of its own, has all that it should have, runs from there as its
//! unit says, and when it goes takes along what is its own and nobody's disks.

mod papers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;

use crate::gateway::{binary, said_until_ready};
use crate::place::Place;
use crate::process::{Call, Output, Running};
use crate::trouble::{Trouble, ensure, eventually};

/// What dpkg has to put there, without folders.
const FILES: &[&str] = &[
    "/etc/nbd-gateway/config.toml",
    "/lib/systemd/system/nbd-gateway-agent@.service",
    "/lib/systemd/system/nbd-gateway.service",
    "/lib/systemd/system/nbd-gateway.socket",
    "/usr/bin/nbd-gateway",
    "/usr/lib/sysusers.d/nbd-gateway.conf",
    "/usr/share/bash-completion/completions/nbd-gateway",
    "/usr/share/doc/nbd-gateway/changelog.Debian.gz",
    "/usr/share/doc/nbd-gateway/changelog.gz",
    "/usr/share/doc/nbd-gateway/copyright",
    "/usr/share/doc/nbd-gateway/examples/example.toml",
    "/usr/share/fish/vendor_completions.d/nbd-gateway.fish",
    "/usr/share/man/man1/nbd-gateway.1.gz",
    "/usr/share/man/man5/nbd-gateway.toml.5.gz",
    "/usr/share/nbd-gateway/alerts.yml",
    "/usr/share/nbd-gateway/dashboard.json",
    "/usr/share/nbd-gateway/drivers/lvm",
    "/usr/share/nbd-gateway/drivers/qemu-img",
    "/usr/share/nbd-gateway/drivers/rbd",
    "/usr/share/nbd-gateway/drivers/zfs",
    "/usr/share/zsh/vendor-completions/_nbd-gateway",
];

/// What `systemd-analyze security` may say of the service, in tenths.
const EXPOSURE: &str = "12";

/// The package of the program under test, made once.
fn package() -> Result<PathBuf, Trouble> {
    static MADE: LazyLock<Result<PathBuf, Trouble>> = LazyLock::new(|| {
        let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/debian/make");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package");
        // What another version left.
        let _ = fs::remove_dir_all(&folder);
        let mut call = Call::new(&make.display().to_string());
        // Sooner done, and larger. cargo-deb's own gzip is its slowest.
        call = call.arg(binary()?).arg(&folder).args(["--fast", "--compress-type", "gz", "--compress-system"]);
        let said = call.run()?.success()?.stdout;
        Ok(PathBuf::from(said.trim()))
    });
    MADE.clone()
}

/// A root directory with nothing but dpkg's own files.
struct Root(Place);

impl Root {
    fn fresh() -> Result<Self, Trouble> {
        let place = Place::fresh()?;
        for folder in ["etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
            fs::create_dir_all(place.path(folder))?;
        }
        fs::write(place.path("var/lib/dpkg/status"), "")?;
        Ok(Self(place))
    }

    fn with_the_package() -> Result<Self, Trouble> {
        let root = Self::fresh()?;
        root.dpkg(&["--install", &package()?.display().to_string()])?;
        Ok(root)
    }

    /// dpkg on this root. Its scripts run outside, and are told of it by DPKG_ROOT.
    fn dpkg(&self, words: &[&str]) -> Result<Output, Trouble> {
        let call = Call::new("dpkg").arg(format!("--root={}", self.0.root().display()));
        let call = call.args(["--force-not-root,depends,script-chrootless", "--log=/dev/null"]);
        call.args(words).run()?.success()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path(inside.trim_start_matches('/'))
    }

    fn read(&self, inside: &str) -> Result<String, Trouble> {
        Ok(fs::read_to_string(self.path(inside))?)
    }

    fn has(&self, inside: &str) -> bool {
        self.path(inside).exists()
    }

    /// The words of these lines of the service's unit, in their order, as systemd would run them if this were its root.
    fn commands(&self, key: &str, config: &Path) -> Result<Vec<(PathBuf, Vec<String>)>, Trouble> {
        let unit = self.read("lib/systemd/system/nbd-gateway.service")?;
        let config = config.display().to_string();
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let commands = lines.map(|line| {
            let mut words = line.split(' ').map(|word| word.replace("/etc/nbd-gateway/config.toml", &config));
            // Without a path it is looked for in /usr/bin, among others.
            (self.path("usr/bin").join(words.next().unwrap_or_default()), words.collect())
        });
        Ok(commands.collect())
    }

    /// `systemctl reload`, as systemd does it: one after the other, until one fails.
    fn reload(&self, config: &Path, main: u32) -> Result<Output, Trouble> {
        let mut last = None;
        for (program, words) in self.commands("ExecReload", config)? {
            let words = words.into_iter().map(|word| word.replace("$MAINPID", &main.to_string()));
            let output = Call::new(&program.display().to_string()).args(words).run()?;
            let failed = !output.status.success();
            last = Some(output);
            if failed {
                break;
            }
        }
        last.ok_or_else(|| Trouble::new("the unit has no ExecReload="))
    }

    /// What was installed, with its addresses and its state where this test can have them.
    fn configuration(&self) -> Result<PathBuf, Trouble> {
        let state = self.path("var/lib/nbd-gateway");
        // As StateDirectory= does.
        fs::create_dir_all(&state)?;
        let text = self.read("etc/nbd-gateway/config.toml")?;
        let text = text.replace("\"127.0.0.1:10809\"", "\"127.0.0.1:0\"").replace("127.0.0.1:9809", "127.0.0.1:0");
        let config = self.path("config.toml");
        fs::write(&config, text.replace("/var/lib/nbd-gateway", &state.display().to_string()))?;
        Ok(config)
    }
}

#[test]
fn it_brings_what_it_should_and_a_user_and_is_neither_enabled_nor_started() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    let listed = root.dpkg(&["--listfiles", "nbd-gateway"])?.stdout;
    let mut files: Vec<&str> = listed.lines().filter(|path| root.path(path).is_file()).collect();
    files.sort_unstable();
    assert_eq!(files, FILES);
    let user = root.read("etc/passwd")?;
    ensure(user.contains("nbd-gateway:x:") && user.contains(":/var/lib/nbd-gateway:/usr/sbin/nologin"), || {
        format!("no user nbd-gateway in {user}")
    })?;
    ensure(!root.has("etc/systemd"), || "a unit is enabled".into())
}

#[test]
fn its_units_are_sound_and_its_service_is_confined() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    // What they refer to.
    let units = fs::read_dir("/lib/systemd/system")?.filter_map(Result::ok);
    for unit in units.filter(|unit| unit.path().extension().is_some_and(|kind| kind == "target")) {
        fs::copy(unit.path(), root.path("lib/systemd/system").join(unit.file_name()))?;
    }
    fs::create_dir_all(root.path("bin"))?;
    fs::copy("/bin/kill", root.path("bin/kill"))?;
    let at = format!("--root={}", root.0.root().display());
    let names = ["nbd-gateway.service", "nbd-gateway.socket", "nbd-gateway-agent@nbd0.service"];
    let verdict = Call::new("systemd-analyze").args(["verify", "--man=no", &at]).args(names).run()?.success()?;
    let complaints = format!("{}{}", verdict.stdout, verdict.stderr);
    ensure(complaints.is_empty(), || format!("systemd complains: {complaints}"))?;
    let rules = ["security", "--offline=true", &at, "--threshold", EXPOSURE, "nbd-gateway.service"];
    Call::new("systemd-analyze").args(rules).run()?.success()?;
    Ok(())
}

#[test]
fn installed_it_serves_and_when_it_goes_takes_the_ledger_and_leaves_the_disks() -> Result<(), Trouble> {
    let root = Root::with_the_package()?;
    let config = root.configuration()?;
    let (serve, words) = root.commands("ExecStart", &config)?.pop().expect("the unit has one");
    let mut process = Running::start_with(&serve, words, root.path("log"), Stdio::null(), Stdio::piped())?;
    let said = said_until_ready(&mut process)?;
    let uri = said.iter().find_map(|line| line.strip_prefix("listening on "));
    let uri = format!("{}/demo", uri.ok_or_else(|| process.trouble(&format!("says {said:?}")))?);
    let commands = ["write -P 0x5a 1M 64k", "read -P 0x5a 1M 64k", "flush"];
    let qemu = Call::new("qemu-io").args(["-f", "raw"]).args(commands.iter().flat_map(|&one| ["-c", one])).arg(&uri);
    let output = qemu.run()?.success()?;
    ensure(!output.stdout.contains("verification failed"), || output.stdout.clone())?;
    // A file with problems fails the reload, and the gateway has heard of it; so it does of one in order again.
    let admin = said.iter().find_map(|line| line.strip_prefix("admin on "));
    let admin = admin.ok_or_else(|| process.trouble(&format!("says {said:?}")))?;
    let in_order = |value: &str| {
        let page = Call::new("curl").args(["--silent", "--fail", &format!("{admin}/metrics")]).run();
        page.is_ok_and(|page| page.stdout.contains(&format!("\nnbd_gateway_config_reload_success {value}\n")))
    };
    let right = fs::read_to_string(&config)?;
    fs::write(&config, format!("nonsense = 1\n{right}"))?;
    let pid = process.child().id();
    let refused = root.reload(&config, pid)?;
    ensure(!refused.status.success() && refused.stderr.contains("nonsense"), || refused.stderr.clone())?;
    eventually("a reload that changed nothing", || in_order("0"))?;
    fs::write(&config, right)?;
    root.reload(&config, pid)?.success()?;
    eventually("a reload", || in_order("1"))?;
    let status = process.stop()?;
    ensure(status.success(), || format!("ended with {status}"))?;

    // An operator's own settings outlive an upgrade.
    let settings = root.path("etc/nbd-gateway/config.toml");
    fs::write(&settings, root.read("etc/nbd-gateway/config.toml")? + "# mine\n")?;
    root.dpkg(&["--force-confold", "--install", &package()?.display().to_string()])?;
    ensure(root.read("etc/nbd-gateway/config.toml")?.ends_with("# mine\n"), || "an upgrade took the settings".into())?;

    root.dpkg(&["--remove", "nbd-gateway"])?;
    let left = ["var/lib/nbd-gateway/ledger.sqlite", "var/lib/nbd-gateway/demo.img", "etc/nbd-gateway/config.toml"];
    for file in left {
        ensure(root.has(file), || format!("{file} went with the program"))?;
    }
    ensure(!root.has("usr/bin/nbd-gateway"), || "the program is still there".into())?;
    root.dpkg(&["--purge", "nbd-gateway"])?;
    ensure(root.has("var/lib/nbd-gateway/demo.img"), || "a disk was purged".into())?;
    let state = fs::read_dir(root.path("var/lib/nbd-gateway"))?.filter_map(Result::ok);
    let names: Vec<_> = state.map(|entry| entry.file_name()).collect();
    ensure(names == ["demo.img"], || format!("beside the disk there is still {names:?}"))?;
    for path in ["etc/nbd-gateway", "usr/share/nbd-gateway", "usr/lib/sysusers.d/nbd-gateway.conf"] {
        ensure(!root.has(path), || format!("{path} is still there"))?;
    }
    Ok(())
}
