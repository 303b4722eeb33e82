//! What the fuzz targets share: each is one line that names it.

use std::path::Path;
use std::{env, fs, io};

use nbd_gateway_proto::fuzz::TARGETS;

pub use libfuzzer_sys::fuzz_target;
pub use nbd_gateway_proto::fuzz::Target;

/// The target of this name. Its seeds are written to the directory that the environment names in `SEEDS`, if it does:
/// libFuzzer calls this before it reads its corpus.
pub fn prepare(name: &str) -> Target {
    let targets = TARGETS.into_iter();
    #[cfg(feature = "gateway")]
    let targets = targets.chain(nbd_gateway::fuzz::TARGETS);
    let target = { targets }.find(|target| target.name == name).expect("a target of the tables");
    if let Some(dir) = env::var_os("SEEDS") {
        write_seeds(target, Path::new(&dir)).expect("seeds can be written to the directory in SEEDS");
    }
    target
}

fn write_seeds(target: Target, dir: &Path) -> io::Result<()> {
    for (number, seed) in (target.seeds)().into_iter().enumerate() {
        fs::write(dir.join(format!("seed-{number:02}")), seed)?;
    }
    Ok(())
}

/// The whole program of one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<$crate::Target> =
            std::sync::LazyLock::new(|| $crate::prepare($name));
        $crate::fuzz_target!(init: std::sync::LazyLock::force(&TARGET), |data: &[u8]| (TARGET.body)(data));
    };
}
