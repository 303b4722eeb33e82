//! The ledger against a naive one that adds everything up anew, and against a world of backends that crash.

use std::collections::BTreeMap;

use nbd_gateway_policy::quota::{Accounts, Reservation, TenantLimits};
use nbd_gateway_policy::types::{Bytes, ExportName, Size, TenantId};
use proptest::prelude::*;

use crate::fixture::size;

const EXPORTS: u8 = 5;
const TENANTS: u8 = 2;

fn export(number: u8) -> ExportName {
    ExportName::new(&format!("export{number}")).unwrap()
}

fn tenant(number: u8) -> TenantId {
    TenantId::new(&format!("tenant{number}")).unwrap()
}

/// How a grow ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Commit(u64),
    Rollback,
    Unsettle,
}

#[derive(Clone, Debug)]
enum Op {
    SetQuota(u8, Option<u64>, bool),
    Add(u8, u8, u64),
    Remove(u8),
    Give(u8, u8),
    Reserve(u8, u64),
    End(u8, End),
    Measure(u8, u64),
    Settle(u8, u64),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let (export, tenant, bytes) = (0..EXPORTS, 0..TENANTS, 0..100_u64);
    let end = prop_oneof![bytes.clone().prop_map(End::Commit), Just(End::Rollback), Just(End::Unsettle),];
    prop_oneof![
        1 => (tenant.clone(), prop::option::of(0..300_u64), any::<bool>()).prop_map(|(t, q, e)| Op::SetQuota(t, q, e)),
        3 => (export.clone(), tenant.clone(), bytes.clone()).prop_map(|(e, t, b)| Op::Add(e, t, b)),
        1 => export.clone().prop_map(Op::Remove),
        1 => (export.clone(), tenant).prop_map(|(e, t)| Op::Give(e, t)),
        6 => (export.clone(), bytes.clone()).prop_map(|(e, b)| Op::Reserve(e, b)),
        5 => (export.clone(), end).prop_map(|(e, end)| Op::End(e, end)),
        2 => (export.clone(), bytes.clone()).prop_map(|(e, b)| Op::Measure(e, b)),
        2 => (export, bytes).prop_map(|(e, b)| Op::Settle(e, b)),
        1 => Just(Op::Restart),
    ]
}

/// An export of the naive ledger: a row as a database would have it.
#[derive(Clone, Debug)]
struct Row {
    tenant: u8,
    size: u64,
    reserved_to: Option<u64>,
    unsettled_to: Option<u64>,
    measured: bool,
}

/// The naive ledger: rows, and sums that are added up anew each time.
#[derive(Clone, Debug)]
struct Naive {
    rows: BTreeMap<u8, Row>,
    quota: [(Option<u64>, bool); 2],
}

impl Naive {
    fn sums(&self, tenant: u8) -> (u64, u64, u64) {
        let rows = || self.rows.values().filter(|row| row.tenant == tenant);
        let held = |row: &Row, to: Option<u64>| to.map_or(0, |to| to.saturating_sub(row.size));
        (
            rows().map(|row| row.size).sum(),
            rows().map(|row| held(row, row.reserved_to)).sum(),
            rows().map(|row| held(row, row.unsettled_to)).sum(),
        )
    }

    fn may_reserve(&self, number: u8, to: u64) -> bool {
        let Some(row) = self.rows.get(&number) else { return false };
        if !row.measured || row.reserved_to.is_some() || row.unsettled_to.is_some() {
            return false;
        }
        let wanted = to.saturating_sub(row.size);
        let (used, reserved, unsettled) = self.sums(row.tenant);
        let (quota, enforce) = self.quota[usize::from(row.tenant)];
        wanted == 0 || !enforce || quota.is_none_or(|quota| used + reserved + unsettled + wanted <= quota)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_ledger_agrees_with_one_that_adds_everything_up_anew(ops in prop::collection::vec(any_op(), 0..120)) {
        let mut ledger = Accounts::new();
        let mut naive = Naive { rows: BTreeMap::new(), quota: [(None, true); 2] };
        let mut held: BTreeMap<u8, Reservation> = BTreeMap::new();
        for op in ops {
            match op.clone() {
                Op::SetQuota(t, quota, enforce) => {
                    let limits = TenantLimits { quota: quota.map(Bytes), enforce, ..TenantLimits::NONE };
                    let usage = ledger.set_limits(&tenant(t), limits);
                    naive.quota[usize::from(t)] = (quota, enforce);
                    let (used, reserved, unsettled) = naive.sums(t);
                    prop_assert_eq!(usage.over_quota, quota.is_some_and(|quota| used + reserved + unsettled > quota));
                }
                Op::Add(e, t, bytes) => {
                    ledger.add(&export(e), &tenant(t), size(bytes));
                    let row = Row { tenant: t, size: bytes, reserved_to: None, unsettled_to: None, measured: true };
                    let row = naive.rows.entry(e).or_insert(row);
                    row.size = bytes;
                    row.measured = true;
                }
                Op::Remove(e) => {
                    let busy = naive.rows.get(&e).is_some_and(|r| r.reserved_to.or(r.unsettled_to).is_some());
                    prop_assert_eq!(ledger.remove(&export(e)).is_err(), busy);
                    if !busy {
                        naive.rows.remove(&e);
                    }
                }
                Op::Give(e, t) => {
                    prop_assert_eq!(ledger.give(&export(e), &tenant(t)), naive.rows.contains_key(&e));
                    if let Some(row) = naive.rows.get_mut(&e) {
                        row.tenant = t;
                    }
                }
                Op::Reserve(e, to) => {
                    let may = naive.may_reserve(e, to);
                    match ledger.reserve(&export(e), size(to)) {
                        Ok(grant) => {
                            prop_assert!(may, "allowed what the naive one refuses");
                            let row = naive.rows.get_mut(&e).unwrap();
                            row.reserved_to = Some(to);
                            let grew = grant.reservation.bytes() > Bytes(0);
                            prop_assert_eq!(grant.reservation.bytes(), Bytes(to.saturating_sub(row.size)));
                            held.insert(e, grant.reservation);
                            let t = naive.rows[&e].tenant;
                            let (quota, enforce) = naive.quota[usize::from(t)];
                            let (used, reserved, unsettled) = naive.sums(t);
                            if let (Some(quota), true, true) = (quota, enforce, grew) {
                                prop_assert!(used + reserved + unsettled <= quota, "growth over the quota");
                                prop_assert_eq!(grant.unenforced, None);
                            }
                        }
                        Err(_) => prop_assert!(!may, "refused what the naive one allows"),
                    }
                }
                Op::End(e, end) => {
                    if let Some(reservation) = held.remove(&e) {
                        let row = naive.rows.get_mut(&e).unwrap();
                        let to = row.reserved_to.take();
                        match end {
                            End::Commit(actual) => {
                                row.size = actual;
                                prop_assert!(ledger.commit(reservation, size(actual)).is_some());
                            }
                            End::Rollback => prop_assert!(ledger.rollback(reservation)),
                            End::Unsettle => {
                                row.unsettled_to = to;
                                prop_assert!(ledger.unsettle(reservation));
                            }
                        }
                    }
                }
                Op::Measure(e, bytes) => {
                    prop_assert_eq!(ledger.measure(&export(e), size(bytes)).is_some(), naive.rows.contains_key(&e));
                    if let Some(row) = naive.rows.get_mut(&e) {
                        row.size = bytes;
                        row.measured = true;
                    }
                }
                Op::Settle(e, bytes) => {
                    prop_assert_eq!(ledger.settle(&export(e), size(bytes)).is_some(), naive.rows.contains_key(&e));
                    if let Some(row) = naive.rows.get_mut(&e) {
                        row.size = bytes;
                        row.measured = true;
                        row.unsettled_to = None;
                    }
                }
                Op::Restart => {
                    held.clear();
                    ledger = Accounts::new();
                    for t in 0..TENANTS {
                        let (quota, enforce) = naive.quota[usize::from(t)];
                        let limits = TenantLimits { quota: quota.map(Bytes), enforce, ..TenantLimits::NONE };
                        let _ = ledger.set_limits(&tenant(t), limits);
                    }
                    for (e, row) in &mut naive.rows {
                        row.unsettled_to = row.unsettled_to.or(row.reserved_to.take());
                        row.measured = false;
                        let pending = row.unsettled_to.map(size);
                        ledger.restore(&export(*e), &tenant(row.tenant), size(row.size), pending);
                    }
                }
            }
            for t in 0..TENANTS {
                let exports = naive.rows.values().filter(|row| row.tenant == t).count();
                let seen = ledger.usage(&tenant(t)).map_or((0, 0, 0, 0), |usage| {
                    (usage.used.0, usage.reserved.0, usage.unsettled.0, usage.exports)
                });
                let (used, reserved, unsettled) = naive.sums(t);
                prop_assert_eq!(seen, (used, reserved, unsettled, u32::try_from(exports).unwrap()), "after {:?}", op);
            }
        }
    }
}

/// What a backend does with a request to grow, and when the gateway dies.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Grows,
    Refuses,
    DiesBeforeAsking,
    DiesAfterAsking,
    GrowsAndNobodyKnows,
    RefusesAndNobodyKnows,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Real backends under one tenant, nobody else's hand on them, a gateway that dies at any step: at every moment the
    /// real sizes sum to no more than the quota, and after settling the ledger knows them exactly.
    #[test]
    fn whatever_is_killed_when_the_real_sizes_stay_within_the_quota(
        history in prop::collection::vec((0..EXPORTS, 0..80_u64, prop::sample::select(vec![
            Fate::Grows, Fate::Refuses, Fate::DiesBeforeAsking, Fate::DiesAfterAsking, Fate::GrowsAndNobodyKnows,
            Fate::RefusesAndNobodyKnows,
        ]), any::<bool>()), 0..80),
    ) {
        const QUOTA: u64 = 150;
        let limits = TenantLimits { quota: Some(Bytes(QUOTA)), ..TenantLimits::NONE };
        let mut real = [0_u64; 5];
        // The durable rows: last size, and what a grow in flight was reserved for.
        let mut rows: [(u64, Option<u64>); 5] = [(0, None); 5];
        let mut ledger = Accounts::new();
        let _ = ledger.set_limits(&tenant(0), limits);
        for number in 0..EXPORTS {
            ledger.add(&export(number), &tenant(0), Size::ZERO);
        }
        for (number, to, fate, probe) in history {
            let index = usize::from(number);
            if let Ok(grant) = ledger.reserve(&export(number), size(to)) {
                rows[index].1 = Some(to);
                if matches!(fate, Fate::Grows | Fate::DiesAfterAsking | Fate::GrowsAndNobodyKnows) {
                    real[index] = real[index].max(to);
                }
                match fate {
                    Fate::Grows => {
                        prop_assert!(ledger.commit(grant.reservation, size(real[index])).is_some());
                        rows[index] = (real[index], None);
                    }
                    Fate::Refuses => {
                        prop_assert!(ledger.rollback(grant.reservation));
                        rows[index].1 = None;
                    }
                    Fate::GrowsAndNobodyKnows | Fate::RefusesAndNobodyKnows => {
                        prop_assert!(ledger.unsettle(grant.reservation));
                    }
                    Fate::DiesBeforeAsking | Fate::DiesAfterAsking => {
                        ledger = Accounts::new();
                        let _ = ledger.set_limits(&tenant(0), limits);
                        for (number, (last, pending)) in (0..EXPORTS).zip(rows) {
                            ledger.restore(&export(number), &tenant(0), size(last), pending.map(size));
                        }
                    }
                }
            }
            prop_assert!(real.iter().sum::<u64>() <= QUOTA, "{real:?}");
            let usage = ledger.usage(&tenant(0)).unwrap();
            prop_assert!(usage.used.0 + usage.reserved.0 + usage.unsettled.0 >= real.iter().sum(), "uncounted bytes");
            if probe {
                prop_assert!(ledger.settle(&export(number), size(real[index])).is_some());
                rows[index] = (real[index], None);
            }
        }
        for number in 0..EXPORTS {
            prop_assert!(ledger.settle(&export(number), size(real[usize::from(number)])).is_some());
        }
        let usage = ledger.usage(&tenant(0)).unwrap();
        prop_assert_eq!((usage.used.0, usage.reserved, usage.unsettled), (real.iter().sum(), Bytes(0), Bytes(0)));
    }
}
