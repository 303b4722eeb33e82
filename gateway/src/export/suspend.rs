//! An export, suspended and resumed: what it knows beside its lanes, its sessions and their requests.

use nbd_gateway_policy::types::Moment;

use super::Export;
use crate::handover::state::ExportState;

impl Export {
    /// Takes what it knows, after its sessions and its lanes were suspended.
    pub(crate) fn suspend(&self) -> ExportState {
        ExportState {
            reconnects: self.reconnects.suspend(),
            lost: self.resizer.openers.suspend(),
            hooks: self.hooks.suspend(),
            notices: self.notices.suspend(self.notice_time()),
            io: self.limiter.suspend(),
            deaf: self.resizer.suspend(),
        }
    }

    /// The time by the clock of rates of notices.
    pub(crate) fn notice_time(&self) -> Moment {
        self.accounts.now()
    }

    /// Goes on with that, before its sessions do.
    pub(crate) fn resume(&self, state: ExportState) {
        let ExportState { reconnects, lost, hooks, notices, io, deaf } = state;
        self.reconnects.resume(reconnects);
        self.resizer.openers.resume(lost);
        self.hooks.resume(&self.settings().config.notify, hooks);
        self.notices.resume(notices, self.notice_time());
        self.limiter.resume(io);
        self.resizer.resume(deaf);
    }
}
