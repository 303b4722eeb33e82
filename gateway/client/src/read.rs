//! `client read`: a range of an export, in order, several requests at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use super::ClientError;
use super::connect::{Connection, WINDOW};
use super::sink::{Sink, Sparse};
use crate::cli;
use nbd_gateway_proto::handshake::client::Wishes;
use nbd_gateway_proto::{Cmd, Piece};

/// Reads what the arguments say to where they say.
pub(super) async fn run(args: &cli::Read) -> Result<(), ClientError> {
    let mut connection = Connection::open(&args.uri, Wishes::go(args.uri.export().as_str())).await?;
    let outcome = transfer(&mut connection, args).await;
    connection.leave().await;
    outcome
}

async fn transfer(connection: &mut Connection, args: &cli::Read) -> Result<(), ClientError> {
    // Checked before the output file is replaced.
    let (offset, length) = range(connection.export().size, args.offset.0, args.length.map(|size| size.0))?;
    match &args.output {
        Some(path) => {
            let what = path.display().to_string();
            let mut file = File::create(path).map_err(|cause| ClientError::local(&what, cause))?;
            // A device, or a pipe with a name, has to be written all of.
            if !file.metadata().is_ok_and(|about| about.is_file()) {
                return copy(connection, offset, length, &mut file, &what).await;
            }
            copy(connection, offset, length, &mut Sparse::new(file), &what).await
        }
        None => copy(connection, offset, length, &mut io::stdout().lock(), "stdout").await,
    }
}

/// The range to read: up to the end where no length is given.
fn range(size: u64, offset: u64, length: Option<u64>) -> Result<(u64, u64), ClientError> {
    let length = length.unwrap_or(size.saturating_sub(offset));
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok((offset, length)),
        _ => Err(ClientError::PastEnd { offset, length, size, grow: false }),
    }
}

/// Reads the range and writes it to `sink`, called `what` in errors. Requests keep to the server's block sizes: what they
/// bring besides the range is dropped.
pub(super) async fn copy(
    connection: &mut Connection,
    offset: u64,
    length: u64,
    sink: &mut impl Sink,
    what: &str,
) -> Result<(), ClientError> {
    let (minimum, longest) = (connection.minimum(), connection.longest());
    let end = offset.saturating_add(length);
    let (mut ask, mut due) = (offset - offset % minimum, offset - offset % minimum);
    // Answered, but not yet due. Together with what is in flight never more than the window.
    let mut early: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
    let done = |due: u64| due.saturating_sub(offset);
    while due < end {
        while ask < end && connection.in_flight().saturating_add(early.len()) < WINDOW {
            let wanted = end.saturating_sub(ask).min(longest).next_multiple_of(minimum);
            connection.send(Cmd::READ, ask, wanted, &[]).await.map_err(|fault| fault.after(done(due)))?;
            ask = ask.saturating_add(wanted);
        }
        let answered = connection.answered().await.map_err(|fault| fault.after(done(due)))?;
        early.insert(answered.offset, answered.pieces);
        while let Some(pieces) = early.remove(&due) {
            for piece in pieces {
                put(sink, &piece, offset, end).map_err(|cause| ClientError::local(what, cause).after(done(due)))?;
                due = due.saturating_add(piece.range().1);
            }
        }
    }
    sink.finish().map_err(|cause| ClientError::local(what, cause))
}

/// Writes the part of a piece that lies between `from` and `to`.
fn put(sink: &mut impl Sink, piece: &Piece, from: u64, to: u64) -> io::Result<()> {
    let (start, length) = piece.range();
    let skip = from.saturating_sub(start).min(length);
    let keep = to.saturating_sub(start).min(length).saturating_sub(skip);
    match piece {
        Piece::Data { payload, .. } => {
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            payload.slice(at(skip), at(keep)).segments().try_for_each(|segment| sink.data(segment))
        }
        Piece::Hole { .. } => sink.zeroes(keep),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_with_the_export_unless_it_says_so() {
        assert_eq!(range(100, 10, None).unwrap(), (10, 90));
        assert_eq!(range(100, 100, None).unwrap(), (100, 0));
        assert_eq!(range(100, 10, Some(90)).unwrap(), (10, 90));
        for (offset, length) in [(10, Some(91)), (101, None), (u64::MAX, Some(2))] {
            assert!(matches!(range(100, offset, length), Err(ClientError::PastEnd { size: 100, .. })));
        }
    }
}
