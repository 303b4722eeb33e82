//! Random histories against a naive model: sets of bytes and maps, with ends and crashes of the process in between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

/// Sizes are small, so that ranges meet: a unit of the model is a byte.
const SIZES: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    Reserve { export: usize, tenant: usize, from: u64, to: u64, zeroes: Option<ByteRange> },
    Commit { which: usize, known: Known, zeroes: Zeroes },
    Rollback { which: usize },
    Unsettle { which: usize },
    Settle { export: usize, known: Known },
    RecordSize { export: usize, tenant: usize, known: Known },
    RecordZeroing { export: usize, range: ByteRange, of: Option<usize> },
    ClearZeroing { export: usize, range: ByteRange },
    Quarantine { export: usize, why: Option<String>, at: u64 },
    Event { export: usize },
    Forget { export: usize },
    OrderQuota { tenant: usize, quota: Option<u64> },
    DropQuotaOrder { tenant: usize },
    Mark { export: usize, server: Option<String> },
    Unmark { exports: Vec<usize> },
    Close,
    Crash,
}

#[derive(Default)]
struct Model {
    exports: BTreeMap<ExportName, ExportRow>,
    reservations: BTreeMap<ReservationId, ReservationRow>,
    /// Export, grow that exposes it (none: it is over), byte.
    notes: BTreeSet<(ExportName, Option<ReservationId>, u64)>,
    orders: BTreeMap<TenantId, QuotaOrder>,
    marks: BTreeMap<ExportName, Mark>,
    /// The kinds, in order.
    events: Vec<&'static str>,
    /// All numbers ever given, and one never given.
    given: Vec<ReservationId>,
}

fn name(number: usize) -> ExportName {
    export(["a", "b", ""][number])
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(["blue", "red"][number]).unwrap()
}

fn mark(export: usize, server: Option<String>) -> Mark {
    Mark { export: name(export), backend: "unix:/run/s disk".to_owned(), server }
}

fn told(kind: &'static str) -> Option<NewEvent> {
    Some(NewEvent { kind, ..NewEvent::default() })
}

fn units(range: ByteRange) -> std::ops::Range<u64> {
    range.start().bytes()..range.end().bytes()
}

impl Model {
    fn which(&self, which: usize) -> ReservationId {
        let last = self.given.len().saturating_sub(1);
        // The newest most often: older ones are over, as a rule.
        self.given.get(last.saturating_sub(which)).copied().unwrap_or(ReservationId(1_000_000))
    }

    fn own(&mut self, id: ReservationId, owner: Option<Option<ReservationId>>) {
        let (own, mut notes): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.notes).into_iter().partition(|note| note.1 == Some(id));
        if let Some(owner) = owner {
            notes.extend(own.into_iter().map(|(export, _, unit)| (export, owner, unit)));
        }
        self.notes = notes;
    }

    fn learn(&mut self, export: &ExportName, known: Known) {
        self.exports.get_mut(export).unwrap().known = Known { reach: None, ..known };
        let end = known.size.max(known.shown.unwrap_or_default()).max(known.reach.unwrap_or_default()).bytes();
        self.notes.retain(|(of, owner, unit)| of != export || owner.is_some() || *unit < end);
    }

    fn add(&mut self, export: &ExportName, tenant: TenantId, known: Known) {
        let row = ExportRow { name: export.clone(), tenant, known, quarantine: None };
        self.exports.entry(export.clone()).or_insert(row);
    }

    fn restart(&mut self) {
        for row in self.reservations.values_mut() {
            row.state = State::Unsettled;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut zeroing: Vec<Zeroing> = Vec::new();
        for (export, unit) in self.notes.iter().map(|(export, _, unit)| (export, *unit)).collect::<BTreeSet<_>>() {
            match zeroing.last_mut() {
                Some(last) if last.export == *export && last.range.end() == size(unit) => {
                    last.range = range(last.range.start().bytes(), unit + 1);
                }
                _ => zeroing.push(Zeroing { export: export.clone(), range: range(unit, unit + 1) }),
            }
        }
        let reservations = self.reservations.values().cloned().collect();
        let (exports, orders) = (self.exports.values().cloned().collect(), self.orders.values().cloned().collect());
        Snapshot { exports, zeroing, reservations, orders, marks: self.marks.values().cloned().collect() }
    }

    fn reserve(&mut self, id: ReservationId, reserve: Reserve) {
        assert!(self.given.last().is_none_or(|last| id > *last), "a number is given once");
        let Reserve { export, tenant, bytes, from, to, zeroes, at, .. } = reserve;
        self.add(&export, tenant.clone(), Known { size: from, at, ..Known::default() });
        self.notes.extend(zeroes.into_iter().flat_map(units).map(|unit| (export.clone(), Some(id), unit)));
        let state = State::Reserved;
        let row = ReservationRow { id, export, tenant, bytes, from, to, state, created_at: at };
        self.reservations.insert(id, row);
        self.given.push(id);
        self.events.push("reserved");
    }

    /// Whether it can be done, and then does it.
    fn step(&mut self, step: &Step) -> bool {
        match step.clone() {
            Step::Commit { which, known, zeroes } => {
                let id = self.which(which);
                let Some(row) = self.reservations.remove(&id) else { return false };
                self.own(id, (zeroes == Zeroes::Owed).then_some(None));
                self.learn(&row.export, known);
                self.events.push("grew");
            }
            Step::Rollback { which } => {
                let id = self.which(which);
                if self.reservations.remove(&id).is_none() {
                    return false;
                }
                self.own(id, None);
                self.events.push("rolled back");
            }
            Step::Unsettle { which } => {
                let id = self.which(which);
                let Some(row) = self.reservations.get_mut(&id) else { return false };
                row.state = State::Unsettled;
            }
            Step::Settle { export, known } => {
                let export = name(export);
                if !self.exports.contains_key(&export) {
                    return false;
                }
                let over = |row: &&ReservationRow| row.export == export && row.state == State::Unsettled;
                let over: Vec<_> = self.reservations.values().filter(over).map(|row| row.id).collect();
                for id in over {
                    self.reservations.remove(&id);
                    self.own(id, Some(None));
                }
                self.learn(&export, known);
                self.events.push("settled");
            }
            Step::RecordSize { export, tenant: whose, known } => {
                let export = name(export);
                self.add(&export, tenant(whose), known);
                self.exports.get_mut(&export).unwrap().tenant = tenant(whose);
                self.learn(&export, known);
            }
            Step::RecordZeroing { export, range, of } => {
                let (export, of) = (name(export), of.map(|which| self.which(which)));
                let fits = of.is_none_or(|id| self.reservations.get(&id).is_some_and(|row| row.export == export));
                if !fits || !self.exports.contains_key(&export) {
                    return false;
                }
                self.notes.extend(units(range).map(|unit| (export.clone(), of, unit)));
            }
            Step::ClearZeroing { export, range } => {
                let export = name(export);
                self.notes.retain(|(of, _, unit)| *of != export || !units(range).contains(unit));
            }
            Step::Quarantine { export, why, at } => {
                let Some(row) = self.exports.get_mut(&name(export)) else { return false };
                row.quarantine = why;
                row.known.at = UnixMillis(at);
                self.events.push("quarantine");
            }
            Step::Event { .. } => self.events.push("event"),
            Step::Forget { export } => {
                let export = name(export);
                let held = self.reservations.values().any(|row| row.export == export);
                if held || self.notes.iter().any(|note| note.0 == export) {
                    return false;
                }
                self.exports.remove(&export);
                self.events.push("forgot");
            }
            Step::OrderQuota { tenant: whose, quota } => {
                self.orders.insert(tenant(whose), order(tenant(whose).as_str(), quota, None));
                self.events.push("ordered");
            }
            Step::DropQuotaOrder { tenant: whose } => {
                self.orders.remove(&tenant(whose));
                self.events.push("dropped");
            }
            Step::Mark { export, server } => drop(self.marks.insert(name(export), mark(export, server))),
            Step::Unmark { exports } => exports.into_iter().for_each(|export| drop(self.marks.remove(&name(export)))),
            Step::Reserve { .. } | Step::Close | Step::Crash => unreachable!("the runner does them"),
        }
        true
    }
}

/// Asks the ledger for a step that the model does in [`Model::step`].
async fn ask(ledger: &Ledger, model: &Model, step: &Step) -> Result<(), LedgerError> {
    match step.clone() {
        Step::Commit { which, known, zeroes } => {
            ledger.commit(Commit { id: model.which(which), known, zeroes, event: told("grew") }).await
        }
        Step::Rollback { which } => ledger.rollback(model.which(which), told("rolled back")).await,
        Step::Unsettle { which } => ledger.unsettle(model.which(which), None).await,
        Step::Settle { export, known } => {
            ledger.settle(Settle { export: name(export), known, event: told("settled") }).await
        }
        Step::RecordSize { export, tenant: whose, known } => {
            ledger.record_size(RecordSize { export: name(export), tenant: tenant(whose), known, event: None }).await
        }
        Step::RecordZeroing { export, range, of } => {
            ledger.record_zeroing(&name(export), range, of.map(|which| model.which(which))).await
        }
        Step::ClearZeroing { export, range } => ledger.clear_zeroing(&name(export), range).await,
        Step::Quarantine { export, why, at } => {
            ledger.quarantine(&name(export), why, UnixMillis(at), told("quarantine")).await
        }
        Step::Event { export } => {
            let event = NewEvent { export: Some(name(export)), kind: "event", ..NewEvent::default() };
            ledger.event(event).await.map(drop)
        }
        Step::Forget { export } => ledger.forget(&name(export), told("forgot")).await,
        Step::OrderQuota { tenant: whose, quota } => {
            ledger.order_quota(order(tenant(whose).as_str(), quota, None), told("ordered")).await
        }
        Step::DropQuotaOrder { tenant: whose } => ledger.drop_quota_order(&tenant(whose), told("dropped")).await,
        Step::Mark { export, server } => ledger.mark(mark(export, server)).await,
        Step::Unmark { exports } => ledger.unmark(exports.into_iter().map(name).collect()).await,
        Step::Reserve { .. } | Step::Close | Step::Crash => unreachable!("the runner does them"),
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut scratch = Scratch::new();
    let (mut ledger, _) = Ledger::open(&scratch.0).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step.clone() {
            Step::Reserve { export, tenant: whose, from, to, zeroes } => {
                let reserve = Reserve {
                    export: name(export),
                    tenant: tenant(whose),
                    bytes: Bytes(to - from),
                    from: size(from),
                    to: size(to),
                    zeroes,
                    at: UnixMillis(from),
                    event: told("reserved"),
                };
                let id = ledger.reserve(reserve.clone()).await.unwrap();
                model.reserve(id, reserve);
            }
            Step::Close | Step::Crash => {
                let crash = matches!(step, Step::Crash).then(|| Scratch::of_a_crash(&scratch.0));
                ledger.close().await;
                scratch = crash.unwrap_or(scratch);
                let (reopened, snapshot) = Ledger::open(&scratch.0).unwrap();
                model.restart();
                prop_assert_eq!(snapshot, model.snapshot(), "after {:?}", step);
                ledger = reopened;
            }
            _ => {
                let asked = ask(&ledger, &model, &step).await;
                prop_assert_eq!(asked.is_ok(), model.step(&step), "{:?}: {:?}", step, asked);
            }
        }
        prop_assert_eq!(ledger.snapshot().await.unwrap(), model.snapshot(), "after {:?}", step);
        prop_assert!(ledger.is_up());
    }
    let events = ledger.events(EventFilter { limit: EventFilter::MOST, ..EventFilter::default() }).await.unwrap();
    prop_assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), model.events);
    ledger.close().await;
    Ok(())
}

fn a_known() -> impl Strategy<Value = Known> {
    let end = || prop::option::of(0..SIZES);
    (0..SIZES, end(), end(), 0..9u64).prop_map(|(counted, shown, reach, number)| Known {
        size: size(counted),
        shown: shown.map(size),
        reach: reach.map(size),
        generation: number,
        at: UnixMillis(number),
    })
}

fn a_range() -> impl Strategy<Value = ByteRange> {
    (0..SIZES, 1..SIZES).prop_map(|(start, length)| range(start, start + length))
}

fn a_step() -> impl Strategy<Value = Step> {
    let (export, which) = (0..3usize, 0..4usize);
    let zeroes = prop_oneof![Just(Zeroes::Done), Just(Zeroes::Owed)];
    let reserve = (export.clone(), 0..2usize, 0..SIZES, 0..SIZES, prop::option::of(a_range())).prop_map(
        |(export, tenant, from, more, zeroes)| Step::Reserve { export, tenant, from, to: from + more, zeroes },
    );
    prop_oneof![
        5 => reserve,
        3 => (which.clone(), a_known(), zeroes).prop_map(|(which, known, zeroes)| Step::Commit { which, known, zeroes }),
        1 => which.clone().prop_map(|which| Step::Rollback { which }),
        2 => which.clone().prop_map(|which| Step::Unsettle { which }),
        2 => (export.clone(), a_known()).prop_map(|(export, known)| Step::Settle { export, known }),
        2 => (export.clone(), 0..2usize, a_known())
            .prop_map(|(export, tenant, known)| Step::RecordSize { export, tenant, known }),
        3 => (export.clone(), a_range(), prop::option::of(which))
            .prop_map(|(export, range, of)| Step::RecordZeroing { export, range, of }),
        3 => (export.clone(), a_range()).prop_map(|(export, range)| Step::ClearZeroing { export, range }),
        1 => (export.clone(), prop::option::of("[a-z]{1,5}"), 0..9u64)
            .prop_map(|(export, why, at)| Step::Quarantine { export, why, at }),
        1 => export.clone().prop_map(|export| Step::Event { export }),
        1 => export.clone().prop_map(|export| Step::Forget { export }),
        1 => (export.clone(), prop::option::of("[a-z]{1,5}")).prop_map(|(export, server)| Step::Mark { export, server }),
        1 => prop::collection::vec(export, 0..3).prop_map(|exports| Step::Unmark { exports }),
        1 => (0..2usize, prop::option::of(0..SIZES)).prop_map(|(tenant, quota)| Step::OrderQuota { tenant, quota }),
        1 => (0..2usize).prop_map(|tenant| Step::DropQuotaOrder { tenant }),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_history_is_what_a_naive_ledger_says_through_ends_and_crashes(steps in prop::collection::vec(a_step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
