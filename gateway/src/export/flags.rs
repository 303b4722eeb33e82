//! The transmission flags that a client is told: what can be kept, from one function.

use nbd_gateway_proto::{ExportFlags, Framing};

/// What decides a client's transmission flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    /// What the backend offers on its lanes.
    pub(super) backend: ExportFlags,
    /// How the backend's lanes are framed.
    pub(super) lanes: Framing,
    /// What this client negotiated.
    pub(super) client: Framing,
    /// Whether this client may not write (its verbs, the export's configuration, or the backend's own READ_ONLY).
    pub(super) read_only: bool,
    /// Whether this client may trim.
    pub(super) trim: bool,
    /// Whether a FLUSH of one session covers the answered writes of all (one lane, or a backend with CAN_MULTI_CONN).
    pub(super) flush_covers_all: bool,
    /// Whether NBD_CMD_RESIZE is accepted from this client.
    pub(super) resize: bool,
}

/// The flags for one client. Never more than the gateway keeps:
///
/// | flag | told when |
/// |---|---|
/// | HAS_FLAGS | always |
/// | READ_ONLY | the client may not write |
/// | SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_CACHE | the backend has it |
/// | SEND_TRIM | the backend has it and the client may write and trim |
/// | SEND_WRITE_ZEROES | the backend has it and the client may write |
/// | SEND_FAST_ZERO | as SEND_WRITE_ZEROES, and the backend has it |
/// | SEND_DF | the client has structured replies, and the backend's READs come in one piece or it has DF itself |
/// | CAN_MULTI_CONN | one FLUSH covers all sessions |
/// | SEND_RESIZE | the export accepts a resize from this client |
/// | BLOCK_STATUS_PAYLOAD | the client has extended headers (the gateway filters contexts itself) and there is a context to filter |
pub(super) fn for_client(basis: Basis, contexts: bool) -> ExportFlags {
    let has = |flag| basis.backend.has(flag);
    let writable = !basis.read_only;
    let zeroes = has(ExportFlags::SEND_WRITE_ZEROES) && writable;
    ExportFlags::HAS_FLAGS
        .with_if(ExportFlags::READ_ONLY, basis.read_only)
        .with_if(ExportFlags::SEND_FLUSH, has(ExportFlags::SEND_FLUSH))
        .with_if(ExportFlags::SEND_FUA, has(ExportFlags::SEND_FUA))
        .with_if(ExportFlags::ROTATIONAL, has(ExportFlags::ROTATIONAL))
        .with_if(ExportFlags::SEND_TRIM, has(ExportFlags::SEND_TRIM) && writable && basis.trim)
        .with_if(ExportFlags::SEND_WRITE_ZEROES, zeroes)
        .with_if(ExportFlags::SEND_FAST_ZERO, zeroes && has(ExportFlags::SEND_FAST_ZERO))
        .with_if(
            ExportFlags::SEND_DF,
            basis.client != Framing::Simple && (basis.lanes == Framing::Simple || has(ExportFlags::SEND_DF)),
        )
        .with_if(ExportFlags::CAN_MULTI_CONN, basis.flush_covers_all)
        .with_if(ExportFlags::SEND_RESIZE, basis.resize && writable)
        .with_if(ExportFlags::SEND_CACHE, has(ExportFlags::SEND_CACHE))
        .with_if(ExportFlags::BLOCK_STATUS_PAYLOAD, basis.client == Framing::Extended && contexts)
}

#[cfg(test)]
mod tests {
    use nbd_gateway_policy::offer::Features as Offered;
    use nbd_gateway_proto::Features;

    use super::*;

    /// Every backend flag alone and all together, every framing of both sides, every other bit: the table of the doc
    /// comment, written a second time as one rule per flag.
    #[test]
    fn a_client_is_told_what_can_be_kept_and_nothing_else() {
        const FRAMINGS: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];
        let mut rows = 0u32;
        for backend in 0..=0x1fffu16 {
            let backend = ExportFlags(backend);
            for (lanes, client) in FRAMINGS.into_iter().flat_map(|l| FRAMINGS.into_iter().map(move |c| (l, c))) {
                for bits in 0..32u8 {
                    let [read_only, flush_covers_all, resize, contexts, trim] = [1, 2, 4, 8, 16].map(|b| bits & b != 0);
                    let told = for_client(
                        Basis { backend, lanes, client, read_only, trim, flush_covers_all, resize },
                        contexts,
                    );
                    rows += 1;
                    for (flag, name) in ExportFlags::NAMED {
                        let mine = backend.has(*flag);
                        let want = match *name {
                            "HAS_FLAGS" => true,
                            "READ_ONLY" => read_only,
                            "SEND_FLUSH" | "SEND_FUA" | "ROTATIONAL" | "SEND_CACHE" => mine,
                            "SEND_TRIM" => mine && !read_only && trim,
                            "SEND_WRITE_ZEROES" => mine && !read_only,
                            "SEND_FAST_ZERO" => mine && backend.0 & 0x40 != 0 && !read_only,
                            "SEND_DF" => match (client, lanes) {
                                (Framing::Simple, _) => false,
                                (_, Framing::Simple) => true,
                                _ => mine,
                            },
                            "CAN_MULTI_CONN" => flush_covers_all,
                            "SEND_RESIZE" => resize && !read_only,
                            "BLOCK_STATUS_PAYLOAD" => client == Framing::Extended && contexts,
                            other => panic!("no rule for {other}"),
                        };
                        assert_eq!(
                            told.has(*flag),
                            want,
                            "{name}: backend {backend:?}, {lanes:?} to {client:?}, {bits:#x}"
                        );
                    }
                }
            }
        }
        assert_eq!(rows, 0x2000 * 9 * 32);
    }

    /// The wire keeps bits that it does not know, policy must not act on them: each has a type of its own for the same bits.
    #[test]
    fn what_policy_calls_a_feature_is_that_on_the_wire() {
        let same = [
            (Offered::EXPLICIT, Features::EXPLICIT),
            (Offered::AUTOMATIC, Features::AUTOMATIC),
            (Offered::QUERY, Features::QUERY),
            (Offered::NOTIFY, Features::NOTIFY),
            (Offered::SHRINK, Features::SHRINK),
            (Offered::ZEROED, Features::ZEROED),
        ];
        assert_eq!(same.map(|(offered, _)| offered.wire()), same.map(|(_, wire)| wire.0));
        assert_eq!((same.len(), Offered::from_wire(u16::MAX)), (Features::NAMED.len(), Offered::ALL));
    }
}
