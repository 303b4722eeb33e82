//! What every plan keeps, over random situations and wishes.

use nbd_gateway_policy::export::{ExportPolicy, External, OverQuota, Publish};
use nbd_gateway_policy::plan::{Ask, Grow, Grown, Lanes, Others, Plan, Shrink, Shrunk, Standing, Step, Wish};
use nbd_gateway_policy::quota::Headroom;
use nbd_gateway_policy::refusal::{Asked, Errno};
use nbd_gateway_policy::style::{ClientStyle, Grows};
use nbd_gateway_policy::types::{Bytes, Granularity, Size};
use proptest::prelude::*;

use crate::fixture::{Disk, backends};

/// Sizes around where things happen: small ones that collide, and the far end.
fn any_bytes() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..600_u64, 1 => Size::MAX.bytes() - 40..=Size::MAX.bytes(), 1 => any::<u64>()]
}

fn any_size() -> impl Strategy<Value = Size> {
    any_bytes().prop_map(|bytes| Size::new(bytes.min(Size::MAX.bytes())).unwrap())
}

fn any_policy() -> impl Strategy<Value = ExportPolicy> {
    let switches = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    let external = prop::sample::select(vec![External::Adopt, External::Ignore, External::Manual]);
    let publish = prop_oneof![3 => Just(Publish::Auto), 1 => Just(Publish::Manual), 1 => Just(Publish::Never)];
    let sizes = (any_size(), prop_oneof![any_size(), Just(Size::MAX)], 0..8_u32, 0..300_u64);
    let max_step = prop::option::of(0..300_u64);
    (switches, (external, publish), sizes, max_step).prop_map(
        |((shrink, exclusive, read_only, clamp), (external, publish), (min_size, max_size, shift, step), max_step)| {
            ExportPolicy {
                shrink,
                exclusive,
                read_only,
                over_quota: if clamp { OverQuota::Clamp } else { OverQuota::Reject },
                external,
                publish,
                min_size,
                max_size,
                granularity: Granularity::new(1 << shift).unwrap(),
                step: Bytes(step),
                max_step: max_step.map(Bytes),
                ..ExportPolicy::DEFAULT
            }
        },
    )
}

fn any_disk() -> impl Strategy<Value = Disk> {
    let styles: Vec<_> = backends().into_iter().map(|(_, style)| style).collect();
    let others = (0..2_u32, 0..2_u32, 0..2_u32).prop_map(|(stock, kernel, lost)| Others { stock, kernel, lost });
    let standing = prop_oneof![
        8 => Just(Standing::Ready),
        1 => Just(Standing::Unmeasured),
        1 => any_size().prop_map(|asked| Standing::Unsettled { asked }),
        1 => any_bytes().prop_map(|found| Standing::Quarantined { found }),
        1 => Just(Standing::Draining),
    ];
    let left = prop::option::of(0..600_u64);
    let hidden = prop_oneof![2 => Just(0), 1 => 0..400_u64];
    let others = prop_oneof![2 => Just(Others::default()), 1 => others];
    let last = (any::<bool>(), 0..300_u64);
    (any_policy(), prop::sample::select(styles), any_size(), hidden, left, others, standing, last).prop_map(
        |(policy, backend, size, hidden, left, others, standing, (zeroed_by_backend, stream))| {
            let mut disk = Disk::behind(backend);
            disk.policy = policy;
            disk.size = size;
            disk.disk = size.plus(Bytes(hidden));
            disk.headroom = left.map(|left| Headroom { left: Bytes(left), quota: Bytes(600) });
            disk.others = others;
            disk.standing = standing;
            disk.zeroed_by_backend = zeroed_by_backend;
            disk.stream = Bytes(stream);
            disk
        },
    )
}

fn any_wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        (prop::sample::select(ClientStyle::ALL.to_vec()), any_size(), any_bytes())
            .prop_map(|(client, told, target)| Wish::Explicit { client, told, target }),
        any_bytes().prop_map(|end| Wish::Automatic { end }),
        any_bytes().prop_map(|target| Wish::Operator { target }),
        any_bytes().prop_map(|target| Wish::Adopt { target }),
        Just(Wish::Publish),
        any_bytes().prop_map(|size| Wish::Backend { size }),
    ]
}

/// What the ledger counts.
fn counted(disk: &Disk) -> Size {
    if disk.backend.grows == Grows::Window { disk.size } else { disk.disk }
}

fn check_grow(disk: &Disk, wish: &Wish, grow: &Grow) -> Result<(), TestCaseError> {
    let policy = &disk.policy;
    prop_assert_eq!(disk.standing, Standing::Ready);
    prop_assert!(grow.to > disk.size && grow.from == disk.size, "a grow grows");
    prop_assert!(grow.need > disk.size && grow.need <= grow.to);
    prop_assert!(grow.to <= policy.max_size, "over the ceiling");
    prop_assert_eq!(grow.reserve, grow.to.above(counted(disk)), "what is reserved is what is added");
    if let Some(headroom) = disk.headroom {
        prop_assert!(grow.reserve <= headroom.left, "over the quota");
    }
    let published = matches!(wish, Wish::Publish | Wish::Adopt { .. }) && policy.publish != Publish::Never;
    prop_assert_eq!(
        grow.show,
        policy.publish == Publish::Auto
            || published
            || disk.backend.grows == Grows::Window && matches!(wish, Wish::Adopt { .. })
    );
    let whole = grow.to == disk.disk;
    // What is adopted is what was said, to the byte.
    let said = matches!(wish, Wish::Adopt { .. });
    prop_assert!(policy.granularity.divides(grow.to) || whole || said, "not a multiple");
    match *wish {
        Wish::Explicit { client, told, target } => {
            prop_assert!(target >= told.bytes(), "a shrink became a grow");
            prop_assert!(!policy.read_only);
            let may_be_less = policy.over_quota == OverQuota::Clamp && client.success().tells_size();
            prop_assert!(grow.to.bytes() >= target || may_be_less, "less than was asked for");
        }
        Wish::Automatic { end } => {
            prop_assert!(grow.to.bytes() >= end && !policy.read_only);
            let max_step = policy.max_step.unwrap_or(Bytes(u64::MAX)).0;
            prop_assert!(end - disk.size.bytes() <= max_step);
            let rounded = max_step.saturating_add(policy.granularity.bytes());
            prop_assert!(grow.to.above(disk.size).0 < rounded || max_step == u64::MAX, "a step beyond max-step");
        }
        Wish::Operator { target } => prop_assert!(grow.to.bytes() >= target, "less than was asked for"),
        Wish::Publish => prop_assert!(grow.to == disk.disk && grow.ask == Ask::Nothing, "more than was there"),
        Wish::Adopt { target } => {
            prop_assert!(disk.backend.grows == Grows::Window && grow.to.bytes() >= target);
            prop_assert!(grow.zero.is_none() && grow.ask == Ask::Nothing, "zeroes what is the tenant's");
        }
        Wish::Backend { .. } => prop_assert!(false, "a backend's own size is adopted, not grown"),
    }
    match grow.ask {
        Ask::Nothing => prop_assert!(grow.to <= disk.disk),
        Ask::ExplicitResize(size) | Ask::ResizeEmbedded(size) | Ask::Driver(size) => {
            prop_assert!(size == grow.to && size > disk.disk, "asking would truncate");
            prop_assert!(!policy.read_only);
        }
        Ask::ZeroWriteLastGranule { offset, len } => {
            prop_assert_eq!(offset.bytes() + u64::from(len), grow.to.bytes());
            prop_assert!(offset >= disk.disk && len > 0 && grow.reread, "would zero what is there");
        }
    }
    if let Some(zero) = grow.zero {
        prop_assert!(zero.start() >= disk.size && zero.end() == grow.to, "zeroes what somebody may have written");
        prop_assert!(zero.start() >= counted(disk));
    } else {
        prop_assert!(disk.zeroed_by_backend || grow.ask == Ask::Nothing, "exposes what it found");
    }
    Ok(())
}

fn check_shrink(disk: &Disk, wish: &Wish, shrink: &Shrink) -> Result<(), TestCaseError> {
    prop_assert_eq!(disk.standing, Standing::Ready);
    prop_assert!(shrink.to < disk.size && shrink.from == disk.size && shrink.to > Size::ZERO);
    prop_assert!(disk.policy.shrink && !disk.policy.read_only && disk.backend.can_shrink());
    prop_assert!(shrink.to >= disk.policy.min_size && disk.policy.granularity.divides(shrink.to));
    prop_assert_eq!(disk.others, Others::default(), "somebody would be surprised");
    prop_assert!(disk.disk == disk.size || disk.backend.grows == Grows::Window, "would cut off another's bytes");
    match *wish {
        Wish::Explicit { told, target, .. } => {
            prop_assert!(target < told.bytes() && target <= shrink.to.bytes(), "it was told less than it asks for");
        }
        Wish::Operator { target } | Wish::Adopt { target } => prop_assert!(target <= shrink.to.bytes()),
        Wish::Automatic { .. } | Wish::Publish | Wish::Backend { .. } => {
            prop_assert!(false, "nobody asked for a shrink")
        }
    }
    Ok(())
}

fn position(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> Option<usize> {
    steps.iter().position(wanted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_plan_breaks_a_bound(disk in any_disk(), wish in any_wish()) {
        match disk.plan(wish) {
            Plan::Grow(grow) => check_grow(&disk, &wish, &grow)?,
            Plan::Shrink(shrink) => check_shrink(&disk, &wish, &shrink)?,
            Plan::Nothing { size } => prop_assert_eq!(size, disk.size),
            Plan::Adopt(adopt) => {
                match wish {
                    Wish::Backend { size } => {
                        prop_assert_eq!(size, adopt.disk.bytes());
                        prop_assert_eq!(adopt.drain, None);
                    }
                    Wish::Adopt { target } => {
                        let shown = adopt.publish.unwrap_or(disk.size).bytes();
                        let stays = disk.policy.publish == Publish::Never && target > shown;
                        prop_assert!(shown == target || (stays && shown == disk.size.bytes()), "not what was ordered");
                        prop_assert_eq!(adopt.drain.is_some(), target < disk.size.bytes());
                    }
                    other => prop_assert!(false, "{other:?} adopts"),
                }
                if adopt.drain.is_some() {
                    prop_assert_eq!(disk.others, Others::default(), "somebody would be surprised");
                }
                prop_assert!(adopt.publish.unwrap_or(disk.size) <= adopt.disk, "shows what is not there");
                let ours = matches!(disk.standing, Standing::Unsettled { .. });
                let back = adopt.publish.is_some_and(|size| size <= disk.size);
                prop_assert!(ours || !back || adopt.drain.is_some(), "went back by itself");
                prop_assert!(ours || adopt.zero.is_none(), "zeroes what it did not grow");
                prop_assert!(adopt.lanes != Lanes::DropBefore);
            }
            Plan::Quarantine(_) => match wish {
                Wish::Backend { size } => prop_assert!(size < disk.size.bytes() || size > Size::MAX.bytes()),
                Wish::Explicit { .. } | Wish::Automatic { .. } | Wish::Operator { .. } | Wish::Publish | Wish::Adopt { .. } => {
                    prop_assert!(false);
                }
            },
            Plan::Refuse(refusal) => {
                let meant = match wish {
                    // Nothing is too large for what can't be resized at all.
                    Wish::Operator { target } if target > 0 && disk.backend.grows == Grows::Fixed => true,
                    Wish::Explicit { target, .. } | Wish::Operator { target } | Wish::Adopt { target } => {
                        (1..=Size::MAX.bytes()).contains(&target)
                    }
                    Wish::Automatic { .. } | Wish::Publish | Wish::Backend { .. } => true,
                };
                let errno = refusal.reason.errno(Asked::Resize);
                prop_assert_eq!(errno == Errno::Inval, !meant, "invalid is what can't be meant, and nothing else");
            }
        }
    }

    #[test]
    fn the_same_wish_again_after_it_was_met_changes_nothing(disk in any_disk(), wish in any_wish()) {
        if let Plan::Grow(grow) = disk.plan(wish) {
            let mut after = disk.clone();
            after.size = if grow.show { grow.to } else { disk.size };
            after.disk = after.disk.max(grow.to);
            // What a clamped client would ask again is still more than there is.
            let met = match wish {
                Wish::Explicit { target, .. } | Wish::Operator { target } => grow.to.bytes() >= target,
                Wish::Adopt { target } => grow.to.bytes() == target,
                Wish::Automatic { .. } | Wish::Publish | Wish::Backend { .. } => true,
            };
            if met {
                let size = after.size;
                prop_assert_eq!(after.plan(wish), Plan::Nothing { size });
            }
        }
    }

    #[test]
    fn the_steps_of_every_grow_keep_their_order(disk in any_disk(), wish in any_wish()) {
        if let Plan::Grow(grow) = disk.plan(wish) {
            let steps = grow.steps();
            let at = |wanted: fn(&Step) -> bool| position(&steps, wanted);
            let ask = at(|step| matches!(step, Step::Ask(_)));
            let read_back = at(|step| *step == Step::ReadBack).unwrap();
            prop_assert_eq!(at(|step| matches!(step, Step::Reserve(_))), Some(0));
            prop_assert_eq!(at(|step| *step == Step::Publish), grow.show.then_some(steps.len() - 1));
            prop_assert!(at(|step| *step == Step::Commit) > Some(read_back));
            if let Some(ask) = ask {
                prop_assert!(ask < read_back);
                prop_assert!(ask > 0, "held and noted before the backend is asked");
                prop_assert!(at(|step| *step == Step::Reread).is_none_or(|reread| reread + 1 == ask));
            }
            let (zero, commit) = (at(|step| *step == Step::Zero), at(|step| *step == Step::Commit));
            prop_assert_eq!(zero.is_some(), grow.zero.is_some());
            prop_assert!(zero.is_none_or(|zero| Some(zero + 1) == commit));
            prop_assert!(zero.is_none_or(|zero| zero > read_back));
        }
    }

    #[test]
    fn whatever_is_read_back_is_never_shown_larger_than_it_is_nor_smaller_than_was_promised(
        disk in any_disk(), wish in any_wish(), read in any_bytes(),
    ) {
        let situation = disk.situation();
        match disk.plan(wish) {
            Plan::Grow(grow) => match grow.settle(&situation, read) {
                Grown::Larger { publish, count, zero, short } => {
                    prop_assert!(count > disk.size && count.bytes() <= read && publish <= count);
                    prop_assert_eq!(publish > disk.size, grow.show, "what is not to be shown is");
                    let reached = if grow.show { publish } else { count };
                    prop_assert_eq!(short.is_none(), reached >= grow.need);
                    prop_assert!(zero.is_none_or(|zero| zero.end() <= reached && zero.start() >= disk.size));
                }
                Grown::Same { count, .. } => prop_assert!(count >= disk.size),
                Grown::Quarantine(_) => prop_assert!(read < disk.size.bytes() || read > Size::MAX.bytes()),
            },
            Plan::Shrink(shrink) => match shrink.settle(&situation, read) {
                Shrunk::Smaller { publish, .. } => {
                    prop_assert!(publish < disk.size && publish >= shrink.to && publish.bytes() <= read);
                }
                Shrunk::Same { count, .. } => prop_assert!(count >= disk.size),
                Shrunk::Quarantine(_) => prop_assert!(read < shrink.to.bytes() || read > Size::MAX.bytes()),
            },
            Plan::Nothing { .. } | Plan::Adopt(_) | Plan::Quarantine(_) | Plan::Refuse(_) => {}
        }
    }
}
