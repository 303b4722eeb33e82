//! What is made of sizes that were read: after a grow, after a shrink, after a crash, and when nobody asked.

use nbd_gateway_policy::export::External;
use nbd_gateway_policy::plan::{Adopt, Grow, Grown, Lanes, Plan, Quarantine, Shrink, Shrunk, Standing, Wish};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::ByteRange;

use crate::fixture::{Disk, backend, backends, explicit, size};

fn range(start: u64, end: u64) -> Option<ByteRange> {
    ByteRange::new(size(start), size(end))
}

fn grow(disk: &Disk) -> Grow {
    match disk.plan(explicit(ClientStyle::ExplicitSimple, 128, 250)) {
        Plan::Grow(grow) => grow,
        other => panic!("not a grow: {other:?}"),
    }
}

fn shrink(disk: &Disk) -> Shrink {
    match disk.plan(explicit(ClientStyle::ExplicitSimple, 128, 64)) {
        Plan::Shrink(shrink) => shrink,
        other => panic!("not a shrink: {other:?}"),
    }
}

fn larger(publish: u64, zero: Option<ByteRange>, short: Option<Reason>) -> Grown {
    Grown::Larger { publish: size(publish), count: size(publish), zero, short }
}

#[test]
fn after_a_grow_only_the_size_read_back_counts() {
    let mut disk = Disk::behind(backend("explicit simple, claimed"));
    let plan = grow(&disk);
    assert_eq!((plan.need, plan.to), (size(250), size(256)));
    let settle = |disk: &Disk, read| plan.settle(&disk.situation(), read);
    assert_eq!(settle(&disk, 256), larger(256, range(128, 256), None));
    assert_eq!(settle(&disk, 250), larger(250, range(128, 250), None), "not rounded, but all that was asked for");
    let less = Reason::BackendGaveLess { needed: size(250), size: size(249) };
    assert_eq!(settle(&disk, 249), larger(249, range(128, 249), Some(less)), "a fact is shown, and the wish refused");
    let same = Grown::Same { count: size(128), reason: Reason::BackendUnchanged { size: size(128) } };
    assert_eq!(settle(&disk, 128), same, "it said yes and did nothing");
    assert_eq!(settle(&disk, 127), Grown::Quarantine(Quarantine::Smaller { was: size(128), now: size(127) }));
    assert_eq!(settle(&disk, 1 << 63), Grown::Quarantine(Quarantine::Impossible { bytes: 1 << 63 }));
    assert_eq!(settle(&disk, 300), larger(300, range(128, 256), None), "the rest may be another's: not zeroed");
    disk.policy.exclusive = true;
    assert_eq!(settle(&disk, 300), larger(300, range(128, 300), None), "nobody else can have grown it");
    disk.zeroed_by_backend = true;
    assert_eq!(grow(&disk).settle(&disk.situation(), 300), larger(300, None, None));
}

#[test]
fn a_window_moves_whatever_its_disk_does_unless_that_is_too_small() {
    let disk = Disk::behind(backend("window"));
    let settle = |read| grow(&disk).settle(&disk.situation(), read);
    assert_eq!(settle(768), larger(256, range(128, 256), None));
    let less = Reason::BackendGaveLess { needed: size(250), size: size(255) };
    assert_eq!(settle(255), Grown::Same { count: size(128), reason: less });
    assert!(matches!(settle(127), Grown::Quarantine(_)));
    let smaller = Shrunk::Smaller { publish: size(64), count: size(64) };
    assert_eq!(shrink(&disk).settle(&disk.situation(), 768), smaller);
}

#[test]
fn bytes_that_were_hidden_are_shown_as_far_as_asked_and_counted_whole() {
    let mut disk = Disk::behind(backend("explicit simple, read back"));
    disk.policy.external = External::Manual;
    disk.disk = size(500);
    let settle = |read| grow(&disk).settle(&disk.situation(), read);
    let shown = Grown::Larger { publish: size(256), count: size(500), zero: None, short: None };
    assert_eq!(settle(500), shown);
    let less = Reason::BackendGaveLess { needed: size(250), size: size(200) };
    assert_eq!(settle(200), Grown::Same { count: size(200), reason: less }, "another hand took them away again");
}

#[test]
fn after_a_shrink_only_the_size_read_back_counts() {
    let disk = Disk::behind(backend("origin"));
    let settle = |read| shrink(&disk).settle(&disk.situation(), read);
    assert_eq!(settle(64), Shrunk::Smaller { publish: size(64), count: size(64) });
    assert_eq!(settle(100), Shrunk::Smaller { publish: size(100), count: size(100) });
    let same = Shrunk::Same { count: size(128), reason: Reason::BackendUnchanged { size: size(128) } };
    assert_eq!(settle(128), same);
    assert_eq!(settle(63), Shrunk::Quarantine(Quarantine::Smaller { was: size(64), now: size(63) }));
    assert_eq!(settle(u64::MAX), Shrunk::Quarantine(Quarantine::Impossible { bytes: u64::MAX }));
}

fn adopted(disk: &Disk, read: u64) -> Adopt {
    match disk.plan(Wish::Backend { size: read }) {
        Plan::Adopt(adopt) => adopt,
        other => panic!("{read} was not adopted: {other:?}"),
    }
}

#[test]
fn size_never_goes_back_by_itself() {
    for (name, style) in backends() {
        let disk = Disk::behind(style);
        let smaller = Quarantine::Smaller { was: size(128), now: size(127) };
        assert_eq!(disk.plan(Wish::Backend { size: 127 }), Plan::Quarantine(smaller), "{name}");
        let impossible = Plan::Quarantine(Quarantine::Impossible { bytes: 1 << 63 });
        assert_eq!(disk.plan(Wish::Backend { size: 1 << 63 }), impossible, "{name}");
        assert_eq!(disk.plan(Wish::Backend { size: disk.disk.bytes() }), Plan::Nothing { size: size(128) }, "{name}");
    }
    assert_eq!(
        Quarantine::Smaller { was: size(128), now: size(127) }.to_string(),
        "the backend was 128 bytes and is 127 bytes; give the bytes back, or adopt what is left (nbd-gateway resize --adopt)"
    );
    let impossible = "the backend says it has 8 EiB; the most there can be is 2^63-1 bytes";
    assert_eq!(Quarantine::Impossible { bytes: 1 << 63 }.to_string(), impossible);
}

#[test]
fn growth_from_outside_is_counted_at_once_and_shown_as_the_policy_says() {
    let mut disk = Disk::behind(backend("explicit structured, polled"));
    let of = |publish| Adopt {
        disk: size(200),
        count: Some(size(200)),
        zero: None,
        publish,
        drain: None,
        lanes: Lanes::Keep,
    };
    assert_eq!(adopted(&disk, 200), of(Some(size(200))));
    for external in [External::Ignore, External::Manual] {
        disk.policy.external = external;
        assert_eq!(adopted(&disk, 200), of(None), "{external:?}");
    }
    disk.disk = size(200);
    assert_eq!(disk.plan(Wish::Backend { size: 200 }), Plan::Nothing { size: size(128) }, "nothing new");
    assert_eq!(adopted(&disk, 150).count, Some(size(150)), "hidden bytes may go again, and free their quota");
    disk.policy.external = External::Adopt;
    assert_eq!(adopted(&disk, 200).publish, Some(size(200)), "a policy that has changed shows what was hidden");
}

#[test]
fn what_a_quarantine_or_a_restart_waits_for_is_any_size_that_is_big_enough() {
    for standing in [Standing::Quarantined { found: 100 }, Standing::Unmeasured] {
        let mut disk = Disk::behind(backend("driver"));
        disk.standing = standing;
        assert_eq!((adopted(&disk, 128).publish, adopted(&disk, 128).lanes), (None, Lanes::Keep));
        assert_eq!((adopted(&disk, 200).publish, adopted(&disk, 200).lanes), (Some(size(200)), Lanes::ReplaceAfter));
        assert!(matches!(disk.plan(Wish::Backend { size: 127 }), Plan::Quarantine(_)));
    }
}

#[test]
fn an_unsettled_grow_is_zeroed_as_far_as_it_went_and_no_further() {
    let mut disk = Disk::behind(backend("explicit simple, read back"));
    disk.standing = Standing::Unsettled { asked: size(256) };
    for external in [External::Adopt, External::Manual] {
        disk.policy.external = external;
        assert_eq!((adopted(&disk, 128).publish, adopted(&disk, 128).zero), (None, None), "it never happened");
        assert_eq!((adopted(&disk, 200).publish, adopted(&disk, 200).zero), (Some(size(200)), range(128, 200)));
        assert_eq!((adopted(&disk, 256).publish, adopted(&disk, 256).zero), (Some(size(256)), range(128, 256)));
        assert_eq!(adopted(&disk, 300).zero, range(128, 256), "what is beyond is another's");
        assert_eq!(adopted(&disk, 300).count, Some(size(300)));
        let shown = if external == External::Adopt { 300 } else { 256 };
        assert_eq!(adopted(&disk, 300).publish, Some(size(shown)), "{external:?}");
    }
    disk.zeroed_by_backend = true;
    assert_eq!(adopted(&disk, 256).zero, None);
}

#[test]
fn an_unsettled_shrink_may_have_happened() {
    let mut disk = Disk::behind(backend("explicit simple, read back"));
    disk.standing = Standing::Unsettled { asked: size(64) };
    assert_eq!((adopted(&disk, 64).publish, adopted(&disk, 64).zero), (Some(size(64)), None));
    assert_eq!(adopted(&disk, 100).publish, Some(size(100)));
    assert_eq!(adopted(&disk, 128).publish, None);
    let lost = Plan::Quarantine(Quarantine::Smaller { was: size(64), now: size(63) });
    assert_eq!(disk.plan(Wish::Backend { size: 63 }), lost);
}

#[test]
fn an_unsettled_window_opens_zeroed() {
    let mut disk = Disk::behind(backend("window"));
    disk.standing = Standing::Unsettled { asked: size(256) };
    let opened = adopted(&disk, 768);
    assert_eq!((opened.publish, opened.zero, opened.count), (Some(size(256)), range(128, 256), None));
    assert_eq!(adopted(&disk, 200).publish, None, "its disk is too small for it now");
    disk.standing = Standing::Ready;
    let disk_grew = adopted(&disk, 900);
    assert_eq!((disk_grew.publish, disk_grew.zero, disk_grew.count), (None, None, None));
}
