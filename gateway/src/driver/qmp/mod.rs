//! Resizing a node of qemu-storage-daemon's or qemu's by QMP.
//!
//! qemu resizes no node under a writable export. So the export is taken off, the node resized, and the export put back as
//! it was, whatever became of the resize: that is a task of its own, which goes on if nobody waits for it any more. An
//! export is only taken off if nobody is connected to it (`mode=safe`): the gateway's own lanes are aside by then, and
//! other clients of that server are not cut off. What QMP does not tell about an export (`writethrough`, `iothread`) is
//! put back as qemu's default.
//!
//! If the gateway is killed between the two, the export stays off until the next gateway finds the note of it
//! ([`memo`]) and puts it back. It is never put back by guessing: without a note, an export that is missing may have been
//! taken off by the operator, and [`Qmp::heal`] tells the command that puts it back.

mod memo;
mod restore;

use nbd_gateway_policy::types::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_config as config;
use nbd_gateway_proto::Errno;
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep};

use super::Order;
use crate::fault::Fault;
use crate::qmp::{Qemu, QmpError, SOON};
use memo::Memo;
use restore::Export;

/// How long connections that are closed on this side may still be open at qemu's.
const CLOSING: Duration = Duration::from_secs(5);
/// How often is looked whether they are gone.
const PACE: Duration = Duration::from_millis(25);
/// How long the opening of an export waits for what qemu says about its node.
const LOOKING: Duration = Duration::from_secs(2);
/// How long a fence may take: qemu waits for the slowest request in flight.
const FENCING: Duration = Duration::from_secs(30);
/// How long qemu may take to resize a node: it may have to write metadata, or wait for a slow disk.
const RESIZING: Duration = Duration::from_secs(600);

/// A node and its export.
#[derive(Clone, Debug)]
pub(crate) struct Qmp {
    at: config::Qmp,
    memo: Memo,
    /// Held as long as the export is off.
    turn: Arc<Mutex<()>>,
}

impl Qmp {
    /// For what the configuration names; nobody is asked yet. `export` is the gateway's name of it, noted in `state`.
    pub(crate) fn new(at: &config::Qmp, state: &Path, export: &str) -> Self {
        Self { at: at.clone(), memo: Memo::of(state, export), turn: Arc::default() }
    }

    /// Carries an order out. Cancel-safe: dropped, it goes on to its end, and the export is put back.
    pub(crate) async fn resize(&self, order: &Order) -> Result<(), Fault> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return Err(Fault::backend(format!("the export {} of an earlier resize is not back yet", self.at.export)));
        };
        let (tell, told) = oneshot::channel();
        let (at, memo, order) = (self.at.clone(), self.memo.clone(), order.clone());
        tokio::spawn(async move {
            carry_out(&at, &memo, &order, tell).await;
            drop(turn);
        });
        told.await.unwrap_or_else(|_| Err(Fault::us("the resize was lost in the gateway").or_done()))
    }

    /// Ends all connections to the export, and waits until everything that came over them is done: takes the export off by
    /// `block-export-del`, mode hard, and puts it back when it is gone. Other clients of it are cut off too. Cancel-safe:
    /// dropped, it goes on to its end, and the export is put back.
    pub(crate) async fn fence(&self, order: &Order) -> Result<(), Fault> {
        let late = || format!("qemu's export {} was not gone and back within {FENCING:?}", self.at.export);
        let (at, memo, order, turn) = (self.at.clone(), self.memo.clone(), order.clone(), Arc::clone(&self.turn));
        let fencing = tokio::spawn(async move {
            let _turn = turn.lock().await;
            end_connections(&at, &memo, &order).await
        });
        match tokio::time::timeout(FENCING, fencing).await {
            Ok(done) => done.unwrap_or_else(|_| Err(Fault::us("the gateway ends"))),
            Err(_) => Err(Fault::backend(late())),
        }
    }

    /// Whether what a grow exposes reads as zeroes by itself: in a regular file, or in qcow2 on nothing else. A device may
    /// show what it held before. False if qemu does not say so soon.
    pub(crate) async fn exposes_zeroes(&self) -> bool {
        let nodes = async {
            let mut qemu = Qemu::connect(&self.at.socket).await?;
            qemu.execute("query-named-block-nodes", json!({ "flat": true }), SOON).await
        };
        match tokio::time::timeout(LOOKING, nodes).await {
            Ok(Ok(nodes)) => zeroes(&nodes, &self.at.node),
            _ => false,
        }
    }

    /// For whoever could not connect to the NBD server, where the export is called `name`. If qemu is there and does not
    /// have the export, it is put back if an earlier gateway was killed while it had it off.
    pub(crate) async fn heal(&self, name: &str) -> Healed {
        let exports = async {
            let mut qemu = Qemu::connect(&self.at.socket).await?;
            qemu.execute("query-block-exports", Value::Null, SOON).await
        };
        let Ok(exports) = exports.await else { return Healed::NotThis };
        if ids(&exports).any(|id| id == self.at.export) {
            return Healed::NotThis;
        }
        let (socket, id) = (self.at.socket.display(), &self.at.export);
        if let Some(noted) = self.memo.read().await.and_then(|noted| Export::noted(&self.at, noted)) {
            return match noted.put_back(None).await {
                Ok(()) => {
                    tracing::warn!(id, command = %noted, "an export was off when the last gateway ended in the middle of a resize; it is back");
                    self.memo.remove().await;
                    Healed::Back
                }
                Err(error) => Healed::Missing(format!(
                    "qemu at {socket} has no export {id}: the last gateway ended while it had it off for a resize, and it can't be put back: {error}; send {noted} to that socket"
                )),
            };
        }
        let add = Export::plain(&self.at, name);
        Healed::Missing(format!(
            "qemu at {socket} has no export {id}: it was never added, or was taken off; to put it back send {add} to that socket"
        ))
    }
}

/// What became of a backend that could not be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Healed {
    /// Its export was missing, and is back: try again.
    Back,
    /// Its export is missing; a sentence that tells how to get it back.
    Missing(String),
    /// That is not why.
    NotThis,
}

async fn carry_out(at: &config::Qmp, memo: &Memo, order: &Order, tell: oneshot::Sender<Result<(), Fault>>) {
    let export = Export::of(at, &order.was);
    let noted = export.note(memo).await;
    let taken = match noted {
        Ok(()) => take_off(at, &export).await,
        Err(why) => Err(why.saying(|why| format!("{why}; nothing was touched"))),
    };
    let mut qemu = match taken {
        Ok(qemu) => qemu,
        Err(fault) => {
            if !fault.is_unknown() {
                memo.remove().await;
            }
            // An error means that nobody waits any more.
            let _ = tell.send(Err(fault));
            return;
        }
    };
    let to = json!({ "node-name": at.node, "size": order.to });
    let resized = qemu.execute("block_resize", to, RESIZING).await.map(drop).map_err(|error| refused(at, order, error));
    match export.put_back(Some(qemu)).await {
        Ok(()) => {
            memo.remove().await;
            let _ = tell.send(resized);
        }
        Err(error) => {
            tracing::warn!(export = order.export.as_str(), %error, command = %export, "an export that was taken off for a resize is not back yet; trying again");
            let _ = tell.send(Err(Fault::backend(format!(
                "qemu's export {} was taken off to resize node {} and can't be put back yet: {error}; if that goes on, send {export} to {}",
                at.export,
                at.node,
                at.socket.display()
            )).or_done()));
            if export.put_back_at_last(order.export.as_str()).await {
                memo.remove().await;
            }
        }
    }
}

/// The export is off until everything that came over its connections is done.
async fn end_connections(at: &config::Qmp, memo: &Memo, order: &Order) -> Result<(), Fault> {
    let export = Export::of(at, &order.was);
    let mut qemu = Qemu::connect(&at.socket).await?;
    let exports = async |qemu: &mut Qemu| qemu.execute("query-block-exports", Value::Null, SOON).await;
    let there = exports(&mut qemu).await?;
    if !ids(&there).any(|id| id == at.export) {
        // Nobody is connected to what is not there. Who took it off puts it back.
        return Ok(());
    }
    fits(at, &there)?;
    export.note(memo).await?;
    let delete = json!({ "id": at.export, "mode": "hard" });
    if let Err(error) = qemu.execute("block-export-del", delete, SOON).await
        && error.refusal().is_some()
    {
        memo.remove().await;
        return Err(error.into());
    }
    tracing::info!(export = order.export.as_str(), id = at.export, puts_back = %export, "taking an export off to end its lost connections");
    // BLOCK_EXPORT_DELETED comes, when the last request is done, with its leaving the list.
    let over = Instant::now() + RESIZING;
    let gone = loop {
        match exports(&mut qemu).await {
            Ok(there) if ids(&there).any(|id| id == at.export) => sleep(PACE).await,
            Ok(_) => break Ok(()),
            Err(error) if Instant::now() >= over => break Err(error.into()),
            Err(_) => {
                sleep(PACE).await;
                if let Ok(again) = Qemu::connect(&at.socket).await {
                    qemu = again;
                }
            }
        }
    };
    let back = match export.put_back(Some(qemu)).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(export = order.export.as_str(), %error, command = %export, "an export that was taken off to end its connections is not back yet; trying again");
            export.put_back_at_last(order.export.as_str()).await
        }
    };
    if back {
        memo.remove().await;
    }
    gone
}

/// Takes the export off; the qemu that did so.
async fn take_off(at: &config::Qmp, export: &Export) -> Result<Qemu, Fault> {
    let mut qemu = Qemu::connect(&at.socket).await?;
    let ask = async |qemu: &mut Qemu, command, arguments| qemu.execute(command, arguments, SOON).await;
    let exports = ask(&mut qemu, "query-block-exports", Value::Null).await?;
    fits(at, &exports)?;
    if qemu.size_of(&at.node).await?.is_none() {
        return Err(Fault::backend(format!(
            "qemu has no node {}; look at query-named-block-nodes for its name",
            at.node
        )));
    }
    tracing::info!(export = at.export, node = at.node, puts_back = %export, "taking an export off to resize its node");
    let patience = Instant::now() + CLOSING;
    loop {
        match ask(&mut qemu, "block-export-del", json!({ "id": at.export, "mode": "safe" })).await {
            Ok(_) => break,
            Err(error) if error.refusal().is_some_and(|desc| desc.contains("still in use")) => {
                if Instant::now() >= patience {
                    return Err(Fault::backend(format!(
                        "qemu's export {} is in use by another client than this gateway, and can't be taken off for a resize; disconnect that client, or give the gateway an export of its own",
                        at.export
                    )));
                }
                sleep(PACE).await;
            }
            Err(error) if error.refusal().is_some() => return Err(error.into()),
            // It may be off: then it is put back, before anything else is tried.
            Err(error) => {
                let off = format!("nobody knows whether qemu's export {} is off: {error}", at.export);
                return Err(match export.put_back(None).await {
                    Ok(()) => error.into(),
                    Err(_) => {
                        let (export, name) = (export.clone(), at.export.clone());
                        tokio::spawn(async move { export.put_back_at_last(&name).await });
                        Fault::backend(off).or_done()
                    }
                });
            }
        }
    }
    // qemu has begun; BLOCK_EXPORT_DELETED comes when it is no longer among the exports.
    while Instant::now() < patience + CLOSING {
        match ask(&mut qemu, "query-block-exports", Value::Null).await {
            Ok(exports) if ids(&exports).any(|id| id == at.export) => sleep(PACE).await,
            // If the connection is gone, the resize will say so, and the export is put back.
            _ => break,
        }
    }
    Ok(qemu)
}

fn ids(exports: &Value) -> impl Iterator<Item = &str> {
    exports.as_array().into_iter().flatten().filter_map(|it| it.get("id")?.as_str())
}

/// Whether a node gets longer by zeroes, by what it is.
fn zeroes(nodes: &Value, node: &str) -> bool {
    let nodes = || nodes.as_array().into_iter().flatten();
    let is = |it: &Value, driver: &str| it.get("drv").is_some_and(|drv| drv == driver);
    let Some(found) = nodes().find(|it| it.get("node-name").is_some_and(|name| name == node)) else { return false };
    if is(found, "qcow2") {
        return found.get("backing_file_depth") == Some(&json!(0));
    }
    // The driver `file` takes regular files only. A raw node is described by the name of what it is on.
    let place = found.pointer("/image/filename");
    let below = || nodes().filter(|it| place.is_some() && it.pointer("/image/filename") == place);
    is(found, "file")
        || is(found, "raw") && below().all(|it| is(it, "raw") || is(it, "file")) && below().any(|it| is(it, "file"))
}

/// Whether the export is there, and is an NBD export of the node.
fn fits(at: &config::Qmp, exports: &Value) -> Result<(), Fault> {
    let (id, node) = (&at.export, &at.node);
    let found = exports.as_array().into_iter().flatten().find(|it| it.get("id") == Some(&json!(id)));
    let Some(found) = found else {
        let there: Vec<&str> = ids(exports).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(Fault::backend(format!(
            "qemu has no export with the id {id} (`export` of [export.resize]); it has: {there}"
        )));
    };
    let text = |key| found.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("type"), text("node-name")) {
        ("nbd", on) if on == node => Ok(()),
        ("nbd", on) => Err(Fault::backend(format!(
            "qemu's export {id} is one of node {on}, not of {node} (`node` of [export.resize])"
        ))),
        (other, _) => Err(Fault::backend(format!("qemu's export {id} is no NBD export but {other}"))),
    }
}

/// What a refused `block_resize` means, and what to do.
fn refused(at: &config::Qmp, order: &Order, error: QmpError) -> Fault {
    let Some(desc) = error.refusal() else { return Fault::from(error).or_done() };
    let (node, to) = (&at.node, Bytes(order.to));
    let says = |needle: &str| desc.contains(needle);
    if says("No space left on device") || says("File too large") || says("exceeds maximum") {
        let why = format!("qemu can't make node {node} {to}: {desc}; make room where its file is");
        return Fault::backend(why).with_errno(Errno::ENOSPC);
    }
    let advice = if says("Permission conflict") || says("Conflicts with use") {
        "something else uses that node (a guest, a job, another export); resize it there, or take that off"
    } else if says("Cannot grow device files") {
        "the device under it has to be grown first: use driver = \"exec\" for a command that does, or grow it by hand"
    } else if says("read-only") || says("read only") {
        "open the node writable"
    } else {
        "its node was not resized"
    };
    Fault::backend(format!("{error} (node {node}, {to}); {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> config::Qmp {
        config::Qmp { socket: "/run/q".into(), node: "d0".into(), export: "e0".into() }
    }

    #[test]
    fn only_what_is_a_file_at_the_bottom_grows_by_zeroes() {
        let node = |name: &str, drv: &str, file: &str, depth: u32| json!({ "node-name": name, "drv": drv, "backing_file_depth": depth, "image": { "filename": file } });
        let on = |nodes: Value| zeroes(&nodes, "d0");
        assert!(on(json!([node("d0", "file", "/a", 0)])));
        assert!(on(json!([
            node("d1", "host_device", "/dev/b", 0),
            node("f", "file", "/a", 0),
            node("d0", "raw", "/a", 0)
        ])));
        assert!(on(json!([node("d0", "qcow2", "/dev/b", 0), node("f", "host_device", "/dev/b", 0)])));
        assert!(!on(json!([node("d0", "qcow2", "/a", 1), node("f", "file", "/a", 0)])));
        assert!(!on(json!([node("d0", "raw", "/dev/b", 0), node("f", "host_device", "/dev/b", 0)])));
        assert!(!on(json!([node("d0", "raw", "json:{}", 0), node("f", "file", "/a", 0)])));
        assert!(!on(json!([node("d0", "host_device", "/dev/b", 0)])));
        assert!(!on(json!([])));
        assert!(!on(json!([{ "node-name": "d0", "drv": "raw" }, { "drv": "file" }])));
    }

    #[test]
    fn an_export_that_does_not_fit_is_told_with_those_that_there_are() {
        let exports = |kind: &str, node: &str| json!([{ "id": "e1", "type": "nbd" }, { "id": "e0", "type": kind, "node-name": node }]);
        assert_eq!(fits(&at(), &exports("nbd", "d0")), Ok(()));
        assert!(fits(&at(), &exports("nbd", "d1")).unwrap_err().message().contains("node d1, not of d0"));
        assert!(fits(&at(), &exports("fuse", "d0")).unwrap_err().message().contains("no NBD export but fuse"));
        assert!(
            fits(&at(), &json!([{ "id": "e1" }, { "id": "e2" }])).unwrap_err().message().ends_with("it has: e1, e2")
        );
        assert!(fits(&at(), &json!([])).unwrap_err().message().ends_with("it has: none"));
    }
}
