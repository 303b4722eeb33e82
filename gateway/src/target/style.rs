//! How a backend can be resized: claims are proved before they are relied on (promise 12).

use nbd_gateway_config::Driver;
use nbd_gateway_policy::style::{BackendStyle, Grows, Proof, Replies, Tells};
use nbd_gateway_proto::handshake::client::Negotiated;
use nbd_gateway_proto::{ExportFlags, Features, Framing};

/// A framing, in the policy's words.
pub(crate) fn replies(framing: Framing) -> Replies {
    match framing {
        Framing::Simple => Replies::Simple,
        Framing::Structured => Replies::Structured,
        Framing::Extended => Replies::Extended,
    }
}

/// What a backend can do, by what it said in its handshake. NBD_INFO_RESIZE tells; bit 9 without it is a claim that the
/// first real grow has to prove.
pub(crate) fn of_backend(negotiated: &Negotiated, driver: &Driver) -> BackendStyle {
    let replies = replies(negotiated.framing);
    // What resizes it beside the wire; it may still tell of its size on the wire.
    let beside = match driver {
        Driver::Window { .. } => Some(Grows::Window),
        Driver::File { .. } | Driver::Exec { .. } => Some(Grows::Driver { aside: false }),
        Driver::Qmp(_) | Driver::Restart { .. } => Some(Grows::Driver { aside: true }),
        Driver::None | Driver::Origin => Some(Grows::Fixed),
        Driver::Wire | Driver::Automatic => None,
    };
    let by_writes = *driver == Driver::Automatic;
    let Some(info) = &negotiated.resize else {
        let grows = match beside {
            Some(grows) => grows,
            None if by_writes => Grows::Automatic { proof: Proof::Claimed },
            None if negotiated.flags.has(ExportFlags::SEND_RESIZE) => {
                Grows::Explicit { replies, proof: Proof::Claimed }
            }
            None => Grows::Fixed,
        };
        return BackendStyle { grows, tells: Tells::SecondHandshake };
    };
    let has = |feature| info.features.has(feature);
    let grows = match beside {
        Some(grows) => grows,
        None if !by_writes && has(Features::EXPLICIT) => Grows::Explicit { replies, proof: Proof::OptedIn },
        None if has(Features::AUTOMATIC) => Grows::Automatic { proof: Proof::OptedIn },
        None if by_writes => Grows::Automatic { proof: Proof::Claimed },
        None => Grows::Fixed,
    };
    let chunked = negotiated.framing != Framing::Simple;
    let tells = if chunked && has(Features::NOTIFY) {
        Tells::Notify
    } else if chunked && has(Features::QUERY) {
        Tells::Query
    } else {
        Tells::SecondHandshake
    };
    BackendStyle { grows, tells }
}
