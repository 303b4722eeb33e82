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
    Commit { which: usize, known: Known, zeroed: Option<ByteRange> },
    RollBack { which: usize, unexposed: Option<ByteRange> },
    Unsettle { which: usize },
    Settle { export: usize, tenant: usize, known: Known },
    RecordSize { export: usize, tenant: usize, known: Known },
    RecordZeroing { export: usize, tenant: usize, range: ByteRange },
    ClearZeroing { export: usize, range: ByteRange },
    Trust { export: usize, at: u64 },
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
    /// Export, byte.
    notes: BTreeSet<(ExportName, u64)>,
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

    fn clear(&mut self, export: &ExportName, range: ByteRange) {
        self.notes.retain(|(of, unit)| of != export || !units(range).contains(unit));
    }

    fn record(&mut self, export: &ExportName, tenant: TenantId, known: Known) {
        self.add(export, tenant.clone(), known);
        let row = self.exports.get_mut(export).unwrap();
        (row.tenant, row.known) = (tenant, known);
    }

    fn add(&mut self, export: &ExportName, tenant: TenantId, known: Known) {
        let row = ExportRow { name: export.clone(), tenant, known, in_doubt: false };
        self.exports.entry(export.clone()).or_insert(row);
    }

    fn restart(&mut self) {
        for row in self.reservations.values_mut() {
            row.state = State::Unsettled;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut zeroing: Vec<Zeroing> = Vec::new();
        for (export, unit) in self.notes.iter().map(|(export, unit)| (export, *unit)) {
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
        let Reserve { export, tenant, bytes, from, to, zeroes, at } = reserve;
        self.add(&export, tenant.clone(), Known { size: from, at, ..Known::default() });
        self.notes.extend(zeroes.into_iter().flat_map(units).map(|unit| (export.clone(), unit)));
        let state = State::Reserved;
        let row = ReservationRow { id, export, tenant, bytes, from, to, state, created_at: at };
        self.reservations.insert(id, row);
        self.given.push(id);
    }

    /// Whether it can be done, and then does it.
    fn step(&mut self, step: &Step) -> bool {
        match step.clone() {
            Step::Commit { which, known, zeroed } => {
                let Some(row) = self.reservations.remove(&self.which(which)) else { return false };
                zeroed.into_iter().for_each(|range| self.clear(&row.export, range));
                self.exports.get_mut(&row.export).unwrap().known = known;
            }
            Step::RollBack { which, unexposed } => {
                let Some(row) = self.reservations.remove(&self.which(which)) else { return false };
                unexposed.into_iter().for_each(|range| self.clear(&row.export, range));
            }
            Step::Unsettle { which } => {
                let id = self.which(which);
                let Some(row) = self.reservations.get_mut(&id) else { return false };
                row.state = State::Unsettled;
            }
            Step::Settle { export, tenant: whose, known } => {
                self.reservations.retain(|_, row| row.export != name(export));
                self.record(&name(export), tenant(whose), known);
            }
            Step::RecordSize { export, tenant: whose, known } => self.record(&name(export), tenant(whose), known),
            Step::RecordZeroing { export, tenant: whose, range } => {
                self.add(&name(export), tenant(whose), Known { size: range.start(), ..Known::default() });
                self.notes.extend(units(range).map(|unit| (name(export), unit)));
            }
            Step::ClearZeroing { export, range } => self.clear(&name(export), range),
            Step::Trust { export, at } => {
                if let Some(row) = self.exports.get_mut(&name(export)) {
                    row.known.at = UnixMillis(at);
                }
                self.events.push("trusted");
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
        Step::Commit { which, known, zeroed } => {
            ledger
                .write(Change::Commit(Commit { id: model.which(which), known, zeroed: zeroed.into_iter().collect() }))
                .await
        }
        Step::RollBack { which, unexposed } => {
            ledger.write(Change::RollBack { id: model.which(which), unexposed: unexposed.into_iter().collect() }).await
        }
        Step::Unsettle { which } => ledger.write(Change::Unsettle(model.which(which))).await,
        Step::Settle { export, tenant: whose, known } => {
            ledger.write(Change::Settle(RecordSize { export: name(export), tenant: tenant(whose), known })).await
        }
        Step::RecordSize { export, tenant: whose, known } => {
            ledger.write(Change::RecordSize(RecordSize { export: name(export), tenant: tenant(whose), known })).await
        }
        Step::RecordZeroing { export, tenant: whose, range } => {
            ledger.write(Change::RecordZeroing(Zeroing { export: name(export), range }, tenant(whose))).await
        }
        Step::ClearZeroing { export, range } => {
            ledger.write(Change::ClearZeroing(Zeroing { export: name(export), range })).await
        }
        Step::Trust { export, at } => {
            let event = NewEvent { at: UnixMillis(at), kind: "trusted", ..NewEvent::default() };
            ledger.write(Change::Trust { export: name(export), event }).await
        }
        Step::Event { export } => {
            let event = NewEvent { export: Some(name(export)), kind: "event", ..NewEvent::default() };
            ledger.event(event).await.map(drop)
        }
        Step::Forget { export } => ledger.write(Change::Forget { export: name(export), event: told("forgot") }).await,
        Step::OrderQuota { tenant: whose, quota } => {
            ledger
                .write(Change::OrderQuota {
                    order: order(tenant(whose).as_str(), quota, None),
                    event: told("ordered").unwrap(),
                })
                .await
        }
        Step::DropQuotaOrder { tenant: whose } => {
            ledger.write(Change::DropQuotaOrder { tenant: tenant(whose), event: told("dropped") }).await
        }
        Step::Mark { export, server } => ledger.write(Change::Mark(mark(export, server))).await,
        Step::Unmark { exports } => ledger.write(Change::Unmark(exports.into_iter().map(name).collect())).await,
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
    (0..SIZES, prop::option::of(0..SIZES), 0..9u64).prop_map(|(counted, shown, number)| Known {
        size: size(counted),
        shown: shown.map(size),
        generation: number,
        at: UnixMillis(number),
    })
}

fn a_range() -> impl Strategy<Value = ByteRange> {
    (0..SIZES, 1..SIZES).prop_map(|(start, length)| range(start, start + length))
}

fn a_step() -> impl Strategy<Value = Step> {
    let (export, which) = (0..3usize, 0..4usize);
    let some = || prop::option::of(a_range());
    let reserve =
        (export.clone(), 0..2usize, 0..SIZES, 0..SIZES, some()).prop_map(|(export, tenant, from, more, zeroes)| {
            Step::Reserve { export, tenant, from, to: from + more, zeroes }
        });
    prop_oneof![
        5 => reserve,
        3 => (which.clone(), a_known(), some())
            .prop_map(|(which, known, zeroed)| Step::Commit { which, known, zeroed }),
        1 => (which.clone(), some()).prop_map(|(which, unexposed)| Step::RollBack { which, unexposed }),
        2 => which.prop_map(|which| Step::Unsettle { which }),
        2 => (export.clone(), 0..2usize, a_known())
            .prop_map(|(export, tenant, known)| Step::Settle { export, tenant, known }),
        2 => (export.clone(), 0..2usize, a_known())
            .prop_map(|(export, tenant, known)| Step::RecordSize { export, tenant, known }),
        3 => (export.clone(), 0..2usize, a_range())
            .prop_map(|(export, tenant, range)| Step::RecordZeroing { export, tenant, range }),
        3 => (export.clone(), a_range()).prop_map(|(export, range)| Step::ClearZeroing { export, range }),
        1 => (export.clone(), 0..9u64).prop_map(|(export, at)| Step::Trust { export, at }),
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
