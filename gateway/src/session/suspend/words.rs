//! What a state calls things by: a word for each variant.

use std::borrow::Cow;

use nbd_gateway_policy::offer::PastEnd;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, Errno};

use crate::handover::state::{ClosingState, FailureState, HeaderState, PastEndState, StatusState, StyleState};
use crate::request::Failure;
use crate::session::status::SessionStatus;
use crate::session::transmission::TransmissionEnd;

/// Two functions, one each way, from one list of pairs.
macro_rules! words {
    ($out:ident, $back:ident, $here:ty, $there:ty, [$($name:ident),+]) => {
        pub(super) fn $out(here: $here) -> $there {
            match here { $(<$here>::$name => <$there>::$name),+ }
        }

        pub(super) fn $back(there: $there) -> $here {
            match there { $(<$there>::$name => <$here>::$name),+ }
        }
    };
}

words!(past_end, to_past_end, PastEnd, PastEndState, [Grow, GrowAndCut, Refuse]);
words!(style, to_style, ClientStyle, StyleState, [ExplicitSimple, ExplicitStructured, Automatic, Stock, Kernel]);

pub(super) fn status(status: SessionStatus) -> StatusState {
    match status {
        SessionStatus::Open => StatusState::Open,
        SessionStatus::Draining => StatusState::Draining,
        SessionStatus::Left => StatusState::Left,
        SessionStatus::Closing | SessionStatus::Gone => StatusState::Closing,
    }
}

pub(super) fn to_status(status: StatusState) -> SessionStatus {
    match status {
        StatusState::Open => SessionStatus::Open,
        StatusState::Draining => SessionStatus::Draining,
        StatusState::Left => SessionStatus::Left,
        StatusState::Closing => SessionStatus::Closing,
    }
}

pub(super) fn closing(end: &TransmissionEnd) -> ClosingState {
    match end {
        TransmissionEnd::Disconnected | TransmissionEnd::Drained => ClosingState::Disconnected,
        TransmissionEnd::Closed | TransmissionEnd::Suspended => ClosingState::Closed,
        TransmissionEnd::Torn => ClosingState::Torn,
        TransmissionEnd::ByGateway => ClosingState::ByGateway,
        TransmissionEnd::Magic(_) | TransmissionEnd::Protocol(_) | TransmissionEnd::Io(_) => ClosingState::Broken,
    }
}

pub(super) fn end(closing: ClosingState) -> TransmissionEnd {
    match closing {
        ClosingState::Disconnected => TransmissionEnd::Disconnected,
        ClosingState::Closed => TransmissionEnd::Closed,
        ClosingState::Torn => TransmissionEnd::Torn,
        ClosingState::ByGateway => TransmissionEnd::ByGateway,
        ClosingState::Broken => TransmissionEnd::Protocol("before this process went on with it"),
    }
}

pub(super) fn to_header(header: &HeaderState) -> RequestHeader {
    let HeaderState { cookie, command, flags, offset, length } = *header;
    RequestHeader { flags: CmdFlags(flags), command: Cmd(command), cookie: Cookie(cookie), offset, length }
}

pub(super) fn to_failure(failure: FailureState) -> Failure {
    let FailureState { errno, message, offset } = failure;
    Failure { errno: Errno(errno), message: Cow::Owned(message), offset }
}
