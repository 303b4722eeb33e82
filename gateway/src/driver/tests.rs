//! What the tests of the drivers share.

use std::time::Duration;

use nbd_gateway_policy::types::{ExportName, TenantId};
use nbd_gateway_proto::ExportFlags;

use super::{BackendSnapshot, Order};
pub(super) use crate::command::place::Place;

/// An order for a disk that has `from` bytes.
pub(super) fn order(from: u64, to: u64) -> Order {
    let was =
        BackendSnapshot { name: String::new(), flags: ExportFlags::NONE, contexts: Vec::new(), description: None };
    Order {
        export: ExportName::new("vm 1").unwrap(),
        tenant: TenantId::new("blue").unwrap(),
        from,
        to,
        was,
        limit: Duration::from_secs(600),
    }
}
