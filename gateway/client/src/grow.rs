//! Growth by a write past the end, for exports that grow in no other way.
//!
//! Owns which bytes are written: zeroes, all of them past the end that was read just before, so that no data is touched;
//! and none at all where the export is already that big. Another client that grows the same export in the same moment
//! can't be excluded: the protocol has no way to.

use super::ClientError;
use super::connect::Connection;
use super::parts::{Parts, query};
use super::write::flush;
use nbd_gateway_proto::{Cmd, CmdFlags, ExportFlags, Features, MAX_SIZE};

/// As much is written, unless the server's blocks are larger: disks like whole sectors.
const SECTOR: u64 = 512;
const ZEROES: &[u8] = &[0; 0x1_0000];

/// Makes the export at least `size` bytes large, on a connection that opted in. False: it has that size already.
pub(super) async fn by_writes(
    connection: &mut Connection,
    parts: &Parts,
    size: u64,
    durable: bool,
) -> Result<bool, ClientError> {
    let flags = connection.export().flags;
    let (fua, flushes) = (flags.has(ExportFlags::SEND_FUA), flags.has(ExportFlags::SEND_FLUSH));
    if flags.has(ExportFlags::READ_ONLY) {
        return Err(ClientError::ReadOnly);
    }
    if durable && !fua && !flushes {
        return Err(ClientError::NotDurable { lacks: "NBD_FLAG_SEND_FUA or NBD_FLAG_SEND_FLUSH" });
    }
    // Without QUERY the handshake of this connection is the last that was read, and nothing was done since.
    let now = if parts.features.has(Features::QUERY) { query(connection).await? } else { connection.export().size };
    if size < now {
        return Err(ClientError::OnlyGrows { size: now });
    }
    if size == now {
        return Ok(false);
    }
    let granularity = parts.info.map_or(1, |info| info.granularity);
    let (offset, length) = last_block(now, size, connection.minimum(), granularity);
    let (command, payload) = if flags.has(ExportFlags::SEND_WRITE_ZEROES) {
        (Cmd::WRITE_ZEROES, &[][..])
    } else {
        // The longest that there is: a minimum block size is at most 64 KiB.
        (Cmd::WRITE, usize::try_from(length).ok().and_then(|length| ZEROES.get(..length)).unwrap_or(ZEROES))
    };
    let with = CmdFlags::NONE.with_if(CmdFlags::FUA, durable && fua);
    connection.send_with(with, command, offset, length, payload).await?;
    connection.answered().await?;
    if durable && !fua {
        flush(connection).await?;
    }
    Ok(true)
}

/// The bytes to write, so that the export ends at `size` or at the next multiple of the granularity: offset and length,
/// both multiples of `minimum`. They begin at `now` or later. `now` is less than `size`; the other two are powers of two.
fn last_block(now: u64, size: u64, minimum: u64, granularity: u64) -> (u64, u64) {
    // A size that is no multiple of the block size should not be; then a block more is past it.
    let start = up(now, minimum);
    let end = up(size, granularity.max(minimum)).max(start.saturating_add(minimum));
    let block = minimum.max(SECTOR);
    let offset = end.saturating_sub(block).max(start);
    (offset, end.saturating_sub(offset))
}

/// The next multiple of a power of two; the largest there is, where the next would be past all sizes.
fn up(size: u64, unit: u64) -> u64 {
    size.checked_next_multiple_of(unit).filter(|up| *up <= MAX_SIZE).unwrap_or(MAX_SIZE - MAX_SIZE % unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_block_is_past_the_old_end_and_reaches_the_new_one() {
        for ((now, size, minimum, granularity), written) in [
            ((0, 1 << 30, 1, 1), ((1 << 30) - 512, 512)),
            ((0, 1 << 30, 1, 1 << 20), ((1 << 30) - 512, 512)),
            ((0, (1 << 30) + 1, 1, 1 << 20), ((1 << 30) + (1 << 20) - 512, 512)),
            ((1 << 20, 1 << 30, 4096, 512), ((1 << 30) - 4096, 4096)),
            ((1000, 1001, 1, 1), (1000, 1)),
            ((1000, 1001, 1, 512), (1000, 24)),
            ((513, 514, 512, 1), (1024, 512)),
        ] {
            assert_eq!(last_block(now, size, minimum, granularity), written, "{now} to {size}");
        }
    }

    proptest! {
        #[test]
        fn no_byte_before_the_old_end_is_ever_written(
            a in 0u64..1 << 62, b in 0u64..1 << 62, minimum in 0u32..=16, granularity in 0u32..=40,
        ) {
            let (now, size, minimum, granularity) = (a.min(b), a.max(b) + 1, 1 << minimum, 1 << granularity);
            let (offset, length) = last_block(now, size, minimum, granularity);
            prop_assert!(offset >= now && offset + length >= size);
            prop_assert!(offset + length <= MAX_SIZE);
            prop_assert_eq!((offset % minimum, length % minimum), (0, 0));
            prop_assert!((1..=0x1_0000).contains(&length));
            prop_assert!(offset + length < size + granularity.max(2 * minimum));
        }
    }
}
