//! At rest: nobody wants anything, nothing is broken. Then what the gateway says and what its ledger holds is what the files
//! are, and nothing is reserved any more.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::town::{Export, TENANTS, Town};
use super::witness::{lengths, shown, sum};
use crate::gateway::binary;
use crate::process::Call;
use crate::scripted::numbers::{info, opt};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// How long it may take until everything is known: servers are dialled again, unknown outcomes probed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until all is as it should be, or says what is not.
pub(super) fn settle(town: &Town, exports: &[Export]) -> Result<(), Trouble> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = look(town, exports);
        if found.is_ok() || Instant::now() > end {
            return found.map_err(|trouble| {
                Trouble::new(format!("{trouble}\n--- the files, {PATIENCE:?} after the last action:"))
                    .with(lengths(exports).map_or_else(|e| e.to_string(), |sizes| shown(exports, &sizes)))
                    .with(operator(town, "exports").map_or_else(|e| e.to_string(), |json| format!("{json:#}")))
            });
        }
        thread::park_timeout(Duration::from_millis(100));
    }
}

fn look(town: &Town, exports: &[Export]) -> Result<(), Trouble> {
    // Every export is open, so that its size is measured.
    for export in exports {
        let mut client = RawClient::connect(&town.way.socket)?;
        client.upgrade(Framing::Structured)?;
        client
            .learn(opt::GO, export.name, &[info::RESIZE])
            .map_err(|e| Trouble::new(format!("{}: {e}", export.name)))?;
        client.leave()?;
    }
    let sizes = lengths(exports)?;
    let told = operator(town, "tenants")?;
    for (tenant, (name, quota)) in TENANTS.iter().enumerate() {
        let of = |key: &str| {
            let tenants = told.as_array().into_iter().flatten();
            tenants.into_iter().find(|told| told["name"] == *name).and_then(|told| told[key].as_u64())
        };
        let sum = sum(exports, &sizes, tenant);
        ensure(sum <= *quota, || format!("tenant {name}: its files sum to {sum}, more than its quota of {quota}"))?;
        let said = (of("used"), of("reserved"), of("unsettled"));
        ensure(said == (Some(sum), Some(0), Some(0)), || {
            format!("tenant {name}: its files sum to {sum}, and of used, reserved, unsettled the gateway says {said:?}")
        })?;
    }
    ledger(town, exports, &sizes)
}

/// What the ledger holds.
fn ledger(town: &Town, exports: &[Export], sizes: &[u64]) -> Result<(), Trouble> {
    let ledger = read(&town.state.join("ledger.sqlite")).map_err(|e| Trouble::new(format!("the ledger: {e}")))?;
    ensure(ledger.reservations.is_empty(), || format!("the ledger has reservations left: {:?}", ledger.reservations))?;
    for (export, size) in exports.iter().zip(sizes) {
        let row = ledger.exports.iter().find(|(name, ..)| name == export.name);
        let expected = (TENANTS[export.tenant].0, *size);
        ensure(row.is_some_and(|(_, tenant, size)| (tenant.as_str(), *size) == expected), || {
            format!("the ledger has {row:?} for {}, whose file has {size} bytes", export.name)
        })?;
    }
    Ok(())
}

struct Ledger {
    exports: Vec<(String, String, u64)>,
    /// Export, bytes, state.
    reservations: Vec<(String, u64, String)>,
}

fn read(path: &Path) -> rusqlite::Result<Ledger> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let exports = connection
        .prepare("SELECT name, tenant, size FROM export")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u64)))?
        .collect::<rusqlite::Result<_>>()?;
    let reservations = connection
        .prepare("SELECT export, bytes, state FROM reservation")?
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Ledger { exports, reservations })
}

fn operator(town: &Town, what: &str) -> Result<Value, Trouble> {
    let call = Call::new(&binary()?.display().to_string()).args([what, "--json", "--admin", &town.way.admin]);
    Ok(serde_json::from_str(&call.run()?.success()?.stdout)?)
}
