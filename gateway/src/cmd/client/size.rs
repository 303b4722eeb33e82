//! `client size`: one number.

use super::connect::Connection;
use super::{About, ClientFault};
use crate::proto::handshake::client::Wishes;

/// The size in bytes on one line, or as JSON.
///
/// Asked by NBD_OPT_GO: some servers answer NBD_OPT_INFO with a size of 0.
pub(super) async fn run(about: &About) -> Result<String, ClientFault> {
    let connection = Connection::open(&about.uri, Wishes::go(about.uri.export().as_str())).await?;
    let size = connection.export().size;
    connection.leave().await;
    Ok(if about.json { format!("{}\n", serde_json::json!({ "size": size })) } else { format!("{size}\n") })
}
