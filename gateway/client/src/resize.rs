//! `client resize`: another size, in the way that the server offers, and then the size that came of it.
//!
//! Believes no success: the size is read again, in band if that is offered, else by a second handshake.

use nbd_gateway_config::NewSize;

use super::connect::{Connection, Connector};
use super::grow::by_writes;
use super::output::shown;
use super::parts::{Part, Parts, handshake, opted_in, query};
use super::{ClientError, Output};
use nbd_gateway_proto::resize::{Context, ResizeRequest, Wish};
use nbd_gateway_proto::{Errno, ExportFlags, Features, MAX_SIZE};

/// In which way it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Explicit,
    ByWrites,
    /// There was nothing to do.
    NotAtAll,
}

impl Way {
    fn key(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::ByWrites => "automatic",
            Self::NotAtAll => "none",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Explicit => "resized by NBD_CMD_RESIZE",
            Self::ByWrites => "grown by zeroes written at the new end",
            Self::NotAtAll => "nothing written: the export has that size already",
        }
    }
}

/// A resize that was answered with success.
#[derive(Clone, Copy, Debug)]
struct Done {
    way: Way,
    /// The size before, as far as it was known, and the one that was asked for, in bytes.
    before: u64,
    asked: u64,
    /// The size that the server answered with, if it did.
    told: Option<u64>,
}

impl Done {
    /// Whether `now`, the size read afterwards, can come of it. On a shared export another client may have grown it since.
    fn check(&self, now: u64) -> Result<(), ClientError> {
        let least = self.told.map_or(self.asked, |told| told.min(self.asked));
        let kept = if self.asked >= self.before { now >= least } else { now <= self.asked || now < self.before };
        if kept { Ok(()) } else { Err(ClientError::NotInForce { asked: self.asked, now }) }
    }
}

/// Resizes, reads the size back, and prints it.
pub(super) async fn run(
    connector: &impl Connector,
    wanted: NewSize,
    durable: bool,
    json: bool,
    output: &mut Output<'_>,
) -> Result<(), ClientError> {
    let mut connection = connector.open(opted_in(connector.export(), &[Context::Automatic])).await?;
    let parts = Parts::of(connection.export());
    let outcome = change(&mut connection, &parts, wanted, durable).await;
    let in_band = match &outcome {
        Ok(_) if parts.features.has(Features::QUERY) => Some(query(&mut connection).await),
        _ => None,
    };
    // Before the second handshake: some servers take one connection at a time.
    connection.leave().await;
    let done = outcome?;
    let (now, checked) = match in_band {
        Some(now) => (now, Part::Query),
        None => (handshake(connector).await, Part::Handshake),
    };
    let now = now.map_err(|cause| ClientError::Unchecked { cause: Box::new(cause) })?;
    done.check(now)?;
    if json {
        let line = serde_json::json!({
            "size": now, "asked": done.asked, "how": done.way.key(), "checked": checked.key(),
        });
        return output.print(&format!("{line}\n"));
    }
    output.note(&format!("{}; the size now: {checked}", done.way.words()));
    let asked = if now == done.asked { String::new() } else { format!("; asked for {}", shown(done.asked)) };
    output.print(&format!("{}{asked}\n", shown(now)))
}

async fn change(
    connection: &mut Connection,
    parts: &Parts,
    wanted: NewSize,
    durable: bool,
) -> Result<Done, ClientError> {
    let before = connection.export().size;
    let hinted = parts.info.is_none() && parts.flag;
    if !(parts.features.has(Features::EXPLICIT) || hinted || parts.automatic) {
        return Err(ClientError::NotResizable);
    }
    let asked = match wanted {
        NewSize::To(size) => size.0,
        NewSize::By(more) => {
            let more = more.0;
            let sum = before.checked_add(more).filter(|sum| *sum <= MAX_SIZE);
            sum.ok_or(ClientError::TooMuchMore { size: before, more })?
        }
    };
    let done = |way, told| Done { way, before, asked, told };
    // Where the server knows NBD_INFO_RESIZE, that decides; the flag alone is a hint.
    if parts.features.has(Features::EXPLICIT) {
        return Ok(done(Way::Explicit, explicit(connection, asked, durable).await?));
    }
    if hinted {
        match explicit(connection, asked, durable).await {
            Err(ClientError::ResizeRefused { errno: Errno::EINVAL, .. }) if parts.automatic => {}
            Err(ClientError::ResizeRefused { errno: Errno::EINVAL, message, .. }) => {
                return Err(ClientError::FlagOnly { message });
            }
            told => return Ok(done(Way::Explicit, told?)),
        }
    }
    let grown = by_writes(connection, parts, asked, durable).await?;
    Ok(done(if grown { Way::ByWrites } else { Way::NotAtAll }, None))
}

/// NBD_CMD_RESIZE; the size that it was answered with, if its reply can carry one and does.
async fn explicit(connection: &mut Connection, size: u64, durable: bool) -> Result<Option<u64>, ClientError> {
    if durable && !connection.export().flags.has(ExportFlags::SEND_FUA) {
        return Err(ClientError::NotDurable { lacks: "NBD_FLAG_SEND_FUA" });
    }
    connection.send_resize(ResizeRequest { wish: Wish::Size { size }, durable }).await?;
    Ok(connection.answered().await?.size)
}
