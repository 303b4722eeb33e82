//! `client size`: one number, asked in band where that is offered.

use super::connect::Reach;
use super::parts::{Part, Parts, opted_in, query};
use super::{ClientFault, Voice};
use crate::proto::Features;

/// The size in bytes on one line, or as JSON.
pub(super) async fn run(reach: &impl Reach, json: bool, voice: &mut Voice<'_>) -> Result<(), ClientFault> {
    let mut connection = reach.open(opted_in(reach.export(), &[])).await?;
    let parts = Parts::of(connection.export());
    let asked = if parts.features.has(Features::QUERY) {
        query(&mut connection).await.map(|size| (size, Part::Query))
    } else {
        Ok((connection.export().size, Part::Handshake))
    };
    connection.leave().await;
    let (size, part) = asked?;
    if json {
        voice.print(&format!("{}\n", serde_json::json!({ "size": size, "how": part.key() })))
    } else {
        voice.aside(&part.to_string());
        voice.print(&format!("{size}\n"))
    }
}
