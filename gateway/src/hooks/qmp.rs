//! A hook that is a qemu with the export open: it is made to see the bigger disk, and its guest with it.
//!
//! qemu reads the size of an NBD disk when it connects, and tells its guest at `block_resize`, which takes the size that
//! qemu has read last. So its session is ended between two messages, one byte is read through it, so that it connects
//! again, and then comes `block_resize`. A qemu whose NBD node has no `reconnect-delay` answers what its guest asks in that
//! moment with an error; QMP does not tell whether it has one.
//!
//! Nobody else's session is ended: it is that qemu's if both its ends are processes of this host and the same one. Where
//! the kernel does not tell (a session over TCP, another PID namespace), a session is ended only if it is the one client
//! who has not seen the size. qemu is never shown a smaller size, which it does not survive.

use nbd_gateway_policy::types::{Bytes, Span};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_metrics::HookWay;
use nbd_gateway_net::Peer;
use nbd_gateway_policy::style::ClientStyle;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{ConnectedClient, Disconnect, Tell};
use crate::command::Occasion;
use crate::fault::Fault;
use crate::qmp::{Qemu, SOON};
use crate::request::SessionId;

/// How long is waited for a qemu that connects again by itself.
const PACE: Duration = Duration::from_millis(200);
/// A node that is made, and taken away, to have one thing read where qemu has no `qemu-io`.
const LOOK: &str = "nbd-gateway-look";

/// A node of a qemu.
pub(super) struct Qmp {
    pub(super) socket: PathBuf,
    pub(super) node: String,
    pub(super) limit: Duration,
    pub(super) clients: Arc<dyn Disconnect>,
}

impl Tell for Qmp {
    const WAY: HookWay = HookWay::Qmp;

    async fn tell(&self, occasion: &Occasion) -> Result<(), Fault> {
        let limit = self.limit;
        let adopted = tokio::time::timeout(limit, self.adopt(occasion.export.as_str(), occasion.size));
        adopted.await.unwrap_or_else(|_| {
            Err(Fault::backend(format!("qemu has not seen the size within {} (timeout)", Span(limit))))
        })
    }
}

impl Qmp {
    async fn adopt(&self, export: &str, size: u64) -> Result<(), Fault> {
        let mut qemu = Qemu::connect(&self.socket).await?;
        let sees = self.sees(&mut qemu).await?;
        if sees > size {
            // It keeps what it sees as long as it runs.
            tracing::warn!(export, hook = %self, sees, size, "an export has become smaller than what a qemu sees of it; reading past the end aborts that qemu");
            return Ok(());
        }
        // It may have connected again by itself.
        if self.resize(&mut qemu, size).await? {
            return Ok(());
        }
        let chosen = behind(&self.clients.clients_of(export), size, qemu.process())?;
        self.clients.disconnect(&chosen).await;
        loop {
            self.have_one_read(&mut qemu).await?;
            if self.resize(&mut qemu, size).await? {
                return Ok(());
            }
            sleep(PACE).await;
        }
    }

    /// The size that qemu sees of the node: an NBD node, or a raw one on it. Any other is not the gateway's to resize.
    async fn sees(&self, qemu: &mut Qemu) -> Result<u64, Fault> {
        let node = &self.node;
        let nodes = qemu.execute("query-named-block-nodes", json!({ "flat": true }), SOON).await;
        let nodes = nodes?;
        let found = nodes.as_array().into_iter().flatten().find(|it| it.get("node-name") == Some(&json!(node)));
        let found = found
            .ok_or_else(|| Fault::backend(format!("that qemu has no node {node}; see query-named-block-nodes")))?;
        let text = |at: &str| found.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let filename = text("/image/filename");
        let on_nbd = filename.starts_with("nbd") || filename.contains("\"driver\": \"nbd\"");
        match text("/drv") {
            "nbd" => {}
            "raw" if on_nbd => {}
            other => {
                return Err(Fault::backend(format!(
                    "that qemu's node {node} is {other} on `{filename}`, not an NBD node or a raw one on it; name the one that is"
                )));
            }
        }
        let size = found.pointer("/image/virtual-size").and_then(Value::as_u64);
        size.ok_or_else(|| Fault::backend(format!("that qemu does not tell the size of its node {node}")))
    }

    /// Whether qemu, and its guest, has the size now.
    async fn resize(&self, qemu: &mut Qemu, size: u64) -> Result<bool, Fault> {
        let node = &self.node;
        match qemu.execute("block_resize", json!({ "node-name": node, "size": size }), SOON).await {
            Ok(_) => Ok(self.sees(qemu).await? >= size),
            // It has not read the size yet.
            Err(error) if error.refusal().is_some_and(|desc| desc.contains("Cannot grow NBD nodes")) => Ok(false),
            Err(error) => Err(Fault::backend(format!("{error} (node {node}, {})", Bytes(size)))),
        }
    }

    /// Has qemu send one request, so that it connects if it is not connected.
    async fn have_one_read(&self, qemu: &mut Qemu) -> Result<(), Fault> {
        let node = &self.node;
        if !node.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"#-._/".contains(&byte)) {
            return Err(Fault::backend(format!("the node `{node}` has a name that no node of qemu's can have")));
        }
        // What came of the read does not matter: without a reconnect-delay the first fails.
        let line = json!({ "command-line": format!("qemu-io {node} \"read -q 0 1\"") });
        match qemu.execute("human-monitor-command", line, self.limit).await {
            Err(error) if error.is_unknown_command() => {}
            done => return done.map(drop).map_err(Fault::from),
        }
        // qemu-storage-daemon has none. Opening a format reads its header; this one is small and names no other file,
        // whatever a guest has written there.
        let look = json!({ "driver": "bochs", "node-name": LOOK, "read-only": true, "file": node });
        match qemu.execute("blockdev-add", look, self.limit).await {
            Ok(_) => {
                let gone = qemu.execute("blockdev-del", json!({ "node-name": LOOK }), SOON).await;
                gone.map(drop).map_err(Fault::from)
            }
            Err(error) if error.refusal().is_some() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for Qmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qmp {} node {}", self.socket.display(), self.node)
    }
}

/// The sessions that are `qemu`'s and have not been told `size`. None: it is not connected, or it has seen the size.
fn behind(clients: &[ConnectedClient], size: u64, qemu: Option<i32>) -> Result<Vec<SessionId>, Fault> {
    let process = |client: &ConnectedClient| match client.peer {
        Peer::Unix { pid, .. } => pid,
        Peer::Tcp(_) | Peer::Unknown => None,
    };
    let behind = |client: &&ConnectedClient| client.style == ClientStyle::Stock && client.told < size;
    let of_process = |pid| {
        let its = clients.iter().filter(move |client| process(client) == pid);
        its.filter(behind).map(|client| client.session).collect::<Vec<_>>()
    };
    if qemu.is_some() && clients.iter().any(|client| process(client) == qemu) {
        return Ok(of_process(qemu));
    }
    let unknown = of_process(None);
    if unknown.len() > 1 {
        return Err(Fault::backend(format!(
            "{} clients have not seen the size, and which of them is that qemu cannot be told; have it connect by a Unix socket of this gateway on this host",
            unknown.len()
        )));
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn client(session: u64, peer: Peer, told: u64) -> ConnectedClient {
        ConnectedClient { session: SessionId::after(session), peer, style: ClientStyle::Stock, told }
    }

    const fn process(pid: i32) -> Peer {
        Peer::Unix { pid: Some(pid), uid: 0, gid: 0 }
    }

    #[test]
    fn only_what_is_that_qemus_is_ended() {
        let tcp = Peer::Tcp([127, 0, 0, 1].into());
        let hidden = Peer::Unix { pid: None, uid: 0, gid: 0 };
        let mut all = vec![client(1, process(7), 64), client(2, process(8), 64), client(3, tcp, 64)];
        all.push(ConnectedClient { style: ClientStyle::Automatic, ..client(5, process(7), 64) });
        all.push(client(6, process(7), 128));
        let ended = |all: &[ConnectedClient], qemu| behind(all, 128, qemu);
        // By its process; what has seen the size, or is told it, stays.
        assert_eq!(ended(&all, Some(7)), Ok(vec![SessionId::after(1)]));
        // It is none of the processes: so it is the one of whom nobody knows.
        assert_eq!(ended(&all, Some(9)), Ok(vec![SessionId::after(3)]));
        assert_eq!(ended(&all, None), Ok(vec![SessionId::after(3)]));
        // Of two such, nobody's session is ended.
        all.push(client(7, hidden, 64));
        assert!(ended(&all, Some(9)).unwrap_err().message().starts_with("2 clients have not seen the size"));
        assert_eq!(ended(&all, Some(8)), Ok(vec![SessionId::after(2)]));
        assert_eq!(ended(&[client(1, process(7), 128)], Some(7)), Ok(vec![]));
        assert_eq!(ended(&[], Some(7)), Ok(vec![]));
    }
}
