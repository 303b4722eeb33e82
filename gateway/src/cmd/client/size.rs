//! `client size`: one number.

use nbd_gateway_config::cli;

use super::ClientFault;
use super::connect::Connection;
use crate::proto::handshake::client::Wishes;

/// The size in bytes on one line, or as JSON.
///
/// Asked by NBD_OPT_GO: some servers answer NBD_OPT_INFO with a size of 0.
pub(super) async fn run(ask: &cli::Ask) -> Result<String, ClientFault> {
    let connection = Connection::open(&ask.uri, Wishes::go(ask.uri.export().as_str())).await?;
    let size = connection.export().size;
    connection.leave().await;
    Ok(if ask.json { format!("{}\n", serde_json::json!({ "size": size })) } else { format!("{size}\n") })
}
