//! The body of the fuzz target for resizes: any list of wishes, hints, other hands and named faults, one step after the
//! other, through a [`Coordinator`] whose world is [`world`].
//!
//! After each step the promises are checked; at the end everything is healed, and nothing may be left: no reservation, no
//! doubt, no note, and an export that grows again. Sizes are a few bytes, so that histories collide.

#[cfg(test)]
mod moved;
mod world;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nbd_gateway_ledger::{Ledger, Mailbox, Snapshot};
use nbd_gateway_metrics::{Metrics, ResizeDriver};
use nbd_gateway_policy::export::{ExportPolicy, External, OverQuota};
use nbd_gateway_policy::plan::{Standing, Wish};
use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::refusal::{Reason, Refusal};
use nbd_gateway_policy::style::{BackendStyle, ClientStyle, Grows, Proof, Replies, Tells};
use nbd_gateway_policy::types::{Bytes, ExportName, Granularity, Size, TenantId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::coordinator::{Act, Answer, Coordinator, ResizeState};
use super::jobs::Job;
use super::openers::Openers;
use super::rules::Rules;
use super::{Desk, Resizer};
use crate::accounting::account::{Account, Shows};
use crate::accounting::cache::LedgerCache;
use crate::accounting::tenants::TenantAccounts;
use crate::target::Shown;
use world::{Fake, Fault, LARGEST, Late, Rows, State};

/// What the tenant may have, in bytes.
const QUOTA: u64 = 48;

/// A coordinator in its world.
struct Play {
    coordinator: Coordinator<Fake>,
    state: Arc<Mutex<State>>,
    mailbox: Mailbox,
    accounts: Arc<TenantAccounts>,
    desk: Arc<Desk>,
    /// What the export began with.
    policy: ExportPolicy,
    tenant: TenantId,
    /// Another export of the same tenant.
    other: ExportName,
    wishes: u64,
}

/// Plays `data`: three bytes choose the export, then each pair of bytes is one step.
pub(crate) fn fuzz_resizes(data: &[u8]) {
    let [choice, style, size, steps @ ..] = data else { return };
    let Some(mut play) = Play::new(*choice, *style, u64::from(*size)) else { return };
    for step in steps.chunks_exact(2).take(200) {
        if let [kind, value] = *step {
            play.step(kind, u64::from(value));
            play.check();
        }
    }
    play.heal();
    play.end();
}

/// Histories to start from: one per fault, in front of a grow and of a shrink.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let faults = (0_u8..16).flat_map(|fault| {
        [0x30, 0x40, 0xc0].map(|scene| vec![scene, 0x12, 16, 8, fault << 4, 0, 24, 9, 0, 0, 32, 1, 8, 9, 0, 0, 40])
    });
    let lost = vec![0, 2, 20, 5, 12, 7, 0, 0xf4, 0, 0, 16, 5, 40, 0xd4, 0, 0x85, 8, 0xf4, 8, 0xe4, 8];
    let plain = vec![0, 0, 8, 0, 12, 2, 20, 4, 30, 5, 0, 1, 9, 6, 50, 9, 0, 3, 40];
    // A window's grow that the ledger does not take, then a shrink that it takes.
    let shrunk_window = vec![0x40, 0x12, 16, 8, 12 << 4, 0, 32, 1, 8];
    faults.chain([plain, lost, shrunk_window]).collect()
}

fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// The same, where nothing but the ledger may be waited for. None: the process has ended.
fn served<T>(mailbox: &mut Mailbox, state: &Mutex<State>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(outcome);
        }
        if !mailbox.serve(|change| state.lock().judge(change)) {
            return None;
        }
        state.lock().rows = rows(mailbox);
    }
}

fn rows(mailbox: &Mailbox) -> Rows {
    Rows::of(&mailbox.snapshot().unwrap_or_default())
}

impl Play {
    fn new(choice: u8, style: u8, size: u64) -> Option<Self> {
        let (export, other) = (ExportName::new("e").ok()?, ExportName::new("other").ok()?);
        let tenant = TenantId::new("t").ok()?;
        let proof = if style & 4 == 0 { Proof::OptedIn } else { Proof::Claimed };
        let grows = match style & 3 {
            _ if choice & 0xc0 == 0x40 => Grows::Window,
            any if choice & 0x80 != 0 => Grows::Driver { aside: any & 1 == 0 },
            0 => Grows::Explicit { replies: Replies::Structured, proof },
            1 => Grows::Automatic { proof },
            2 => Grows::Explicit { replies: Replies::Simple, proof },
            _ => Grows::Embedded,
        };
        let granularity = 1 << (style >> 3 & 3);
        let size = Size::new((size % 32) / granularity * granularity).ok()?;
        let policy = ExportPolicy {
            shrink: style & 0x20 == 0,
            over_quota: if style & 0x40 == 0 { OverQuota::Reject } else { OverQuota::Clamp },
            external: match choice & 3 {
                0 | 1 => External::Adopt,
                2 => External::Ignore,
                _ => External::Manual,
            },
            exclusive: choice & 4 != 0,
            granularity: Granularity::new(granularity).ok()?,
            max_size: Size::new(LARGEST).ok()?,
            step: Bytes(u64::from(choice >> 4 & 3)),
            ..ExportPolicy::DEFAULT
        };
        let window = grows == Grows::Window;
        let zeroed = choice & 8 != 0 && !window;
        let accounts = accounts(&tenant);
        accounts.open(&export, &tenant, size, false);
        accounts.open(&other, &tenant, Size::ZERO, false);
        let state = Arc::new(Mutex::new(State::new(
            Arc::clone(&accounts),
            tenant.clone(),
            size.bytes(),
            zeroed,
            choice & 4 != 0,
        )));
        let disk = if window {
            state.lock().behind_a_window(60);
            Size::new(60).ok()?
        } else {
            size
        };
        let start = ResizeState {
            export: export.clone(),
            tenant: tenant.clone(),
            policy: policy.clone(),
            size,
            generation: 0,
            disk,
            backend: BackendStyle { grows, tells: Tells::Query },
            zeroed_by_backend: zeroed,
            unsettled: None,
            unzeroed: Vec::new(),
            timeout: Duration::from_secs(1),
            older: false,
        };
        let effects = Fake { state: Arc::clone(&state), export: export.clone() };
        let (ledger, mut mailbox) = Ledger::by_hand().ok()?;
        let cache = Arc::new(LedgerCache::of(ledger, &Snapshot::default(), None));
        let shows = if window { Shows::Window { recorded: true } } else { Shows::All };
        let mut account = Account::new(Arc::clone(&accounts), cache, export.clone(), tenant.clone(), shows);
        served(&mut mailbox, &state, account.open(size, Shown { size: size.bytes(), generation: 0 }, false))?;
        let openers = Arc::new(Openers::new(Duration::ZERO));
        let told = Metrics::new("0").ok()?.resize("e", None, "t", ResizeDriver::Wire);
        let (Resizer { desk, .. }, _) = Resizer::new(export, tenant.clone(), openers, Arc::clone(&accounts));
        let coordinator = Coordinator::new(start, effects, account, Arc::clone(&desk), told);
        Some(Self { coordinator, state, mailbox, accounts, desk, policy, tenant, other, wishes: 0 })
    }

    fn step(&mut self, kind: u8, value: u64) {
        let size = value % (LARGEST + 1);
        let stale = u64::from(kind >> 4) * 4;
        let client = if kind & 0x80 == 0 { ClientStyle::ExplicitStructured } else { ClientStyle::ExplicitSimple };
        let shown = self.state.lock().shown;
        match kind & 15 {
            0 | 1 => drop(self.explicit(client, shown, size)),
            2 => drop(self.explicit(client, stale, size)),
            3 => drop(self.wish(Wish::Automatic { end: if size == 0 { u64::MAX } else { size } }, None)),
            4 => drop(self.order(kind >> 4, size)),
            5 => self.state.lock().outside(size),
            6 => self.seen(size),
            7 => {
                let disk = self.state.lock().disk;
                self.seen(disk);
            }
            8 => self.state.lock().faults.push_back(fault(value, stale)),
            9 => self.settle(),
            10 => self.state.lock().land(),
            11 => self.state.lock().in_doubt = None,
            12 => self.other_grows(size),
            13 if kind & 0x80 != 0 => self.adjust(kind >> 4, value),
            13 => drop(self.accounts.books(|books| books.measure(&self.other, Size::ZERO))),
            14 => self.seen(u64::MAX - value),
            _ => drop(self.explicit(client, shown, if value & 1 == 0 { 0 } else { u64::MAX - value })),
        }
    }

    /// An operator changes what it goes by while it is open: the quota, or the export's policy.
    fn adjust(&mut self, which: u8, value: u64) {
        if which & 4 != 0 {
            let quota = if value & 1 == 0 { Bytes((value >> 1).min(QUOTA)) } else { Bytes(QUOTA) };
            self.state.lock().check_quota();
            self.accounts.books(|books| {
                books.set_limits(&self.tenant, TenantLimits { quota: Some(quota), ..TenantLimits::NONE })
            });
            return;
        }
        let policy = ExportPolicy {
            over_quota: if value & 1 == 0 { OverQuota::Reject } else { OverQuota::Clamp },
            external: match value >> 1 & 3 {
                0 | 1 => External::Adopt,
                2 => External::Ignore,
                _ => External::Manual,
            },
            shrink: value & 8 == 0,
            max_size: Size::new(if value & 16 == 0 { LARGEST } else { value >> 2 }).unwrap_or(Size::MAX),
            step: Bytes(value >> 6),
            ..self.policy.clone()
        };
        self.go_by(policy, which & 1 == 0);
    }

    /// Other rules, and the word that there are; that is lost where too many wishes wait.
    fn go_by(&mut self, policy: ExportPolicy, told: bool) {
        *self.desk.rules.lock() = Some(Rules { policy, timeout: Duration::from_secs(1) });
        if told {
            let going_on = served(&mut self.mailbox, &self.state, self.coordinator.apply(Act::Adjusted));
            assert!(
                going_on == Some(true) || going_on.is_none() && self.came_back(),
                "new rules wait, or end everything"
            );
        }
    }

    fn explicit(&mut self, client: ClientStyle, told: u64, target: u64) -> Answer {
        let told = Size::new(told).unwrap_or(Size::ZERO);
        let answer = self.wish(Wish::Explicit { client, told, target }, Some(client));
        if let Ok(size) = &answer {
            let grow = target >= told.bytes();
            let clamp = self.coordinator.state.policy.over_quota == OverQuota::Clamp && client.success().tells_size();
            assert!(!grow || clamp || size.bytes() >= target, "asked for {target}, answered {size:?}");
        }
        answer
    }

    /// An operator's: a size, or what there is already.
    fn order(&mut self, which: u8, size: u64) -> Answer {
        match which {
            0xd => self.wish(Wish::Publish, None),
            // What the backend has now, or what a person takes it to have.
            0xe | 0xf => {
                let disk = self.state.lock().disk;
                let target = if which == 0xf { disk } else { size };
                let before = self.state.lock().claim(target);
                let answer = self.wish(Wish::Adopt { target }, None);
                let mut state = self.state.lock();
                state.disclaim(before);
                // Less of a window is an ordinary shrink, and rounded.
                let met = state.shown == target || state.window && state.shown >= target;
                assert!(answer.is_err() || met, "adopted {target}, shown {}", state.shown);
                assert!(answer.is_err() || state.in_doubt.is_none(), "adopted what may still change");
                drop(state);
                answer
            }
            _ => self.wish(Wish::Operator { target: size }, None),
        }
    }

    /// Exactly one answer, and the size in it is the one that is shown.
    fn wish(&mut self, wish: Wish, asking: Option<ClientStyle>) -> Answer {
        let (reply, mut answer) = oneshot::channel();
        self.wishes += 1;
        let job = self.desk.jobs.begin(String::new());
        let asking = asking.map(|style| self.desk.openers.asking(style));
        let act = Act::Wish { wish, asking, job, span: tracing::Span::none(), reply };
        let going_on = served(&mut self.mailbox, &self.state, self.coordinator.apply(act));
        if going_on.is_none() && self.came_back() {
            let ResizeState { export, tenant, .. } = &self.coordinator.state;
            return Err(Refusal { export: export.clone(), tenant: tenant.clone(), reason: Reason::Draining });
        }
        assert_eq!(going_on, Some(true), "a wish that waits, or ends everything");
        let answer = answer.try_recv();
        assert!(answer.is_ok(), "a wish without an answer");
        let answer = answer.unwrap_or(Ok(Size::ZERO));
        if let Ok(size) = &answer {
            assert_eq!(size.bytes(), self.state.lock().shown, "answered another size than is shown");
        }
        assert!(self.desk.jobs.list().last().is_some_and(Job::is_over), "a job that goes on after its answer");
        answer
    }

    fn seen(&mut self, size: u64) {
        let sound = {
            let state = self.state.lock();
            state.faults.is_empty() && state.disk >= state.shown && state.in_doubt.is_none()
        };
        let before = self.coordinator.standing;
        let going_on = served(&mut self.mailbox, &self.state, self.coordinator.apply(Act::Seen(size)));
        if going_on.is_none() && self.came_back() {
            return;
        }
        assert_eq!(going_on, Some(true), "a hint that waits, or ends everything");
        let after = self.coordinator.standing;
        assert!(!sound || after == before || after == Standing::Ready, "a hint of {size} made {after:?} of {before:?}");
    }

    fn settle(&mut self) {
        let settled = served(&mut self.mailbox, &self.state, self.coordinator.settle());
        assert!(settled.is_some() || self.came_back(), "settling waits");
    }

    /// If the process has ended: another one, which knows what the ledger has.
    fn came_back(&mut self) -> bool {
        if !self.state.lock().crashed {
            return false;
        }
        let (Ok(ledger), Ok(snapshot)) = (self.mailbox.restart(), self.mailbox.snapshot()) else { return false };
        let cache = Arc::new(LedgerCache::of(ledger, &snapshot, None));
        let mut state = self.state.lock();
        state.rows = Rows::of(&snapshot);
        let size_of = |bytes| Size::new(bytes).unwrap_or(Size::ZERO);
        let others = self.accounts.books(|books| books.size(&self.other)).unwrap_or_default();
        let (export, tenant) = (self.coordinator.state.export.clone(), self.tenant.clone());
        let accounts = accounts(&tenant);
        accounts
            .books(|books| books.restore(&export, &tenant, size_of(state.rows.size), state.rows.pending.map(size_of)));
        accounts.open(&self.other, &tenant, others, false);
        let early = now(accounts.reserve(&export, &tenant, size_of(LARGEST), Bytes(LARGEST)));
        assert!(early.is_some_and(|early| early.is_err()), "it grows before it has been measured");
        let late = match self.wishes % 3 {
            0 => Late::Lands,
            // A window asks its backend for nothing.
            _ if state.window => Late::Never,
            1 => Late::Never,
            _ => Late::InDoubt,
        };
        let size = size_of(state.restart(late));
        let asked = accounts.books(|books| books.unsettled(&export)).or_else(|| cache.about(&export).lowered);
        let unsettled = asked.filter(|_| state.in_doubt.is_some());
        if unsettled.is_some()
            && let Some(end) = cache.about(&export).lowered
        {
            state.end = state.end.min(end.bytes());
        }
        accounts.open(&export, &tenant, size_of(state.real()), unsettled.is_some());
        let sum = state.real().saturating_add(others.bytes());
        assert!(state.outside || sum <= QUOTA, "{sum} bytes there after a crash");
        state.now_in(Arc::clone(&accounts));
        let unzeroed = cache.about(&export).owed;
        let first = cache.first_shown(&export, size);
        if !self.coordinator.account.behind {
            let same = first.generation == state.generation;
            assert!(
                first.generation >= state.generation && (!same || state.shown_before == size.bytes()),
                "{first:?} after {} in generation {}: it was another size's, or earlier",
                state.shown_before,
                state.generation
            );
        }
        state.generation = first.generation;
        let disk = size_of(state.disk);
        let effects = Fake { state: Arc::clone(&self.state), export: export.clone() };
        drop(state);
        let ResizeState { policy, backend, zeroed_by_backend, timeout, .. } = &self.coordinator.state;
        let start = ResizeState {
            export,
            tenant,
            policy: policy.clone(),
            size,
            generation: first.generation,
            disk,
            backend: *backend,
            zeroed_by_backend: *zeroed_by_backend,
            unsettled,
            unzeroed,
            timeout: *timeout,
            older: false,
        };
        let shows = if self.state.lock().window { Shows::Window { recorded: true } } else { Shows::All };
        let mut account = Account::new(Arc::clone(&accounts), cache, start.export.clone(), start.tenant.clone(), shows);
        let real = size_of(self.state.lock().real());
        served(&mut self.mailbox, &self.state, account.open(real, first, unsettled.is_some()));
        self.accounts = accounts;
        let told = self.coordinator.metrics.clone();
        self.coordinator = Coordinator::new(start, effects, account, Arc::clone(&self.desk), told);
        true
    }

    fn other_grows(&mut self, size: u64) {
        let to = Size::new(size).unwrap_or(Size::ZERO);
        let grown = Bytes(size);
        if let Some(Ok((held, _))) = now(self.accounts.reserve(&self.other, &self.tenant, to, grown)) {
            self.accounts.commit(Some(held), &self.other, to);
        }
    }

    fn check(&self) {
        let mut state = self.state.lock();
        state.check_quota();
        assert!(!state.aside, "the lanes are left without a connection");
        assert!(state.end <= state.shown, "admitted up to {} of {}", state.end, state.shown);
        if self.coordinator.standing == Standing::Ready {
            assert_eq!(state.end, state.shown, "ready, with a lowered end");
            assert!(state.shown <= self.coordinator.state.disk.bytes(), "more shown than was read");
        }
        let usage = self.accounts.books(|books| books.usage(&self.tenant));
        assert!(usage.is_some_and(|u| u.reserved == Bytes(0)), "held after its wish was answered: {usage:?}");
    }

    /// Nothing fails any more, what is in doubt is answered, lost bytes are given back: then nothing may be left over.
    fn heal(&mut self) {
        let disk = {
            let mut state = self.state.lock();
            state.faults.clear();
            state.land();
            if state.disk < state.shown {
                let shown = state.shown;
                state.outside(shown);
            }
            state.disk
        };
        for _ in 0..3 {
            self.settle();
            self.seen(disk);
            self.check();
        }
        let usage = self.accounts.books(|books| books.usage(&self.tenant));
        assert!(usage.is_some_and(|u| u.unsettled == Bytes(0)), "unsettled after a probe: {usage:?}");
        let shown = self.state.lock().shown;
        assert!(!self.state.lock().has_notes(), "a note is left, and would zero what clients write from now on");
        assert_eq!(self.state.lock().end, shown, "an end that stays lowered");
        // It may be refused, but not for anything that has been healed.
        if let Err(refusal) = self.wish(Wish::Operator { target: shown + 1 }, None) {
            let stuck =
                matches!(refusal.reason, Reason::Busy | Reason::Unsettled | Reason::Quarantined | Reason::Draining);
            assert!(!stuck, "an export that does not come back: {refusal}");
        }
    }

    /// Ended, it does nothing more.
    fn end(mut self) {
        let (done, mut over) = oneshot::channel();
        assert_eq!(
            served(&mut self.mailbox, &self.state, self.coordinator.apply(Act::End(done))),
            Some(false),
            "no end"
        );
        assert!(over.try_recv().is_ok(), "nobody was told of the end");
        self.state.lock().ended = true;
        self.state.lock().outside(LARGEST);
        let refused = self.wish(Wish::Operator { target: LARGEST }, None);
        assert!(refused.is_err_and(|r| r.reason == Reason::Draining), "a wish after the end");
    }
}

fn accounts(tenant: &TenantId) -> Arc<TenantAccounts> {
    let accounts = Arc::new(TenantAccounts::default());
    let limits = TenantLimits { quota: Some(Bytes(QUOTA)), ..TenantLimits::NONE };
    accounts.books(|books| books.set_limits(tenant, limits));
    accounts
}

fn fault(value: u64, size: u64) -> Fault {
    const ERRNOS: [u32; 8] = [1, 5, 12, 22, 28, 75, 95, 108];
    let errno = ERRNOS.iter().copied().cycle().nth(usize::try_from(size / 4).unwrap_or(0)).unwrap_or(5);
    match value >> 4 {
        0 => Fault::OtherSize(value & 15),
        1 => Fault::YesUnchanged,
        2 => Fault::GarbageDone,
        3 => Fault::GarbageUnchanged,
        4 => Fault::Refused(errno),
        5 => Fault::RefusedDone(errno),
        6 => Fault::Never,
        7 => Fault::Flips(size),
        8 => Fault::ReadFails,
        9 => Fault::ReadsHuge,
        10 => Fault::ZeroFails,
        11 => Fault::NoteFails,
        12 => Fault::ClearFails,
        13 => Fault::DrainFails,
        14 => Fault::LanesStay,
        _ => match value & 15 {
            0..=3 => Fault::KeepFails,
            4..=7 => Fault::KeepLies,
            _ => Fault::CrashAfter(size / 4),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    use super::*;

    /// Serves the ledger as long as somebody asks it.
    pub(super) fn serve(mut mailbox: Mailbox, state: Arc<Mutex<State>>) {
        tokio::spawn(async move {
            while mailbox.serve_next(|change| state.lock().judge(change)).await {
                state.lock().rows = rows(&mailbox);
            }
        });
    }

    /// Why an operator's wish for 16 bytes is refused.
    pub(super) async fn grow_in_vain(acts: &mpsc::Sender<Act>) -> Reason {
        let (reply, answer) = oneshot::channel();
        let (wish, span) = (Wish::Operator { target: 16 }, tracing::Span::none());
        acts.send(Act::Wish { wish, asking: None, job: 0, span, reply }).await.unwrap();
        answer.await.unwrap().unwrap_err().reason
    }

    #[tokio::test(start_paused = true)]
    async fn in_its_task_a_coordinator_settles_a_doubt_by_itself_and_ends_when_told() {
        let play = Play::new(0, 0x10, 8).unwrap();
        let (state, accounts, tenant) = (play.state, play.accounts, play.tenant);
        let unsettled = || accounts.books(|books| books.usage(&tenant)).unwrap().unsettled;
        let (acts, rx) = mpsc::channel(8);
        let task = tokio::spawn(play.coordinator.run(rx));
        serve(play.mailbox, Arc::clone(&state));

        state.lock().faults.push_back(Fault::Never);
        assert_eq!(grow_in_vain(&acts).await, Reason::BackendTimedOut);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!((state.lock().shown, unsettled()), (8, Bytes(8)), "settled while it may still land");

        state.lock().land();
        sleep(Duration::from_secs(2)).await;
        assert_eq!((state.lock().shown, unsettled()), (16, Bytes(0)), "not settled by itself");

        let (done, over) = oneshot::channel();
        acts.send(Act::End(done)).await.unwrap();
        over.await.unwrap();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn writes_past_the_end_one_after_the_other_grow_by_more_each_time_until_they_pause() {
        let mut play = Play::new(0x10, 3, 24).unwrap();
        let mut write = |end| play.wish(Wish::Automatic { end }, None).unwrap().bytes();
        assert_eq!([write(25), write(26), write(28)], [25, 27, 30]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(write(31), 31);
    }

    /// Each hint put it off by another second: an export with a short `poll` never came to it.
    #[tokio::test(start_paused = true)]
    async fn loose_ends_are_settled_however_often_the_backend_tells_its_size() {
        let play = Play::new(0, 0x10, 8).unwrap();
        let state = play.state;
        let (acts, rx) = mpsc::channel(8);
        let task = tokio::spawn(play.coordinator.run(rx));
        serve(play.mailbox, Arc::clone(&state));
        state.lock().faults.push_back(Fault::ZeroFails);
        assert_eq!(grow_in_vain(&acts).await, Reason::BackendFailed);
        for _ in 0..10 {
            acts.send(Act::Seen(16)).await.unwrap();
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(state.lock().shown, 16, "not zeroed and shown by itself");
        drop(acts);
        task.await.unwrap();
    }
}
