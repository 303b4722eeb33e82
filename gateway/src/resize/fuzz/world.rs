//! A backend, a ledger and a view of a few bytes, with every fault that has a name, and the promises that each touch of
//! them is held to. It never waits: a request that is not answered is one that stays in doubt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use nbd_gateway_ledger::{Change, Fate, Snapshot};
use nbd_gateway_policy::plan::{Ask, Lanes};
use nbd_gateway_policy::types::{ByteRange, ExportName, Size, TenantId};
use nbd_gateway_proto::MAX_SIZE;
use parking_lot::Mutex;

use crate::accounting::history::Happened;
use crate::accounting::tenants::TenantAccounts;
use crate::fault;
use crate::resize::effects::{Answered, Effects};
use crate::resize::rules::Rules;
use crate::target::Shown;

/// The largest size that anything has here, in bytes.
pub(super) const LARGEST: u64 = 64;
const BYTES: usize = 64;

/// What goes wrong, once, with the next step of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// An ask gives another size than the one asked for.
    OtherSize(u64),
    /// An ask is answered by success, and nothing has changed.
    YesUnchanged,
    /// An ask is done, and answered by garbage.
    GarbageDone,
    /// An ask is answered by garbage, and nothing has changed.
    GarbageUnchanged,
    /// An ask is refused with this errno.
    Refused(u32),
    /// An ask is refused, and done all the same.
    RefusedDone(u32),
    /// An ask is not answered in time; what becomes of it comes later.
    Never,
    /// Another hand changes the size right after it has been read.
    Flips(u64),
    /// The size can't be read.
    ReadFails,
    /// The size that is read is 2^63 or more.
    ReadsHuge,
    /// Zeroes can't be written.
    ZeroFails,
    /// The ledger takes no note of what is to be zeroed.
    NoteFails,
    /// The ledger does not clear a note.
    ClearFails,
    /// Requests past a lowered end do not end in time.
    DrainFails,
    /// The connections to the backend do not end in time.
    LanesStay,
    /// The ledger does not take a change.
    KeepFails,
    /// It says so, and has it all the same.
    KeepLies,
    /// The process ends after so many more touches of the world.
    CrashAfter(u64),
}

/// What the ledger has of an export.
pub(super) struct Rows {
    /// What counts, and of a window what it shows.
    pub(super) size: u64,
    /// The largest size that something is held for.
    pub(super) pending: Option<u64>,
    /// Bytes that are noted for zeroing.
    noted: [bool; BYTES],
}

impl Rows {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let known = snapshot.exports.first().map(|row| row.known).unwrap_or_default();
        let size = known.size.bytes();
        let held = snapshot.reservations.iter().map(|row| row.to.bytes());
        let mut noted = [false; BYTES];
        for note in &snapshot.zeroing {
            let inside = within(note.range);
            (0_u64..).zip(noted.iter_mut()).filter(|(at, _)| inside(*at)).for_each(|(_, noted)| *noted = true);
        }
        Self { size, pending: held.filter(|to| *to > size).max(), noted }
    }
}

/// What there is.
pub(super) struct State {
    accounts: Arc<TenantAccounts>,
    tenant: TenantId,
    /// What counted of the tenant when that was checked last.
    sum: u64,
    /// The backend's size.
    pub(super) disk: u64,
    /// Bytes that a grow of the gateway exposed, and that nobody has zeroed.
    dirty: [bool; BYTES],
    /// What the ledger has of the export.
    pub(super) rows: Rows,
    /// Whether the backend's own grows are zero.
    pub(super) zeroed: bool,
    /// Nobody else is said to resize the backend: what it gives beyond what was asked for is the gateway's doing.
    exclusive: bool,
    /// An ask that was not answered: the size that it may still lead to.
    pub(super) in_doubt: Option<u64>,
    /// What was read last.
    read: u64,
    /// What had been read when the backend was last asked.
    known: u64,
    /// What is shown.
    pub(super) shown: u64,
    pub(super) generation: u64,
    /// What was shown before the process ended.
    pub(super) shown_before: u64,
    /// Where requests must end.
    pub(super) end: u64,
    shrinking: bool,
    /// The last ask was a write: nothing goes down by it.
    only_grows: bool,
    /// Somebody else made the backend larger than the gateway asked for: quota may be exceeded.
    pub(super) outside: bool,
    pub(super) ended: bool,
    /// The lanes have no connection.
    pub(super) aside: bool,
    /// Part of the disk is shown, and all past that is somebody's.
    pub(super) window: bool,
    /// Up to here an operator says just now that it is the tenant's.
    claimed: u64,
    /// The process has ended; nothing it had begun goes on.
    pub(super) crashed: bool,
    pub(super) faults: VecDeque<Fault>,
}

/// What has become of an ask without an answer when the process comes back.
pub(super) enum Late {
    Lands,
    Never,
    /// It may still be carried out.
    InDoubt,
}

impl State {
    pub(super) fn new(
        accounts: Arc<TenantAccounts>,
        tenant: TenantId,
        size: u64,
        zeroed: bool,
        exclusive: bool,
    ) -> Self {
        Self {
            accounts,
            tenant,
            sum: 0,
            disk: size,
            dirty: [false; BYTES],
            rows: Rows::of(&Snapshot::default()),
            zeroed,
            exclusive,
            in_doubt: None,
            read: size,
            known: size,
            shown: size,
            generation: 0,
            shown_before: size,
            end: size,
            shrinking: false,
            only_grows: false,
            outside: false,
            ended: false,
            aside: false,
            window: false,
            claimed: 0,
            crashed: false,
            faults: VecDeque::new(),
        }
    }

    /// Another hand sets the size: what it adds is its own, and clean. Where the configuration said that there is none, what
    /// is more than was asked for can no longer be told from its doing.
    pub(super) fn outside(&mut self, size: u64) {
        self.outside |= size > self.disk && !self.window;
        self.exclusive &= size == self.disk;
        self.set(size, self.window);
    }

    /// The same disk, of which no more than this is shown.
    pub(super) fn behind_a_window(&mut self, disk: u64) {
        self.window = true;
        self.set(disk, true);
        (self.read, self.known) = (disk, disk);
    }

    /// What was not answered in time is done after all.
    pub(super) fn land(&mut self) {
        if let Some(size) = self.in_doubt.take() {
            let size = if self.only_grows { size.max(self.disk) } else { size };
            self.set(size, !self.zeroed);
        }
    }

    fn set(&mut self, size: u64, dirty: bool) {
        let (from, to) = (self.disk, size);
        for (at, byte) in (0_u64..).zip(self.dirty.iter_mut()) {
            if (from..to).contains(&at) {
                // What it lost behind the gateway's back, and has again, is not what a grow exposes.
                *byte = dirty && at >= if self.window { self.shown } else { self.known.max(self.shown) };
            } else if at >= to {
                *byte = false;
            }
        }
        self.disk = size;
    }

    /// The gateway's own ask is carried out, and leads to `size`.
    fn carry_out(&mut self, asked: u64, size: u64) {
        let size = if self.only_grows { size.max(self.disk) } else { size };
        // What is more than was asked for can't be told from what another hand added.
        self.outside |= size > asked;
        let (dirty, grows) = (!self.zeroed, asked > self.disk);
        self.set(if self.only_grows { asked.max(self.disk) } else { asked }.min(size), dirty);
        self.set(size, dirty && self.exclusive && grows);
    }

    fn fault<T>(&mut self, fits: impl Fn(Fault) -> Option<T>) -> Option<T> {
        let at = self.faults.iter().position(|fault| fits(*fault).is_some())?;
        self.faults.remove(at).and_then(fits)
    }

    fn once(&mut self, fault: Fault) -> bool {
        self.fault(|f| (f == fault).then_some(())).is_some()
    }

    /// By an operator's word, what a window has up to there is its tenant's. What it was before.
    pub(super) fn claim(&mut self, end: u64) -> [bool; BYTES] {
        let before = self.dirty;
        if self.window {
            self.claimed = end;
            (0_u64..).zip(self.dirty.iter_mut()).filter(|(at, _)| *at < end).for_each(|(_, dirty)| *dirty = false);
        }
        before
    }

    /// It was not shown: then it is not.
    pub(super) fn disclaim(&mut self, before: [bool; BYTES]) {
        let (window, shown) = (self.window, self.shown);
        self.claimed = 0;
        let hidden = (0_u64..).zip(self.dirty.iter_mut()).zip(before).filter(|((at, _), _)| window && *at >= shown);
        hidden.for_each(|((_, dirty), before)| *dirty |= before);
    }

    /// Another touch of the world. True: the process has ended before it.
    fn ends(&mut self) -> bool {
        let crash = self.faults.iter_mut().find_map(|fault| match fault {
            Fault::CrashAfter(left) => Some(left),
            _ => None,
        });
        if let Some(left) = crash {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => {
                    self.faults.retain(|fault| !matches!(fault, Fault::CrashAfter(_)));
                    self.crashed = true;
                }
            }
        }
        self.crashed
    }

    /// What becomes of a change that the ledger is asked for.
    pub(super) fn judge(&mut self, change: &Change) -> Fate {
        if self.ends() {
            return Fate::Lost;
        }
        let (notes, cleared): (bool, &[ByteRange]) = match change {
            Change::Reserve(reserve) => (reserve.zeroes.is_some(), &[]),
            Change::RecordZeroing(..) => (true, &[]),
            Change::ClearZeroing(zeroing) => (false, std::slice::from_ref(&zeroing.range)),
            Change::Commit(commit) => (false, &commit.zeroed),
            Change::RollBack { unexposed, .. } => (false, unexposed),
            _ => (false, &[]),
        };
        if notes && self.once(Fault::NoteFails)
            || !cleared.is_empty() && self.once(Fault::ClearFails)
            || self.once(Fault::KeepFails)
        {
            return Fate::Failed;
        }
        for range in cleared {
            let inside = within(*range);
            let dirty = (0_u64..).zip(self.dirty).any(|(at, dirty)| inside(at) && dirty);
            // What is past a window is noted anew by whoever is to show it.
            assert!(self.window || !dirty, "{range:?} taken off the ledger before it was zeroed");
        }
        match self.once(Fault::KeepLies) {
            true => Fate::Lied,
            false if self.ends() => Fate::Unanswered,
            false => Fate::Written,
        }
    }

    /// What of it counts.
    pub(super) fn real(&self) -> u64 {
        if self.window { self.shown } else { self.disk }
    }

    /// After a crash: what was being asked for is done or not, and the size to show is what can be told. The size shown.
    pub(super) fn restart(&mut self, late: Late) -> u64 {
        self.crashed = false;
        match late {
            Late::Lands => self.land(),
            Late::Never => self.in_doubt = None,
            Late::InDoubt => {}
        }
        if self.window && self.disk < self.rows.size {
            self.outside(self.rows.size);
        }
        let counted = self.rows.size.max(self.rows.pending.unwrap_or_default());
        // What a window was about to leave is nobody's.
        let there = if self.window { self.shown.min(self.end) } else { self.disk };
        assert!(self.outside || there <= counted, "{there} there, {counted} counted after a crash");
        let end = if self.window { self.rows.size } else { self.disk };
        let noted = (0_u64..).zip(self.rows.noted).find(|(_, noted)| *noted).map(|(at, _)| at);
        let size = noted.map_or(end, |noted| noted.min(end));
        let dirty = (0_u64..).zip(self.dirty).find(|(at, dirty)| *at < size && *dirty);
        assert!(dirty.is_none(), "byte {dirty:?} shown up to {size} after a crash");
        assert!(!self.window || size >= self.shown.min(self.end), "{} was promised, {size} is shown", self.shown);
        // More than was asked for, given in the moment of the crash, can't be told from what another hand added since.
        self.dirty.iter_mut().zip(self.rows.noted).for_each(|(dirty, noted)| *dirty &= noted);
        (self.shown_before, self.shown, self.end) = (self.shown, size, size);
        (self.read, self.known) = (self.disk, self.disk);
        (self.shrinking, self.aside) = (self.in_doubt.is_some_and(|to| to < size), false);
        size
    }

    pub(super) fn now_in(&mut self, accounts: Arc<TenantAccounts>) {
        self.accounts = accounts;
    }

    /// What counts may be over a quota that was lowered, and never rises there.
    pub(super) fn check_quota(&mut self) {
        let Some(usage) = self.accounts.books(|books| books.usage(&self.tenant)) else { return };
        let sum = usage.used.0 + usage.reserved.0 + usage.unsettled.0;
        let before = std::mem::replace(&mut self.sum, sum);
        assert!(
            self.outside || !usage.over_quota || sum <= before,
            "the gateway took the tenant over its quota, from {before}: {usage:?}"
        );
    }

    pub(super) fn has_notes(&self) -> bool {
        self.rows.noted.iter().any(|noted| *noted)
    }
}

/// The hands into it.
pub(super) struct Fake {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) export: ExportName,
}

fn within(range: ByteRange) -> impl Fn(u64) -> bool {
    let (start, end) = (range.start().bytes(), range.end().bytes());
    move |at| (start..end).contains(&at)
}

impl Fake {
    /// Waits for ever if the process has ended.
    async fn touch(&self) {
        let ended = self.state.lock().ends();
        if ended {
            std::future::pending::<()>().await;
        }
    }

    fn carry_out(&self, ask: Ask) -> Answered {
        let mut state = self.state.lock();
        let asked = match ask {
            Ask::Nothing => return Answered::Yes,
            Ask::ExplicitResize(size) | Ask::ResizeEmbedded(size) | Ask::Driver(size) => size.bytes(),
            Ask::ZeroWriteLastGranule { offset, len } => {
                let end = offset.bytes().saturating_add(u64::from(len));
                assert!(state.outside || offset.bytes() >= state.disk, "zeroes over what another wrote");
                end
            }
        };
        // A shrink of what another hand has cut off further gives some of that back.
        state.outside |= asked > state.disk && asked < state.shown;
        state.known = state.read;
        state.only_grows = matches!(ask, Ask::ZeroWriteLastGranule { .. });
        assert!(!state.ended, "a backend is asked after the end");
        assert!(asked <= LARGEST, "asked for {asked} bytes");
        let counted = state.accounts.books(|books| books.size(&self.export)).map_or(0, Size::bytes);
        state.check_quota();
        if asked > counted {
            let held = state.accounts.books(|books| books.usage(&state.tenant)).map_or(0, |u| u.reserved.0);
            assert!(counted.saturating_add(held) >= asked, "asked for {asked}, counted {counted}, held {held}");
        }
        if asked < state.shown {
            assert!(state.end <= asked, "asked for a shrink to {asked} with requests admitted up to {}", state.end);
        }
        if !state.zeroed && !state.outside {
            let from = state.disk.max(state.read).min(asked);
            let noted =
                (0_u64..).zip(state.rows.noted).filter(|(at, _)| (from..asked).contains(at)).all(|(_, noted)| noted);
            assert!(noted, "asked for {asked} bytes before the ledger had noted what that exposes");
        }
        let fault = state.fault(|f| match f {
            Fault::OtherSize(_)
            | Fault::YesUnchanged
            | Fault::GarbageDone
            | Fault::GarbageUnchanged
            | Fault::Refused(_)
            | Fault::RefusedDone(_)
            | Fault::Never => Some(f),
            _ => None,
        });
        match fault {
            Some(Fault::OtherSize(size)) => state.carry_out(asked, size),
            Some(Fault::YesUnchanged) => {}
            Some(Fault::GarbageDone) => {
                state.carry_out(asked, asked);
                return Answered::Unknown("garbage".to_owned());
            }
            Some(Fault::GarbageUnchanged) => return Answered::Unknown("garbage".to_owned()),
            Some(Fault::Refused(errno)) => return Answered::No { errno, message: String::new() },
            Some(Fault::RefusedDone(errno)) => {
                state.carry_out(asked, asked);
                return Answered::No { errno, message: String::new() };
            }
            Some(Fault::Never) => {
                assert!(state.in_doubt.is_none(), "asked while an earlier ask may still land");
                state.in_doubt = Some(asked);
                return Answered::Unknown("no answer".to_owned());
            }
            _ => state.carry_out(asked, asked),
        }
        Answered::Yes
    }
}

impl Effects for Fake {
    async fn read_size(&mut self) -> Result<u64, fault::Fault> {
        self.touch().await;
        let mut state = self.state.lock();
        if state.once(Fault::ReadFails) {
            return Err(fault::Fault::host("read failing"));
        }
        let mut read = state.disk;
        if state.once(Fault::ReadsHuge) {
            read = MAX_SIZE.saturating_add(1);
        }
        state.read = read;
        if let Some(other) = state.fault(|f| if let Fault::Flips(size) = f { Some(size) } else { None }) {
            state.outside(other);
        }
        Ok(read)
    }

    async fn ask(&mut self, ask: Ask) -> Answered {
        self.touch().await;
        let answered = self.carry_out(ask);
        // It is done, and nobody hears of it.
        self.touch().await;
        answered
    }

    fn in_doubt(&mut self) -> bool {
        self.state.lock().in_doubt.is_some()
    }

    fn confirmed(&mut self) {
        let mut state = self.state.lock();
        assert!(state.in_doubt == Some(state.read), "taken for done at {}, asked for {:?}", state.read, state.in_doubt);
        state.in_doubt = None;
    }

    async fn size_from_handshake(&mut self) -> Option<u64> {
        None
    }

    async fn zero(&mut self, range: ByteRange) -> Result<(), fault::Fault> {
        self.touch().await;
        let mut state = self.state.lock();
        let inside = within(range);
        assert!(!state.aside, "zeroed without a connection");
        assert!(range.start().bytes() >= state.shown, "zeroes over what clients see");
        // What is clean may have been cleared by a change that the ledger said had failed.
        let bytes = (0_u64..).zip(state.rows.noted.into_iter().zip(state.dirty));
        let noted = bytes.filter(|(at, _)| inside(*at)).all(|(_, (noted, dirty))| noted || !dirty);
        assert!(noted, "{range:?} is zeroed and was not noted");
        if state.once(Fault::ZeroFails) || range.end().bytes() > state.disk {
            return Err(fault::Fault::host("zero failing"));
        }
        (0_u64..).zip(state.dirty.iter_mut()).filter(|(at, _)| inside(*at)).for_each(|(_, dirty)| *dirty = false);
        Ok(())
    }

    fn single_connection(&self) -> bool {
        false
    }

    async fn drop_lanes(&mut self) -> bool {
        let mut state = self.state.lock();
        assert!(!state.aside, "lanes taken aside twice");
        state.aside = !state.once(Fault::LanesStay);
        state.aside
    }

    async fn renew(&mut self, lanes: Lanes) {
        if lanes == Lanes::DropBefore {
            self.state.lock().aside = false;
        }
    }

    fn lower_end(&mut self, end: Size) {
        let mut state = self.state.lock();
        assert!(end.bytes() <= state.shown, "an end lowered to {end:?} with {} shown", state.shown);
        state.end = end.bytes();
        state.shrinking = true;
    }

    async fn drain(&mut self, end: Size, _limit: Duration) -> bool {
        self.touch().await;
        let mut state = self.state.lock();
        assert!(state.end <= end.bytes(), "drained while requests are admitted past it");
        !state.once(Fault::DrainFails)
    }

    fn publish(&mut self, shown: Shown) {
        let mut state = self.state.lock();
        let Shown { size, generation } = shown;
        assert!(!state.ended, "published after the end");
        assert!(size >= state.shown || state.shrinking, "the size went back by itself from {} to {size}", state.shown);
        assert!(size <= state.shown || size <= state.read, "{size} shown, {} read", state.read);
        let dirty = (0_u64..).zip(state.dirty).find(|(at, dirty)| *at < size && *dirty);
        assert!(dirty.is_none(), "byte {dirty:?} shown up to {size} before it was zeroed");
        assert!((size == state.shown) == (generation == state.generation), "a size without a generation of its own");
        // Lowered, it goes up again only when nothing can land past it.
        assert!(
            size <= state.end || state.in_doubt.is_none_or(|late| late >= size),
            "the end is back, a shrink may land"
        );
        if state.window {
            assert!(size <= state.rows.size, "{size} shown, {} on record", state.rows.size);
            // What it leaves is what its clients wrote.
            let left = size.max(state.claimed)..state.shown;
            (0_u64..)
                .zip(state.dirty.iter_mut())
                .filter(|(at, _)| left.contains(at))
                .for_each(|(_, dirty)| *dirty = true);
        }
        (state.shown, state.generation, state.end) = (size, generation, size);
        state.shrinking = false;
    }

    fn apply_rules(&mut self, _: &Rules) {}

    fn log_event(&mut self, _happened: Happened) {}

    async fn size_on_host(&mut self) -> Option<u64> {
        None
    }
}
