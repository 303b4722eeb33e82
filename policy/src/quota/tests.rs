use super::*;

fn size(bytes: u64) -> Size {
    Size::new(bytes).unwrap()
}

fn export(name: &str) -> ExportName {
    ExportName::new(name).unwrap()
}

fn blue() -> TenantId {
    TenantId::new("blue").unwrap()
}

fn quota(bytes: u64) -> TenantLimits {
    TenantLimits { quota: Some(Bytes(bytes)), ..TenantLimits::NONE }
}

/// Tenant `blue` with a quota of 100 bytes and one export `a` of 40.
fn ledger() -> Accounts {
    let mut ledger = Accounts::new();
    let _ = ledger.set_limits(&blue(), quota(100));
    ledger.add(&export("a"), &blue(), size(40));
    ledger
}

fn sums(ledger: &Accounts) -> (u64, u64, u64) {
    let usage = ledger.usage(&blue()).unwrap();
    (usage.used.0, usage.reserved.0, usage.unsettled.0)
}

fn reserve(ledger: &mut Accounts, to: u64) -> Reservation {
    ledger.reserve(&export("a"), size(to)).unwrap().reservation
}

#[test]
fn a_reservation_ends_in_one_of_three_ways() {
    let mut ledger = ledger();
    let reservation = reserve(&mut ledger, 100);
    assert_eq!((reservation.bytes(), reservation.to(), reservation.export()), (Bytes(60), size(100), &export("a")));
    assert_eq!(sums(&ledger), (40, 60, 0));
    assert!(ledger.rollback(reservation));
    assert_eq!(sums(&ledger), (40, 0, 0));

    let reservation = reserve(&mut ledger, 50);
    assert_eq!(ledger.commit(reservation, size(48)), Some(Drift::Shrank(Bytes(2))));
    assert_eq!(sums(&ledger), (48, 0, 0));

    let reservation = reserve(&mut ledger, 80);
    assert!(ledger.unsettle(reservation));
    assert_eq!(sums(&ledger), (48, 0, 32));
    assert_eq!(ledger.reserve(&export("a"), size(49)), Err(Reason::Unsettled));
    assert_eq!(ledger.settle(&export("a"), size(80)), Some(Drift::Grew(Bytes(32))));
    assert_eq!(sums(&ledger), (80, 0, 0));
}

#[test]
fn growth_over_the_quota_is_refused_with_what_is_left() {
    let mut ledger = ledger();
    let over = Reason::OverQuota { size: size(40), wanted: Bytes(61), left: Bytes(60), quota: Bytes(100) };
    assert_eq!(ledger.reserve(&export("a"), size(101)), Err(over));
    assert_eq!(ledger.headroom(&export("a")), Some(Headroom { left: Bytes(60), quota: Bytes(100) }));
    let held = reserve(&mut ledger, 90);
    assert_eq!(ledger.headroom(&export("a")), Some(Headroom { left: Bytes(10), quota: Bytes(100) }));
    assert_eq!(ledger.reserve(&export("a"), size(91)), Err(Reason::Busy));
    assert!(ledger.rollback(held));
}

#[test]
fn what_comes_from_outside_is_counted_at_once_and_stops_growth() {
    let mut ledger = ledger();
    assert_eq!(ledger.measure(&export("a"), size(150)), Some(Drift::Grew(Bytes(110))));
    let usage = ledger.usage(&blue()).unwrap();
    assert!(usage.over_quota);
    assert_eq!(ledger.headroom(&export("a")).unwrap().left, Bytes(0));
    assert!(matches!(ledger.reserve(&export("a"), size(151)), Err(Reason::OverQuota { .. })));
    let nothing = reserve(&mut ledger, 150);
    assert_eq!(nothing.bytes(), Bytes(0));
    assert!(ledger.rollback(nothing));
    assert_eq!(ledger.measure(&export("a"), size(20)), Some(Drift::Shrank(Bytes(130))));
    assert!(!ledger.usage(&blue()).unwrap().over_quota);
}

#[test]
fn a_quota_may_be_lowered_under_use() {
    let mut ledger = ledger();
    let usage = ledger.set_limits(&blue(), quota(10));
    assert!(usage.over_quota);
    assert_eq!(usage.used, Bytes(40));
    assert!(matches!(ledger.reserve(&export("a"), size(41)), Err(Reason::OverQuota { left: Bytes(0), .. })));
}

#[test]
fn without_enforcement_growth_is_counted_and_the_reason_reported() {
    let mut ledger = ledger();
    let _ = ledger.set_limits(&blue(), TenantLimits { enforce: false, ..quota(50) });
    assert_eq!(ledger.headroom(&export("a")), None);
    let grant = ledger.reserve(&export("a"), size(60)).unwrap();
    assert!(matches!(grant.unenforced, Some(Reason::OverQuota { left: Bytes(10), .. })));
    assert_eq!(sums(&ledger), (40, 20, 0));
    assert_eq!(ledger.commit(grant.reservation, size(60)), Some(Drift::None));
    assert_eq!(sums(&ledger), (60, 0, 0));
}

#[test]
fn exports_are_bounded_in_size() {
    let mut ledger = ledger();
    let limits = TenantLimits { largest_export: Some(size(50)), ..quota(100) };
    let _ = ledger.set_limits(&blue(), limits);
    ledger.add(&export("a"), &blue(), size(41));
    assert_eq!(sums(&ledger), (41, 0, 0), "one that is there is measured");
    let largest = Reason::LargestExport { asked: size(51), largest: size(50) };
    assert_eq!(ledger.reserve(&export("a"), size(51)), Err(largest));
    assert_eq!(ledger.remove(&export("a")), Ok(()));
    ledger.add(&export("b"), &blue(), size(1));
    assert_eq!(sums(&ledger), (1, 0, 0));
}

#[test]
fn what_a_restart_brings_back_is_counted_and_grows_only_after_a_measurement() {
    let mut ledger = Accounts::new();
    let _ = ledger.set_limits(&blue(), quota(100));
    ledger.restore(&export("a"), &blue(), size(40), Some(size(90)));
    ledger.restore(&export("b"), &blue(), size(5), None);
    assert_eq!(sums(&ledger), (45, 0, 50));
    assert_eq!(ledger.reserve(&export("a"), size(41)), Err(Reason::Unsettled));
    assert_eq!(ledger.reserve(&export("b"), size(6)), Err(Reason::Unmeasured));
    assert_eq!(ledger.reserve(&export("c"), size(6)), Err(Reason::Unmeasured));
    assert_eq!(ledger.remove(&export("a")), Err(Reason::Unsettled));
    assert_eq!(ledger.settle(&export("a"), size(40)), Some(Drift::None));
    assert_eq!(ledger.measure(&export("b"), size(5)), Some(Drift::None));
    assert_eq!(sums(&ledger), (45, 0, 0));
    let held = ledger.reserve(&export("b"), size(60)).unwrap().reservation;
    assert_eq!(ledger.remove(&export("b")), Err(Reason::Busy));
    assert_eq!(ledger.commit(held, size(60)), Some(Drift::None));
}

#[test]
fn what_belongs_to_others_now_is_given_to_them_and_what_is_nobodys_stays() {
    let mut ledger = ledger();
    let (blue, red) = (ledger.exports[&export("a")].tenant.clone(), TenantId::new("red").unwrap());
    for name in ["b", "c"] {
        ledger.add(&export(name), &blue, size(1));
    }
    let owner = |export: &ExportName| match export.as_str() {
        "a" => Some(&red),
        "b" => Some(&blue),
        _ => None,
    };
    assert_eq!(ledger.give_all(owner), [(export("a"), red.clone())]);
    assert_eq!(ledger.give_all(owner), []);
    assert_eq!((ledger.usage(&red).unwrap().used, ledger.usage(&blue).unwrap().used), (Bytes(40), Bytes(2)));
}

#[test]
fn an_export_takes_all_that_it_counts_to_another_tenant() {
    let mut ledger = ledger();
    let red = TenantId::new("red").unwrap();
    let held = reserve(&mut ledger, 70);
    assert!(ledger.give(&export("a"), &red));
    assert!(!ledger.give(&export("z"), &red));
    assert_eq!(sums(&ledger), (0, 0, 0));
    let usage = ledger.usage(&red).unwrap();
    assert_eq!((usage.used, usage.reserved, usage.exports), (Bytes(40), Bytes(30), 1));
    assert_eq!(ledger.commit(held, size(70)), Some(Drift::None));
    assert_eq!(ledger.usage(&red).unwrap().used, Bytes(70));
}

#[test]
fn a_reservation_of_another_ledger_or_of_another_life_changes_nothing() {
    let (mut here, mut there) = (ledger(), ledger());
    let first = reserve(&mut there, 50);
    assert!(there.rollback(first));
    let stranger = reserve(&mut there, 60);
    let own = reserve(&mut here, 70);
    assert_eq!(here.commit(stranger, size(60)), None);
    assert_eq!(sums(&here), (40, 30, 0));
    here.restore(&export("a"), &blue(), size(40), Some(size(70)));
    assert!(!here.rollback(own));
    assert_eq!(sums(&here), (40, 0, 30));
}

#[test]
fn crossing_the_soft_quota_is_told_once() {
    let mut ledger = ledger();
    let _ = ledger.set_limits(&blue(), TenantLimits { soft_quota: Some(Bytes(50)), ..quota(100) });
    for (to, crosses) in [(50, false), (51, true), (52, false)] {
        let grant = ledger.reserve(&export("a"), size(to)).unwrap();
        assert_eq!(grant.crosses_soft_quota, crosses, "{to}");
        assert_eq!(ledger.commit(grant.reservation, size(to)), Some(Drift::None));
    }
}

#[test]
fn sums_beyond_64_bits_stay_exact() {
    let mut ledger = Accounts::new();
    for name in ["a", "b", "c", "d"] {
        ledger.add(&export(name), &blue(), Size::MAX);
    }
    assert_eq!(ledger.usage(&blue()).unwrap().used, Bytes(u64::MAX));
    for name in ["a", "b", "c"] {
        assert_eq!(ledger.measure(&export(name), Size::ZERO), Some(Drift::Shrank(Bytes(Size::MAX.bytes()))));
    }
    assert_eq!(ledger.usage(&blue()).unwrap().used, Bytes(Size::MAX.bytes()));
}
