//! `client write`: a file or stdin into an export, several requests at a time, then a FLUSH.

use nbd_gateway_policy::types::Bytes;
use std::fs::File;
use std::io::{self, Read};

use super::ClientError;
use super::connect::{Connection, WINDOW};
use super::parts::{Parts, opted_in};
use crate::cli;
use nbd_gateway_proto::handshake::client::Wishes;
use nbd_gateway_proto::resize::Context;
use nbd_gateway_proto::{Cmd, ExportFlags, MAX_SIZE};

/// Writes what the arguments say to where they say; says what was done.
pub(super) async fn run(args: &cli::Write) -> Result<String, ClientError> {
    let export = args.uri.export().as_str();
    // Only who means to grow opts in.
    let wishes = if args.grow { opted_in(export, &[Context::Automatic]) } else { Wishes::go(export) };
    let mut connection = Connection::open(&args.uri, wishes).await?;
    let outcome = transfer(&mut connection, args).await;
    connection.leave().await;
    outcome
}

async fn transfer(connection: &mut Connection, args: &cli::Write) -> Result<String, ClientError> {
    let offset = args.offset.0;
    let written = match &args.input {
        Some(path) => {
            let what = path.display().to_string();
            let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
            let (about, mut file) = opened.map_err(|cause| ClientError::local(&what, cause))?;
            // A regular file's length is known: better to fail before the first byte than after the last that fits.
            let length = about.is_file().then_some(about.len());
            copy(connection, offset, length, args.grow, &mut file, &what).await?
        }
        None => copy(connection, offset, None, args.grow, &mut io::stdin().lock(), "stdin").await?,
    };
    let flushed = flush(connection).await.map_err(|fault| fault.after(written))?;
    let how = if flushed { "flushed" } else { "not flushed: the server has no NBD_CMD_FLUSH" };
    Ok(format!("{} written at offset {offset}, {how}\n", Bytes(written)))
}

/// Writes all of `source`, called `what` in errors, from `offset` on; `length` if it is known before. Past the end only if
/// it is to `grow` and this connection opted in to that. How many bytes.
pub(super) async fn copy(
    connection: &mut Connection,
    offset: u64,
    length: Option<u64>,
    grow: bool,
    source: &mut impl Read,
    what: &str,
) -> Result<u64, ClientError> {
    if connection.export().flags.has(ExportFlags::READ_ONLY) {
        return Err(ClientError::ReadOnly);
    }
    let grows = grow && Parts::of(connection.export()).automatic;
    let limits = Limits { size: connection.export().size, minimum: connection.minimum(), grow, grows };
    limits.check(offset, offset, length.unwrap_or(0))?;
    let longest = usize::try_from(connection.longest()).unwrap_or(usize::MAX);
    let (mut sent, mut answered, mut buffer) = (0u64, Answers::default(), vec![0; longest]);
    let stopped = loop {
        let count = match fill(source, &mut buffer) {
            Ok(0) => break None,
            Ok(count) => count,
            Err(cause) => break Some(ClientError::local(what, cause)),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        let (at, count) = (offset.saturating_add(sent), u64::try_from(count).unwrap_or(u64::MAX));
        if let Err(fault) = limits.check(offset, at, count) {
            break Some(fault);
        }
        while connection.in_flight() >= WINDOW {
            answered.take(connection, offset).await?;
        }
        connection.send(Cmd::WRITE, at, count, chunk).await.map_err(|fault| fault.after(answered.prefix))?;
        sent = sent.saturating_add(count);
    };
    // Also when our side failed: then it can be said how much is written.
    while connection.in_flight() > 0 {
        answered.take(connection, offset).await?;
    }
    match stopped {
        Some(fault) => Err(fault.after(sent)),
        None => Ok(sent),
    }
}

/// Makes it durable; false if the server can't be asked to.
pub(super) async fn flush(connection: &mut Connection) -> Result<bool, ClientError> {
    let can = connection.export().flags.has(ExportFlags::SEND_FLUSH);
    if can {
        connection.send(Cmd::FLUSH, 0, 0, &[]).await?;
        connection.answered().await?;
    }
    Ok(can)
}

/// What the export allows.
struct Limits {
    size: u64,
    minimum: u64,
    grow: bool,
    /// It can.
    grows: bool,
}

impl Limits {
    /// Whether `length` bytes may be written at `at`. `offset` is where all began.
    fn check(&self, offset: u64, at: u64, length: u64) -> Result<(), ClientError> {
        let most = if self.grows { MAX_SIZE } else { self.size };
        if at.checked_add(length).is_none_or(|end| end > most) {
            return Err(ClientError::PastEnd { offset: at, length, size: self.size, grow: self.grow && !self.grows });
        }
        let aligned = |what, value: u64| match value % self.minimum {
            0 => Ok(()),
            _ => Err(ClientError::Unaligned { what, value, minimum: self.minimum }),
        };
        aligned("the offset", offset)?;
        aligned("the length of the input", at.saturating_sub(offset).saturating_add(length))
    }
}

/// Which writes have been answered.
#[derive(Default)]
struct Answers {
    /// So many bytes from the start are written without a gap.
    prefix: u64,
    /// Answered before their turn: start and end.
    early: Vec<(u64, u64)>,
}

impl Answers {
    async fn take(&mut self, connection: &mut Connection, offset: u64) -> Result<(), ClientError> {
        let done = connection.answered().await.map_err(|fault| fault.after(self.prefix))?;
        let start = done.offset.saturating_sub(offset);
        self.early.push((start, start.saturating_add(done.length)));
        while let Some(at) = self.early.iter().position(|(start, _)| *start == self.prefix) {
            self.prefix = self.early.swap_remove(at).1;
        }
        Ok(())
    }
}

/// Fills the buffer unless the source ends; how much is in it.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0usize;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
