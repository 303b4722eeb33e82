//! What an operator orders about a size that is there already: `publish` and `adopt`.

use nbd_gateway_policy::export::{External, Publish};
use nbd_gateway_policy::plan::{Adopt, Ask, Grow, Grown, Lanes, Others, Plan, Standing, Step, Wish};
use nbd_gateway_policy::refusal::Reason;
use nbd_gateway_policy::style::ClientStyle;
use nbd_gateway_policy::types::{Bytes, Size};

use crate::fixture::{Disk, backend, backends, explicit, headroom, size};

fn adopting(target: u64) -> Wish {
    Wish::Adopt { target }
}

/// 128 bytes shown of the 500 that the backend has by another hand.
fn hidden(name: &str) -> Disk {
    let mut disk = Disk::behind(backend(name));
    disk.policy.external = External::Manual;
    disk.disk = size(500);
    disk
}

/// 128 bytes shown of a backend that says `found`.
fn quarantined(name: &str, found: u64) -> Disk {
    let mut disk = Disk::behind(backend(name));
    disk.standing = Standing::Quarantined { found };
    disk
}

fn grow(plan: Plan) -> Grow {
    match plan {
        Plan::Grow(grow) => grow,
        other => panic!("not a grow: {other:?}"),
    }
}

fn adopted(plan: Plan) -> Adopt {
    match plan {
        Plan::Adopt(adopt) => adopt,
        other => panic!("not adopted: {other:?}"),
    }
}

#[test]
fn publishing_shows_all_that_another_hand_added_and_asks_no_backend() {
    for (name, style) in backends().into_iter().filter(|(name, _)| *name != "window") {
        let mut disk = hidden(name);
        disk.backend = style;
        disk.headroom = headroom(0, 200);
        disk.policy.read_only = true;
        let plan = grow(disk.plan(Wish::Publish));
        assert_eq!((plan.to, plan.need, plan.ask, plan.zero), (size(500), size(500), Ask::Nothing, None), "{name}");
        assert_eq!(plan.reserve, Bytes(0), "{name}: it is counted already");
        disk.size = disk.disk;
        assert_eq!(disk.plan(Wish::Publish), Plan::Nothing { size: size(500) }, "{name}: shown already");
    }
}

/// An export whose operator says when clients see a larger size, and one that never shows one.
fn held_back(name: &str) -> [(Disk, Reason); 2] {
    let of = |publish| {
        let mut disk = Disk::behind(backend(name));
        disk.policy.publish = publish;
        disk
    };
    [
        (of(Publish::Manual), Reason::OperatorPublishes { size: size(128) }),
        (of(Publish::Never), Reason::SizeStays { size: size(128) }),
    ]
}

#[test]
fn clients_do_not_grow_what_an_operator_publishes() {
    for (name, style) in backends().into_iter().filter(|(_, style)| style.can_grow()) {
        for (disk, reason) in held_back(name) {
            for client in ClientStyle::ALL {
                assert_eq!(disk.refusal(explicit(client, 128, 256)), reason, "{name}, {style:?}, {client:?}");
            }
            assert_eq!(disk.refusal(Wish::Automatic { end: 200 }), reason, "{name}");
            assert_eq!(disk.plan(Wish::Automatic { end: 128 }), Plan::Nothing { size: size(128) }, "{name}");
            let same = explicit(ClientStyle::ExplicitStructured, 128, 128);
            assert_eq!(disk.plan(same), Plan::Nothing { size: size(128) }, "{name}: what is shown is confirmed");
        }
    }
}

#[test]
fn what_an_operator_grows_is_there_and_counted_and_not_shown_before_it_is_published() {
    for name in ["explicit structured, notifies", "automatic, opted in", "origin", "driver"] {
        for (mut disk, _) in held_back(name) {
            let plan = grow(disk.plan(Wish::Operator { target: 256 }));
            assert_eq!((plan.to, plan.reserve, plan.show), (size(256), Bytes(128), false), "{name}");
            assert!(!plan.steps().contains(&Step::Publish), "{name}");
            let Grown::Larger { publish, count, short, .. } = plan.settle(&disk.situation(), 256) else {
                panic!("{name}: it has grown");
            };
            assert_eq!((publish, count, short), (size(128), size(256), None), "{name}");
            disk.disk = size(256);
            let here = Plan::Nothing { size: size(128) };
            assert_eq!(disk.plan(Wish::Operator { target: 200 }), here, "{name}: that much is there already");
            let more = grow(disk.plan(Wish::Operator { target: 512 }));
            assert_eq!((more.reserve, more.show), (Bytes(256), false), "{name}: what is there is counted already");
            match disk.policy.publish {
                Publish::Never => assert_eq!(disk.refusal(Wish::Publish), Reason::SizeStays { size: size(128) }),
                Publish::Auto | Publish::Manual => {
                    let shows = grow(disk.plan(Wish::Publish));
                    assert_eq!((shows.to, shows.ask, shows.show), (size(256), Ask::Nothing, true), "{name}");
                }
            }
        }
    }
}

#[test]
fn what_another_hand_adds_is_counted_and_waits_to_be_published_whatever_external_says() {
    for external in [External::Adopt, External::Ignore, External::Manual] {
        for (mut disk, _) in held_back("explicit structured, notifies") {
            disk.policy.external = external;
            let taken = adopted(disk.plan(Wish::Backend { size: 500 }));
            assert_eq!((taken.count, taken.publish), (Some(size(500)), None), "{external:?}");
            // Nor does the outcome of a grow that was in doubt show it.
            disk.standing = Standing::Unsettled { asked: size(256) };
            let settled = adopted(disk.plan(Wish::Backend { size: 256 }));
            assert_eq!((settled.count, settled.publish), (Some(size(256)), None), "{external:?}");
        }
    }
}

#[test]
fn a_shrink_is_seen_at_once_or_refused() {
    let [(manual, _), (never, stays)] = held_back("explicit structured, notifies");
    assert!(matches!(manual.plan(Wish::Operator { target: 64 }), Plan::Shrink(_)));
    assert_eq!(never.refusal(Wish::Operator { target: 64 }), stays);
}

#[test]
fn publishing_is_bounded_as_a_resize_is() {
    let mut disk = hidden("explicit simple, read back");
    disk.policy.max_size = size(400);
    assert_eq!(disk.refusal(Wish::Publish), Reason::OverCeiling { asked: 500, ceiling: size(400) });
}

#[test]
fn there_is_nothing_to_publish_behind_a_window() {
    let disk = Disk::behind(backend("window"));
    assert_eq!(disk.refusal(Wish::Publish), Reason::OnlyAWindow { size: size(128), disk: size(768) });
}

#[test]
fn what_a_backend_has_lost_is_taken_for_lost_by_order() {
    for (name, style) in backends().into_iter().filter(|(name, _)| *name != "window") {
        let mut disk = quarantined(name, 100);
        disk.backend = style;
        disk.policy.shrink = false;
        disk.policy.min_size = size(128);
        let adopt = adopted(disk.plan(adopting(100)));
        assert_eq!((adopt.disk, adopt.count), (size(100), Some(size(100))), "{name}: quota is freed by what was read");
        assert_eq!((adopt.publish, adopt.drain, adopt.zero), (Some(size(100)), Some(size(100)), None), "{name}");
        assert!(matches!(adopt.lanes, Lanes::Keep | Lanes::ReplaceAfter), "{name}");
    }
}

#[test]
fn only_what_the_operator_has_seen_is_adopted() {
    let disk = quarantined("driver", 100);
    for target in [99, 101, 128] {
        assert_eq!(disk.refusal(adopting(target)), Reason::AdoptOther { asked: size(target), disk: size(100) });
    }
    assert_eq!(disk.refusal(adopting(0)), Reason::Zero);
    assert_eq!(disk.refusal(adopting(1 << 63)), Reason::Impossible { asked: 1 << 63 });
    let impossible = quarantined("driver", 1 << 63);
    assert_eq!(impossible.refusal(adopting(128)), Reason::Quarantined, "no size that can't be is taken for true");
}

#[test]
fn sessions_that_did_not_opt_in_stand_in_the_way_of_a_loss() {
    for name in ["fixed", "window"] {
        let ways = [
            (Others { stock: 2, ..Others::default() }, Reason::OthersDidNotOptIn { sessions: 2 }),
            (Others { kernel: 1, ..Others::default() }, Reason::KernelClients { sessions: 1 }),
            (Others { lost: 1, ..Others::default() }, Reason::MayComeBack { sessions: 1 }),
        ];
        for (others, reason) in ways {
            let mut disk = quarantined(name, 100);
            disk.others = others;
            assert_eq!(disk.refusal(adopting(100)), reason, "{name}");
        }
    }
}

#[test]
fn an_export_that_is_as_it_should_be_has_nothing_to_adopt() {
    let disk = Disk::behind(backend("origin"));
    assert_eq!(disk.plan(adopting(128)), Plan::Nothing { size: size(128) });
    let mut hidden = hidden("fixed");
    hidden.others.stock = 1;
    let adopt = adopted(hidden.plan(adopting(500)));
    assert_eq!((adopt.publish, adopt.drain), (Some(size(500)), None), "what another hand added can be adopted too");
}

#[test]
fn nothing_is_adopted_while_nothing_can_be_known() {
    for (standing, reason) in [
        (Standing::Unmeasured, Reason::Unmeasured),
        (Standing::Unsettled { asked: size(256) }, Reason::Unsettled),
        (Standing::Draining, Reason::Draining),
    ] {
        for name in ["origin", "window"] {
            let mut disk = Disk::behind(backend(name));
            disk.standing = standing;
            assert_eq!(disk.refusal(adopting(128)), reason, "{name}");
        }
    }
}

#[test]
fn a_window_is_adopted_with_what_lies_in_it_within_the_quota_and_unzeroed() {
    let mut disk = Disk::behind(backend("window"));
    assert_eq!(disk.plan(adopting(128)), Plan::Nothing { size: size(128) });
    disk.headroom = headroom(128, 300);
    let wider = grow(disk.plan(adopting(250)));
    assert_eq!((wider.to, wider.need, wider.zero), (size(250), size(250), None));
    assert_eq!((wider.ask, wider.reserve), (Ask::Nothing, Bytes(122)));
    let over = Reason::OverQuota { size: size(128), wanted: Bytes(129), left: Bytes(128), quota: Bytes(300) };
    assert_eq!(disk.refusal(adopting(257)), over);
    assert_eq!(disk.refusal(adopting(769)), Reason::OverWindow { asked: 769, disk: size(768) });
    assert!(matches!(disk.plan(adopting(64)), Plan::Shrink(_)), "less of what is there is an ordinary shrink");
}

#[test]
fn a_window_whose_disk_has_become_too_small_shows_what_is_left() {
    let disk = quarantined("window", 100);
    let left = adopted(disk.plan(adopting(96)));
    assert_eq!((left.publish, left.drain, left.count), (Some(size(96)), Some(size(96)), None));
    assert_eq!(disk.refusal(adopting(101)), Reason::OverWindow { asked: 101, disk: size(100) });
    assert_eq!(
        disk.refusal(adopting(Size::MAX.bytes())),
        Reason::OverWindow { asked: Size::MAX.bytes(), disk: size(100) }
    );
}
