//! A request, as a server gets it.

use serde::{Deserialize, Serialize};

use super::{Beside, Span, StateError};
use crate::request::Request;
use nbd_gateway_proto::{Cmd, CmdFlags};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestState {
    pub command: u16,
    pub flags: u16,
    pub offset: u64,
    pub length: u64,
    pub payload: Span,
}

impl RequestState {
    pub(crate) fn of(request: &Request, beside: &mut Beside) -> Self {
        let Request { command, flags, offset, length, payload } = request;
        let payload = beside.put(payload);
        Self { command: command.0, flags: flags.0, offset: *offset, length: *length, payload }
    }

    pub(crate) fn request(&self, beside: &Beside) -> Result<Request, StateError> {
        let Self { command, flags, offset, length, payload } = *self;
        let payload = beside.get(payload)?.into();
        Ok(Request { command: Cmd(command), flags: CmdFlags(flags), offset, length, payload })
    }
}
