//! How the gateway is, in one sentence: what `systemctl status` shows.

use nbd_gateway_policy::types::Count;
use std::fmt;

/// While the configuration is read anew.
pub(super) const RELOADING: &str = "reading the configuration anew";

/// What there is to say of the gateway now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceStatus {
    /// No new clients are taken any more.
    pub draining: bool,
    pub exports: usize,
    pub sessions: usize,
    /// Tenants whose exports are larger, all together, than their quota.
    pub over_quota: usize,
}

impl fmt::Display for ServiceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = Count::of(self.sessions, "session");
        if self.draining {
            return write!(f, "draining, {sessions} left");
        }
        write!(f, "taking clients; {} open, {sessions}", Count::of(self.exports, "export"))?;
        if self.over_quota > 0 {
            write!(f, ", {} over quota", Count::of(self.over_quota, "tenant"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_tells_what_is_open_and_who_has_too_much() {
        let status = ServiceStatus { draining: false, exports: 1, sessions: 0, over_quota: 0 };
        assert_eq!(status.to_string(), "taking clients; 1 export open, 0 sessions");
        let status = ServiceStatus { exports: 3, sessions: 1, over_quota: 2, ..status };
        assert_eq!(status.to_string(), "taking clients; 3 exports open, 1 session, 2 tenants over quota");
        assert_eq!(ServiceStatus { draining: true, sessions: 4, ..status }.to_string(), "draining, 4 sessions left");
    }
}
