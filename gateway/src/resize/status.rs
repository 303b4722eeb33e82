//! What a coordinator knows besides the size that is shown, for people who look: written by it alone, after each act.

use nbd_gateway_policy::plan::Standing;
use nbd_gateway_policy::style::BackendStyle;
use nbd_gateway_policy::types::Size;

/// What an operator sees of an export's resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResizeStatus {
    /// The backend's size as last read and believed.
    pub disk: Size,
    /// Whether it can be resized now.
    pub standing: Standing,
    /// How the backend grows and tells, as far as that is known by now.
    pub backend: BackendStyle,
}
