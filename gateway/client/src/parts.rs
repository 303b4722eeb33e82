//! Which part of the RESIZE extension a server speaks, as far as its handshake tells, and the questions asked by it.
//!
//! Believes only what can be used on this connection: QUERY and NOTIFY need replies that can carry a size, and the
//! contexts that tell sizes are of no use one by one.

use core::fmt;

use super::ClientError;
use super::connect::{Connection, Connector};
use nbd_gateway_proto::handshake::client::{Contexts, Negotiated, Wishes};
use nbd_gateway_proto::resize::{Context, ResizeInfo, ResizeRequest, Wish};
use nbd_gateway_proto::{Cmd, ExportFlags, Features, Info, MAX_SIZE};

/// How a size was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The server tells each size.
    Notify,
    /// Asked in band.
    Query,
    /// A BLOCK_STATUS that is answered once the size is another.
    Watch,
    Handshake,
}

impl Part {
    /// The word for programs.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Query => "query",
            Self::Watch => "watch",
            Self::Handshake => "handshake",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notify => "told by the server (NBD_CMD_RESIZE with NOTIFY)",
            Self::Query => "asked on the open connection (NBD_CMD_RESIZE with QUERY)",
            Self::Watch => "asked on the open connection, answered when it changes (x-resize:watch)",
            Self::Handshake => "told by the handshake",
        })
    }
}

/// What a server offers.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// NBD_INFO_RESIZE, if the server knows it.
    pub(super) info: Option<ResizeInfo>,
    /// Its features, as far as they can be used with this framing; none without it.
    pub(super) features: Features,
    /// NBD_FLAG_SEND_RESIZE: without NBD_INFO_RESIZE only a hint.
    pub(super) flag: bool,
    /// Writes past the end grow the export, by whichever opt-in.
    pub(super) automatic: bool,
    /// The numbers of `x-resize:size-low` and `x-resize:size-high`, if `x-resize:watch` is selected with them.
    watch: Option<(u32, u32)>,
}

impl Parts {
    /// What this one offers.
    pub(super) fn of(export: &Negotiated) -> Self {
        let id = |context: Context| export.contexts.iter().find(|(name, _)| name == context.name()).map(|(_, id)| *id);
        let features = export.resize.map_or(Features::NONE, |info| info.features.with_framing(export.framing));
        Self {
            info: export.resize,
            features,
            flag: export.flags.has(ExportFlags::SEND_RESIZE),
            automatic: features.has(Features::AUTOMATIC) || id(Context::Automatic).is_some(),
            watch: id(Context::Watch).and(id(Context::SizeLow).zip(id(Context::SizeHigh))),
        }
    }

    /// The best way to learn of sizes.
    pub(super) fn best(&self) -> Part {
        if self.features.has(Features::NOTIFY) {
            Part::Notify
        } else if self.features.has(Features::QUERY) {
            Part::Query
        } else if self.watch.is_some() {
            Part::Watch
        } else {
            Part::Handshake
        }
    }

    /// Waits until the size is another than the one that this connection was last told; what it is then.
    pub(super) async fn changed(&self, connection: &mut Connection) -> Result<u64, ClientError> {
        let (low, high) = self.watch.unwrap_or_default();
        connection.send(Cmd::BLOCK_STATUS, 0, connection.minimum(), &[]).await?;
        let answered = connection.answered().await?;
        let flags = |id: u32| answered.status.iter().find(|(context, _)| *context == id).map(|(_, flags)| *flags);
        let half = |id: u32| flags(id).filter(|flags| u32::try_from(*flags).is_ok());
        let (low, high) = half(low).zip(half(high)).ok_or(ClientError::NoSize { what: "BLOCK_STATUS" })?;
        let size = high << 32 | low;
        if size > MAX_SIZE { Err(ClientError::SizeTooLarge { size }) } else { Ok(size) }
    }
}

/// A connection that opts in to the whole extension: it asks for NBD_INFO_RESIZE, and selects these contexts.
pub(super) fn opted_in(export: &str, contexts: &[Context]) -> Wishes {
    let names = contexts.iter().map(|context| context.name().to_owned()).collect();
    let mut wishes = Wishes { contexts: Contexts::These(names), ..Wishes::go(export) };
    wishes.infos.push(Info::RESIZE);
    wishes
}

/// The size now, in band. Only where QUERY is offered.
pub(super) async fn query(connection: &mut Connection) -> Result<u64, ClientError> {
    connection.send_resize(ResizeRequest { wish: Wish::Query, durable: false }).await?;
    connection.answered().await?.size.ok_or(ClientError::NoSize { what: "QUERY" })
}

/// The size now, by a handshake of its own.
///
/// By NBD_OPT_GO: some servers answer NBD_OPT_INFO with a size of 0.
pub(super) async fn handshake(connector: &impl Connector) -> Result<u64, ClientError> {
    let connection = connector.open(Wishes::go(connector.export())).await?;
    let size = connection.export().size;
    connection.leave().await;
    Ok(size)
}
