//! The rules of a plan, one by one: direction, rounding, clamping, steps, bounds, who stands in the way of a shrink.

use nbd_gateway_policy::export::{External, OverQuota};
use nbd_gateway_policy::plan::{Ask, Grow, Lanes, Others, Plan, Shrink, Standing, Step, Wish};
use nbd_gateway_policy::refusal::{Asked, Reason};
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::{ByteRange, Bytes, Size};

use crate::fixture::{Disk, backend, explicit, granularity, headroom, size};

const SIMPLE: ClientStyle = ClientStyle::ExplicitSimple;
const STRUCTURED: ClientStyle = ClientStyle::ExplicitStructured;

fn origin() -> Disk {
    Disk::behind(backend("origin"))
}

fn grow(plan: Plan) -> Grow {
    match plan {
        Plan::Grow(grow) => grow,
        other => panic!("not a grow: {other:?}"),
    }
}

fn shrink(plan: Plan) -> Shrink {
    match plan {
        Plan::Shrink(shrink) => shrink,
        other => panic!("not a shrink: {other:?}"),
    }
}

fn write(end: u64) -> Wish {
    Wish::Automatic { end }
}

#[test]
fn sizes_that_nobody_can_mean_are_invalid_before_anything_else_is_looked_at() {
    let mut disk = origin();
    disk.standing = Standing::Draining;
    disk.policy.read_only = true;
    for (target, reason) in [
        (0, Reason::Zero),
        (1 << 63, Reason::Impossible { asked: 1 << 63 }),
        (u64::MAX, Reason::Impossible { asked: u64::MAX }),
    ] {
        assert_eq!(disk.refusal(explicit(STRUCTURED, 128, target)), reason);
        assert_eq!(disk.refusal(Wish::Operator { target }), reason);
        assert_eq!(reason.errno(Asked::Resize).wire(), 22);
    }
}

#[test]
fn a_client_behind_the_times_never_truncates_what_another_wrote() {
    let mut disk = origin();
    disk.size = size(512);
    disk.disk = size(512);
    // It was told 128 and wants 256; meanwhile the export has grown to 512.
    assert_eq!(disk.plan(explicit(SIMPLE, 128, 256)), Plan::Nothing { size: size(512) });
    assert_eq!(disk.plan(explicit(SIMPLE, 128, 128)), Plan::Nothing { size: size(512) });
    // Only one that was told 512 means a shrink by it.
    assert_eq!(shrink(disk.plan(explicit(SIMPLE, 512, 256))).to, size(256));
    assert_eq!(shrink(disk.plan(explicit(SIMPLE, 128, 64))).to, size(64), "this one was told 128 and means less");
}

#[test]
fn a_shrink_never_grows() {
    let disk = origin();
    assert_eq!(disk.plan(explicit(STRUCTURED, 512, 256)), Plan::Nothing { size: size(128) });
    let behind = Reason::AlreadySmaller { asked: size(256), size: size(128) };
    assert_eq!(disk.refusal(explicit(SIMPLE, 512, 256)), behind, "a simple reply can't say that it is 128");
    assert_eq!(disk.plan(explicit(SIMPLE, 512, 128)), Plan::Nothing { size: size(128) });
}

#[test]
fn sizes_are_rounded_up_both_ways_and_that_fails_nothing() {
    let mut disk = origin();
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, 129))).to, size(144));
    assert_eq!(shrink(disk.plan(explicit(SIMPLE, 128, 97))).to, size(112));
    assert_eq!(
        disk.plan(explicit(SIMPLE, 128, 113)),
        Plan::Nothing { size: size(128) },
        "rounded back to the size now"
    );
    // An odd size that another hand left is not rounded away from.
    disk.size = size(1000);
    disk.disk = size(1000);
    assert_eq!(disk.plan(explicit(SIMPLE, 1000, 1000)), Plan::Nothing { size: size(1000) });
    assert_eq!(disk.plan(explicit(SIMPLE, 1000, 999)), Plan::Nothing { size: size(1000) });
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 1000, 1001))).to, size(1008));
}

#[test]
fn a_size_that_can_only_be_rounded_beyond_all_sizes_is_over_the_ceiling() {
    let mut disk = origin();
    disk.policy.max_size = Size::MAX;
    let over = Reason::OverCeiling { asked: Size::MAX.bytes(), ceiling: Size::MAX };
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, Size::MAX.bytes())), over);
    assert_eq!(disk.refusal(write(Size::MAX.bytes())), over);
    assert_eq!(disk.refusal(write(u64::MAX)), Reason::OverCeiling { asked: u64::MAX, ceiling: Size::MAX });
    disk.policy.granularity = granularity(1);
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, Size::MAX.bytes()))).to, Size::MAX);
}

#[test]
fn quota_and_ceiling_each_refuse_in_their_own_name() {
    let mut disk = origin();
    disk.headroom = headroom(64, 200);
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, 192))).reserve, Bytes(64));
    let over = Reason::OverQuota { size: size(128), wanted: Bytes(80), left: Bytes(64), quota: Bytes(200) };
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 193)), over);
    let ceiling = Reason::OverCeiling { asked: 1040, ceiling: size(1024) };
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 1025)), ceiling, "where both are in the way, the ceiling is told");
    assert_eq!(disk.refusal(Wish::Operator { target: 193 }), over);
}

#[test]
fn clamping_is_for_those_whose_reply_can_say_what_they_got() {
    let mut disk = origin();
    disk.policy.over_quota = OverQuota::Clamp;
    disk.headroom = headroom(70, 200);
    let clamped = grow(disk.plan(explicit(STRUCTURED, 128, 512)));
    assert_eq!((clamped.to, clamped.need, clamped.reserve), (size(192), size(192), Bytes(64)), "rounded down to fit");
    for client in [SIMPLE, ClientStyle::Stock, ClientStyle::Kernel] {
        assert!(matches!(disk.refusal(explicit(client, 128, 512)), Reason::OverQuota { .. }), "{client:?}");
    }
    assert!(matches!(disk.refusal(Wish::Operator { target: 512 }), Reason::OverQuota { .. }), "a person means it");
    disk.headroom = headroom(15, 200);
    let nothing = Reason::OverQuota { size: size(128), wanted: Bytes(384), left: Bytes(15), quota: Bytes(200) };
    assert_eq!(disk.refusal(explicit(STRUCTURED, 128, 512)), nothing, "less than a granule is no growth");
    disk.headroom = None;
    assert_eq!(grow(disk.plan(explicit(STRUCTURED, 128, 5000))).to, size(1024), "the ceiling clamps too");
    disk.policy.over_quota = OverQuota::Reject;
    assert!(matches!(disk.refusal(explicit(STRUCTURED, 128, 5000)), Reason::OverCeiling { .. }));
}

#[test]
fn writes_grow_by_steps_cut_to_what_there_is_as_long_as_the_write_fits() {
    let mut disk = origin();
    disk.policy.step = Bytes(256);
    let stepped = grow(disk.plan(write(129)));
    assert_eq!((stepped.to, stepped.need), (size(384), size(129)));
    assert_eq!(grow(disk.plan(write(500))).to, size(512), "a write beyond the step");
    disk.headroom = headroom(40, 200);
    assert_eq!(grow(disk.plan(write(129))).to, size(160), "a step cut to the quota");
    assert_eq!(grow(disk.plan(write(160))).to, size(160), "the write takes all that is left");
    assert!(matches!(disk.refusal(write(161)), Reason::OverQuota { left: Bytes(40), .. }));
    disk.headroom = None;
    disk.policy.max_size = size(200);
    assert_eq!(grow(disk.plan(write(129))).to, size(192), "a step cut to the ceiling");
    assert_eq!(disk.refusal(write(201)), Reason::OverCeiling { asked: 208, ceiling: size(200) });
    assert_eq!(disk.plan(write(128)), Plan::Nothing { size: size(128) }, "another write was faster");
}

#[test]
fn a_stream_of_writes_doubles_its_step_up_to_an_eighth_of_the_size() {
    let mut disk = origin();
    disk.policy.step = Bytes(16);
    (disk.size, disk.disk, disk.policy.max_size) = (size(1024), size(1024), Size::MAX);
    assert_eq!(grow(disk.plan(write(1025))).to, size(1040));
    disk.stream = Bytes(16);
    assert_eq!(grow(disk.plan(write(1025))).to, size(1056));
    disk.stream = Bytes(512);
    assert_eq!(grow(disk.plan(write(1025))).to, size(1152), "an eighth");
    disk.policy.max_step = Some(Bytes(64));
    assert_eq!(grow(disk.plan(write(1025))).to, size(1088), "the largest that one write may do");
    disk.policy.max_step = None;
    disk.policy.step = Bytes(512);
    assert_eq!(grow(disk.plan(write(1025))).to, size(1536), "never less than the step");
    disk.policy.step = Bytes(0);
    assert_eq!(grow(disk.plan(write(1025))).to, size(1040), "no step: what the write needs, rounded");
}

#[test]
fn one_stray_write_does_not_eat_the_quota() {
    let mut disk = origin();
    disk.policy.max_step = Some(Bytes(64));
    disk.policy.step = Bytes(256);
    assert_eq!(grow(disk.plan(write(192))).to, size(192), "the step is cut to the largest that one write may do");
    let over = Reason::OverMaxStep { size: size(128), end: 193, max_step: Bytes(64) };
    assert_eq!(disk.refusal(write(193)), over);
    disk.policy.max_step = Some(Bytes(3));
    assert_eq!(grow(disk.plan(write(131))).to, size(144), "rounding is not held against it");
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, 1024))).to, size(1024), "a resize is no write");
}

#[test]
fn everything_that_stands_in_the_way_of_a_shrink_has_its_own_name() {
    type Bend = fn(&mut Disk);
    let ways: [(&str, Bend, Reason); 8] = [
        ("policy", |disk| disk.policy.shrink = false, Reason::ShrinkForbidden),
        ("read-only", |disk| disk.policy.read_only = true, Reason::ReadOnly),
        ("minimum", |disk| disk.policy.min_size = size(65), Reason::BelowMinimum { asked: size(64), min: size(65) }),
        ("stock", |disk| disk.others.stock = 2, Reason::OthersDidNotOptIn { sessions: 2 }),
        ("kernel", |disk| disk.others.kernel = 1, Reason::KernelClients { sessions: 1 }),
        ("lost", |disk| disk.others.lost = 3, Reason::MayComeBack { sessions: 3 }),
        ("hidden", |disk| disk.disk = size(256), Reason::HiddenBytes { size: size(128), disk: size(256) }),
        ("backend", |disk| disk.backend = backend("automatic, opted in"), Reason::BackendCannotShrink),
    ];
    for (name, bend, reason) in ways {
        let mut disk = origin();
        assert!(matches!(disk.plan(explicit(STRUCTURED, 128, 64)), Plan::Shrink(_)));
        bend(&mut disk);
        assert_eq!(disk.refusal(explicit(STRUCTURED, 128, 64)), reason, "{name}");
        assert_eq!(disk.refusal(Wish::Operator { target: 64 }), reason, "{name}, for an operator");
        assert_eq!(reason.errno(Asked::Resize).wire(), 1, "{name}");
    }
}

#[test]
fn a_shrink_may_reach_the_minimum() {
    let mut disk = origin();
    disk.policy.min_size = size(64);
    assert_eq!(shrink(disk.plan(explicit(SIMPLE, 128, 64))).to, size(64));
    assert_eq!(shrink(disk.plan(explicit(SIMPLE, 128, 49))).to, size(64), "rounded up to it");
}

#[test]
fn other_sessions_do_not_stand_in_the_way_of_a_grow() {
    let mut disk = origin();
    disk.others = Others { stock: 1, kernel: 1, lost: 1 };
    assert_eq!(grow(disk.plan(explicit(STRUCTURED, 128, 256))).to, size(256));
}

#[test]
fn nothing_is_changed_while_nothing_can_be_known() {
    let standings = [
        (Standing::Unmeasured, Reason::Unmeasured, 5, 28),
        (Standing::Unsettled { asked: size(256) }, Reason::Unsettled, 5, 28),
        (Standing::Quarantined { found: 100 }, Reason::Quarantined, 5, 28),
        (Standing::Draining, Reason::Draining, 108, 108),
    ];
    for (standing, reason, resize, for_write) in standings {
        let mut disk = origin();
        disk.standing = standing;
        for wish in [explicit(STRUCTURED, 128, 256), Wish::Operator { target: 64 }, Wish::Publish, write(256)] {
            assert_eq!(disk.refusal(wish), reason, "{wish:?}");
        }
        assert_eq!((reason.errno(Asked::Resize).wire(), reason.errno(Asked::Write).wire()), (resize, for_write));
    }
}

#[test]
fn a_refusal_names_the_export_the_tenant_and_what_is_left() {
    let mut disk = origin();
    let gib = 1 << 30;
    disk.size = size(8 * gib);
    disk.disk = disk.size;
    disk.policy.max_size = Size::MAX;
    disk.headroom = headroom(gib, 10 * gib);
    let Plan::Refuse(refusal) = disk.plan(explicit(SIMPLE, 8 * gib, 10 * gib)) else { panic!("it fits") };
    let sentence = "export `vm7` is 8 GiB and would grow by 2 GiB; tenant `blue` has 1 GiB left of 10 GiB";
    assert_eq!(refusal.to_string(), sentence);
    assert_eq!((refusal.reason.label(), refusal.reason.errno(Asked::Resize).wire()), ("quota", 28));
}

#[test]
fn a_backend_that_is_bigger_already_is_shown_not_asked() {
    for name in ["explicit simple, read back", "automatic, opted in", "driver"] {
        let mut disk = Disk::behind(backend(name));
        disk.policy.external = External::Manual;
        disk.disk = size(500);
        disk.headroom = headroom(0, 200);
        let plan = grow(disk.plan(explicit(SIMPLE, 128, 256)));
        assert_eq!(
            (plan.to, plan.ask, plan.zero),
            (size(256), Ask::Nothing, None),
            "{name}: those bytes are another's"
        );
        assert_eq!(plan.reserve, Bytes(0), "{name}: they are counted already");
        assert_eq!(grow(disk.plan(Wish::Operator { target: 500 })).to, size(500), "{name}: all of an odd size");
        assert!(matches!(disk.refusal(explicit(SIMPLE, 128, 501)), Reason::OverQuota { .. }), "{name}");
        disk.policy.step = Bytes(1000);
        assert_eq!(grow(disk.plan(write(129))).to, size(500), "{name}: a step does not ask for more than is there");
    }
}

#[test]
fn what_another_hand_added_to_a_fixed_backend_is_the_operators_to_show() {
    let mut disk = Disk::behind(backend("fixed"));
    disk.policy.external = External::Manual;
    disk.policy.read_only = true;
    disk.disk = size(256);
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 256)), Reason::ReadOnly);
    disk.policy.read_only = false;
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 256)), Reason::FixedSize { size: size(128) });
    disk.policy.read_only = true;
    assert_eq!(grow(disk.plan(Wish::Operator { target: 256 })).ask, Ask::Nothing);
    assert_eq!(disk.refusal(Wish::Operator { target: 257 }), Reason::ReadOnly);
    disk.policy.read_only = false;
    for target in [257, 1 << 63, u64::MAX] {
        assert_eq!(disk.refusal(Wish::Operator { target }), Reason::FixedSize { size: size(128) });
    }
}

#[test]
fn an_automatic_backend_is_grown_by_the_last_granule_and_by_nothing_that_is_there() {
    let mut disk = Disk::behind(backend("automatic, opted in"));
    let zero_write = |disk: &Disk, target| match grow(disk.plan(Wish::Operator { target })).ask {
        Ask::ZeroWriteLastGranule { offset, len } => (offset.bytes(), len),
        other => panic!("{other:?}"),
    };
    assert_eq!(zero_write(&disk, 256), (240, 16));
    disk.size = size(1000);
    disk.disk = size(1000);
    assert_eq!(zero_write(&disk, 1008), (1000, 8), "an odd end is not overwritten");
    disk.policy.max_size = Size::MAX;
    disk.policy.granularity = granularity(1 << 40);
    assert_eq!(zero_write(&disk, 1001), ((1 << 40) - (1 << 20), 1 << 20), "a large granule needs no large write");
}

#[test]
fn a_backend_that_is_ours_alone_is_asked_without_reading_it_again() {
    let mut disk = Disk::behind(backend("explicit simple, read back"));
    assert!(grow(disk.plan(explicit(SIMPLE, 128, 256))).reread);
    disk.policy.exclusive = true;
    assert!(!grow(disk.plan(explicit(SIMPLE, 128, 256))).reread);
    assert!(!shrink(disk.plan(explicit(SIMPLE, 128, 64))).reread);
    disk.backend = backend("automatic, opted in");
    assert!(grow(disk.plan(explicit(SIMPLE, 128, 256))).reread, "a write of zeroes is never sent blindly");
}

#[test]
fn a_window_is_zeroed_where_it_opens_and_bounded_by_its_disk() {
    let mut disk = Disk::behind(backend("window"));
    let plan = grow(disk.plan(explicit(SIMPLE, 128, 256)));
    assert_eq!(plan.zero, ByteRange::new(size(128), size(256)));
    assert_eq!(plan.reserve, Bytes(128), "a window counts what it shows");
    disk.zeroed_by_backend = true;
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, 256))).zero, None);
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 800)), Reason::OverWindow { asked: 800, disk: size(768) });
    disk.policy.max_size = size(512);
    let ceiling = Reason::OverCeiling { asked: 528, ceiling: size(512) };
    assert_eq!(disk.refusal(explicit(SIMPLE, 128, 513)), ceiling);
}

#[test]
fn a_grow_asks_the_backend_first_and_shows_last() {
    let plan = grow(Disk::behind(backend("explicit simple, read back")).plan(explicit(SIMPLE, 128, 256)));
    assert_eq!(plan.zero, ByteRange::new(size(128), size(256)), "noted with what is reserved");
    let steps = [
        Step::Reserve(Bytes(128)),
        Step::Reread,
        Step::Ask(Ask::ExplicitResize(size(256))),
        Step::ReadBack,
        Step::RenewLanes(Lanes::RehandshakeOthers),
        Step::Zero,
        Step::Commit,
        Step::Publish,
    ];
    assert_eq!(plan.steps(), steps);
    let mut disk = origin();
    disk.zeroed_by_backend = true;
    let steps = [
        Step::Reserve(Bytes(128)),
        Step::Ask(Ask::ResizeEmbedded(size(256))),
        Step::ReadBack,
        Step::Commit,
        Step::Publish,
    ];
    assert_eq!(grow(disk.plan(explicit(SIMPLE, 128, 256))).steps(), steps);
}

#[test]
fn a_shrink_drains_first_and_frees_quota_last() {
    let plan = shrink(Disk::behind(backend("driver")).plan(explicit(SIMPLE, 128, 64)));
    let steps = [
        Step::LowerEnd(size(64)),
        Step::Drain,
        Step::DropLanes,
        Step::Reread,
        Step::Ask(Ask::Driver(size(64))),
        Step::ReadBack,
        Step::RenewLanes(Lanes::DropBefore),
        Step::Publish,
        Step::FreeQuota,
    ];
    assert_eq!(plan.steps(), steps);
}

#[test]
fn a_window_that_nobody_has_on_record_stays_until_an_operator_says_what_it_was() {
    let mut disk = Disk::behind(backend("window"));
    disk.unrecorded = true;
    let unrecorded = Reason::Unrecorded { size: size(128) };
    for wish in [explicit(SIMPLE, 128, 256), write(200), Wish::Operator { target: 256 }, explicit(SIMPLE, 128, 64)] {
        assert_eq!(disk.refusal(wish), unrecorded, "{wish:?}");
    }
    assert_eq!(disk.plan(explicit(SIMPLE, 128, 128)), Plan::Nothing { size: size(128) });
    // Exactly what was said, and nothing of it is zeroed: it is the tenant's own.
    let adopted = grow(disk.plan(Wish::Adopt { target: 300 }));
    assert_eq!((adopted.to, adopted.reserve, adopted.zero, adopted.ask), (size(300), Bytes(172), None, Ask::Nothing));
    let same = grow(disk.plan(Wish::Adopt { target: 128 }));
    assert_eq!((same.to, same.reserve), (size(128), Bytes(0)), "what is shown is put on record");
    assert_eq!(disk.refusal(Wish::Adopt { target: 100 }), Reason::BelowMinimum { asked: size(100), min: size(128) });
    assert_eq!(disk.refusal(Wish::Adopt { target: 800 }), Reason::OverWindow { asked: 800, disk: size(768) });
    disk.headroom = headroom(100, 300);
    assert!(matches!(disk.refusal(Wish::Adopt { target: 300 }), Reason::OverQuota { .. }));
}
