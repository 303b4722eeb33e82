//! `client size`: one number, asked in band where that is offered.

use super::connect::Connector;
use super::parts::{Part, Parts, opted_in, query};
use super::{ClientError, Output};
use nbd_gateway_proto::Features;

/// The size in bytes on one line, or as JSON.
pub(super) async fn run(connector: &impl Connector, json: bool, output: &mut Output<'_>) -> Result<(), ClientError> {
    let mut connection = connector.open(opted_in(connector.export(), &[])).await?;
    let parts = Parts::of(connection.export());
    let asked = if parts.features.has(Features::QUERY) {
        query(&mut connection).await.map(|size| (size, Part::Query))
    } else {
        Ok((connection.export().size, Part::Handshake))
    };
    connection.leave().await;
    let (size, part) = asked?;
    if json {
        output.print(&format!("{}\n", serde_json::json!({ "size": size, "how": part.key() })))
    } else {
        output.note(&part.to_string());
        output.print(&format!("{size}\n"))
    }
}
