//! One validator for every request: one check per paragraph, in one order.
//!
//! It looks at a header, the export's view and what this client was told; it takes nothing and changes nothing. A refused
//! request that brings a payload still has that payload read and thrown away, so that the stream stays in step.

use nbd_gateway_policy::access::{Verb, Verbs};
use nbd_gateway_policy::types::Bytes;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Errno, ExportFlags, Framing};

use crate::request::Failure;

/// What decides about one client's requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) framing: Framing,
    /// Transmission flags that the client was told.
    pub(super) flags: ExportFlags,
    /// What it may do: says why something was not offered to it.
    pub(super) verbs: Verbs,
    /// Requests may reach up to here.
    pub(super) end: u64,
    /// Whether writes past that go to the export all the same, which grows for them.
    pub(super) grows: bool,
    /// The longest payload of a READ or WRITE that there can be room for.
    pub(super) largest: u64,
    /// How many contexts the client selected.
    pub(super) contexts: usize,
    pub(super) draining: bool,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Carry it out, with these flags.
    Go(CmdFlags),
    /// Answer success: it asks for nothing.
    Nothing,
    /// Read this many bytes of a BLOCK_STATUS payload (effect length and context ids), then decide.
    Contexts(usize),
    /// Answer this, after throwing away so many payload bytes.
    Refuse(Failure, u64),
    /// The client says goodbye.
    Disconnect,
    /// The stream can't be followed past this one.
    End(&'static str),
}

/// Payloads longer than this are not even thrown away.
const SKIP_AT_MOST: u64 = 1 << 32;

pub(super) fn admit(rules: &Rules, header: &RequestHeader) -> Verdict {
    let RequestHeader { flags, command, offset, length, .. } = *header;
    let extended = rules.framing == Framing::Extended;
    let payload_flag = flags.has(CmdFlags::PAYLOAD_LEN);
    let payload = match command {
        // With or without PAYLOAD_LEN: qemu 10.0 negotiates extended headers and leaves the flag out.
        Cmd::WRITE => length,
        _ if extended && payload_flag => length,
        _ => 0,
    };
    let refuse = |errno, why: String| Verdict::Refuse(Failure::new(errno, why), payload);

    if payload > SKIP_AT_MOST {
        return Verdict::End("a payload of more than 4 GiB");
    }

    if command == Cmd::DISC {
        return Verdict::Disconnect;
    }

    if rules.draining {
        return Verdict::Refuse(Failure::shutting_down(), payload);
    }

    if !Cmd::NAMED.contains(&command) || command == Cmd::RESIZE {
        return refuse(Errno::EINVAL, format!("command {command} is not offered here"));
    }

    let known = flags_of(command, rules);
    let extra = flags.without(known);
    if extra != CmdFlags::NONE {
        return refuse(Errno::EINVAL, format!("{command} with flags {extra}, which are not offered for it here"));
    }

    if command == Cmd::TRIM && !rules.verbs.has(Verb::Trim) && !rules.flags.has(ExportFlags::READ_ONLY) {
        return refuse(Errno::EPERM, "you may not trim this export; ask the operator for the verb `trim`".to_owned());
    }

    let offered = match command {
        Cmd::FLUSH => rules.flags.has(ExportFlags::SEND_FLUSH),
        Cmd::TRIM => rules.flags.has(ExportFlags::SEND_TRIM) || rules.flags.has(ExportFlags::READ_ONLY),
        Cmd::WRITE_ZEROES => rules.flags.has(ExportFlags::SEND_WRITE_ZEROES) || rules.flags.has(ExportFlags::READ_ONLY),
        Cmd::CACHE => rules.flags.has(ExportFlags::SEND_CACHE),
        Cmd::BLOCK_STATUS => rules.contexts > 0,
        _ => true,
    };
    if !offered {
        return refuse(Errno::EINVAL, format!("{command} is not offered for this export"));
    }

    let writes = command.changes_data();
    if writes && rules.flags.has(ExportFlags::READ_ONLY) {
        let why = if rules.verbs.has(Verb::Write) {
            "the export is read-only"
        } else {
            "you may not write this export; ask the operator for the verb `write`"
        };
        return refuse(Errno::EPERM, why.to_owned());
    }

    if command == Cmd::FLUSH {
        if offset != 0 || length != 0 {
            return refuse(Errno::EINVAL, "NBD_CMD_FLUSH takes no offset and no length".to_owned());
        }
        return Verdict::Go(CmdFlags::NONE);
    }

    if command == Cmd::BLOCK_STATUS && payload_flag {
        let most = 8 + 4 * u64::try_from(rules.contexts).unwrap_or(u64::MAX - 8);
        if length < 12 || length > most || length % 4 != 0 {
            return refuse(
                Errno::EINVAL,
                format!("a BLOCK_STATUS payload of {}, allowed here: 12 to {most}", Bytes(length)),
            );
        }
        return Verdict::Contexts(usize::try_from(length).unwrap_or(usize::MAX));
    }

    in_range(rules, command, offset, length, payload, flags)
}

/// The checks on a range; also for a BLOCK_STATUS whose length came in its payload.
fn in_range(rules: &Rules, command: Cmd, offset: u64, length: u64, payload: u64, flags: CmdFlags) -> Verdict {
    let refuse = |errno, why: String| Verdict::Refuse(Failure::new(errno, why), payload);
    let end = rules.end;
    let past = offset.checked_add(length).is_none_or(|e| e > end);
    let grows = rules.grows && command.writes() && offset.checked_add(length).is_some();
    if past && !grows {
        // ENOSPC tells a client that its disk is full, and a hypervisor to pause its guest. proto.md, "Error values".
        let errno = if command.writes() { Errno::ENOSPC } else { Errno::EINVAL };
        return refuse(
            errno,
            format!("{command} of {} at {offset} ends past the export's size of {}", Bytes(length), Bytes(end)),
        );
    }

    if length == 0 {
        if command == Cmd::BLOCK_STATUS {
            return refuse(Errno::EINVAL, "NBD_CMD_BLOCK_STATUS needs a length".to_owned());
        }
        return Verdict::Nothing;
    }

    if matches!(command, Cmd::READ | Cmd::WRITE) && length > rules.largest {
        return Verdict::Refuse(too_long(command, length, rules.largest), payload);
    }

    // FUA says something to commands that write; the others may carry it and need not pass it on.
    let writes = command.changes_data();
    let keep = if writes { flags } else { flags.without(CmdFlags::FUA) };
    Verdict::Go(keep.without(CmdFlags::PAYLOAD_LEN))
}

/// A READ or WRITE for which there can't be room.
pub(super) fn too_long(command: Cmd, length: u64, largest: u64) -> Failure {
    let why = format!("{command} of {}; the largest payload here is {}", Bytes(length), Bytes(largest));
    Failure::new(Errno::EINVAL, why)
}

/// A BLOCK_STATUS payload: `header` gets the length that it means; what to do, and the contexts that it asks for.
/// `selected` are the contexts that the client selected. proto.md, "NBD_CMD_BLOCK_STATUS".
pub(super) fn narrow(
    rules: &Rules,
    header: &mut RequestHeader,
    payload: &[u8],
    selected: &[usize],
) -> (Verdict, Box<[usize]>) {
    let (effect, ids) = payload.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let ids = ids.chunks_exact(4).map(|id| id.iter().fold(0usize, |n, b| n << 8 | usize::from(*b)));
    let only: Box<[usize]> = ids.collect();
    let twice = only.iter().enumerate().any(|(i, id)| only.iter().skip(i + 1).any(|o| o == id));
    header.length = u64::from_be_bytes(*effect);
    if twice || only.iter().any(|id| !selected.contains(id)) {
        let why = "a context id that was not negotiated, or twice the same";
        return (Verdict::Refuse(Failure::new(Errno::EINVAL, why), 0), only);
    }
    (in_range(rules, header.command, header.offset, header.length, 0, header.flags), only)
}

/// The flags that this command may carry from this client. proto.md, "Command flags".
fn flags_of(command: Cmd, rules: &Rules) -> CmdFlags {
    let told = rules.flags;
    let payload = match command {
        Cmd::WRITE => rules.framing == Framing::Extended,
        Cmd::BLOCK_STATUS => told.has(ExportFlags::BLOCK_STATUS_PAYLOAD),
        _ => false,
    };
    let base =
        CmdFlags::NONE.with_if(CmdFlags::FUA, told.has(ExportFlags::SEND_FUA)).with_if(CmdFlags::PAYLOAD_LEN, payload);
    match command {
        Cmd::READ => base.with_if(CmdFlags::DF, told.has(ExportFlags::SEND_DF)),
        Cmd::WRITE_ZEROES => {
            base.with(CmdFlags::NO_HOLE).with_if(CmdFlags::FAST_ZERO, told.has(ExportFlags::SEND_FAST_ZERO))
        }
        Cmd::BLOCK_STATUS => base.with(CmdFlags::REQ_ONE),
        _ => base,
    }
}

#[cfg(test)]
mod tests {
    use nbd_gateway_proto::Cookie;

    use super::*;

    const ALL: ExportFlags = ExportFlags(0x1fff & !0x2);

    fn rules(framing: Framing) -> Rules {
        let (flags, verbs) = (ALL, Verbs::ALL);
        Rules { framing, flags, verbs, end: 1 << 20, grows: false, largest: 1 << 16, contexts: 2, draining: false }
    }

    fn request(command: Cmd, flags: CmdFlags, offset: u64, length: u64) -> RequestHeader {
        RequestHeader { flags, command, cookie: Cookie(1), offset, length }
    }

    fn says(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Refuse(f, skip) => format!("{} skip {skip}: {}", f.errno, f.message),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_is_refused_says_why_and_how_much_payload_is_in_the_way() {
        let none = CmdFlags::NONE;
        let compact = rules(Framing::Structured);
        let extended = rules(Framing::Extended);
        let read_only = Rules { flags: ExportFlags(0x3), ..compact };
        let draining = Rules { draining: true, ..compact };
        let told_no_trim = ALL.without(ExportFlags::SEND_TRIM);
        let no_trim = Rules { flags: told_no_trim, verbs: Verbs::ALL.without(Verb::Trim), ..compact };
        let no_write = Rules { verbs: Verbs::ALL.without(Verb::Write).without(Verb::Trim), ..read_only };
        for (rules, header, expect) in [
            (compact, request(Cmd(77), none, 0, 9), "EINVAL skip 0: command 0x4d is not offered here"),
            (compact, request(Cmd::RESIZE, none, 9, 0), "EINVAL skip 0: command NBD_CMD_RESIZE is not offered here"),
            (
                compact,
                request(Cmd::WRITE, CmdFlags::DF, 0, 9),
                "EINVAL skip 9: NBD_CMD_WRITE with flags 0x4 DF, which are not offered for it here",
            ),
            (
                extended,
                request(Cmd::READ, CmdFlags::PAYLOAD_LEN, 0, 9),
                "EINVAL skip 9: NBD_CMD_READ with flags 0x20 PAYLOAD_LEN, which are not offered for it here",
            ),
            (read_only, request(Cmd::WRITE, none, 0, 9), "EPERM skip 9: the export is read-only"),
            (read_only, request(Cmd::TRIM, none, 0, 9), "EPERM skip 0: the export is read-only"),
            (
                no_trim,
                request(Cmd::TRIM, none, 0, 9),
                "EPERM skip 0: you may not trim this export; ask the operator for the verb `trim`",
            ),
            (
                no_write,
                request(Cmd::WRITE, none, 0, 9),
                "EPERM skip 9: you may not write this export; ask the operator for the verb `write`",
            ),
            (
                no_write,
                request(Cmd::TRIM, none, 0, 9),
                "EPERM skip 0: you may not write this export; ask the operator for the verb `write`",
            ),
            (
                Rules { flags: told_no_trim, ..compact },
                request(Cmd::TRIM, none, 0, 9),
                "EINVAL skip 0: NBD_CMD_TRIM is not offered for this export",
            ),
            (read_only, request(Cmd::FLUSH, none, 0, 0), "EINVAL skip 0: NBD_CMD_FLUSH is not offered for this export"),
            (compact, request(Cmd::FLUSH, none, 0, 9), "EINVAL skip 0: NBD_CMD_FLUSH takes no offset and no length"),
            (
                compact,
                request(Cmd::WRITE, none, 1 << 20, 1),
                "ENOSPC skip 1: NBD_CMD_WRITE of 1 byte at 1048576 ends past the export's size of 1 MiB",
            ),
            (
                compact,
                request(Cmd::WRITE_ZEROES, none, u64::MAX, 1),
                "ENOSPC skip 0: NBD_CMD_WRITE_ZEROES of 1 byte at 18446744073709551615 ends past the export's size of 1 MiB",
            ),
            (
                compact,
                request(Cmd::READ, none, (1 << 20) - 1, 2),
                "EINVAL skip 0: NBD_CMD_READ of 2 bytes at 1048575 ends past the export's size of 1 MiB",
            ),
            (
                compact,
                request(Cmd::READ, none, 0, 65537),
                "EINVAL skip 0: NBD_CMD_READ of 64.00 KiB (65537 bytes); the largest payload here is 64 KiB",
            ),
            (compact, request(Cmd::BLOCK_STATUS, none, 0, 0), "EINVAL skip 0: NBD_CMD_BLOCK_STATUS needs a length"),
            (
                extended,
                request(Cmd::BLOCK_STATUS, CmdFlags::PAYLOAD_LEN, 0, 20),
                "EINVAL skip 20: a BLOCK_STATUS payload of 20 bytes, allowed here: 12 to 16",
            ),
            (draining, request(Cmd::WRITE, none, 0, 9), "ESHUTDOWN skip 9: the gateway is shutting down"),
            (
                extended,
                request(Cmd::WRITE, CmdFlags::PAYLOAD_LEN, 0, 1 << 40),
                r#"End("a payload of more than 4 GiB")"#,
            ),
        ] {
            assert_eq!(says(&admit(&rules, &header)), expect);
        }
    }

    #[test]
    fn what_is_admitted_keeps_the_flags_that_mean_something() {
        let compact = rules(Framing::Structured);
        for (command, flags, keep) in [
            (Cmd::READ, CmdFlags::DF.with(CmdFlags::FUA), CmdFlags::DF),
            (Cmd::WRITE, CmdFlags::FUA, CmdFlags::FUA),
            (Cmd::WRITE_ZEROES, CmdFlags(0b10011), CmdFlags(0b10011)),
            (Cmd::BLOCK_STATUS, CmdFlags::REQ_ONE, CmdFlags::REQ_ONE),
            (Cmd::CACHE, CmdFlags::FUA, CmdFlags::NONE),
        ] {
            assert_eq!(admit(&compact, &request(command, flags, 512, 512)), Verdict::Go(keep), "{command}");
        }
        let extended = rules(Framing::Extended);
        for flags in [CmdFlags::PAYLOAD_LEN, CmdFlags::NONE] {
            assert_eq!(admit(&extended, &request(Cmd::WRITE, flags, 0, 512)), Verdict::Go(CmdFlags::NONE));
        }
        assert_eq!(admit(&extended, &request(Cmd::READ, CmdFlags::NONE, 1 << 20, 0)), Verdict::Nothing);
        assert_eq!(admit(&extended, &request(Cmd::DISC, CmdFlags::NONE, 0, 0)), Verdict::Disconnect);
        let status = request(Cmd::BLOCK_STATUS, CmdFlags::PAYLOAD_LEN, 0, 12);
        assert_eq!(admit(&extended, &status), Verdict::Contexts(12));
    }
}
