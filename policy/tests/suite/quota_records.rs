//! The rule over records that several gateways share: each reads a tenant and an export, takes a step, and writes both if
//! neither has been written meanwhile.

use nbd_gateway_policy::quota::TenantLimits;
use nbd_gateway_policy::quota::shared::{ExportRecord, Hold, TenantRecord};
use nbd_gateway_policy::types::{Bytes, Size};
use proptest::prelude::*;

use crate::fixture::size;

const TENANTS: usize = 2;
const EXPORTS: usize = 6;
const GATEWAYS: usize = 3;
const QUOTA: u64 = 250;

#[derive(Clone, Copy, Debug)]
enum Step {
    Hold(u64),
    Commit(u64),
    RollBack,
    Unsettle,
    Settle(u64),
    Measure(u64),
}

/// A step by one gateway on one export; `stale`: by what it read the last time.
#[derive(Clone, Debug)]
struct Op {
    gateway: usize,
    export: usize,
    step: Step,
    stale: bool,
}

fn any_op() -> impl Strategy<Value = Op> {
    let step = prop_oneof![
        6 => (0..100_u64).prop_map(Step::Hold),
        4 => (0..100_u64).prop_map(Step::Commit),
        1 => Just(Step::RollBack),
        2 => Just(Step::Unsettle),
        2 => (0..100_u64).prop_map(Step::Settle),
        1 => (0..100_u64).prop_map(Step::Measure),
    ];
    (0..GATEWAYS, 0..EXPORTS, step, any::<bool>()).prop_map(|(gateway, export, step, stale)| Op {
        gateway,
        export,
        step,
        stale,
    })
}

/// The records, each with the number of its last write.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    tenants: [(TenantRecord, u32); TENANTS],
    exports: [(ExportRecord, u32); EXPORTS],
}

const fn owner(export: usize) -> usize {
    export % TENANTS
}

fn sums(kept: &Kept, tenant: usize) -> (u64, u64, u64, u32) {
    let own = || (0..EXPORTS).filter(|export| owner(*export) == tenant).map(|export| kept.exports[export].0);
    let held = |export: ExportRecord, unsettled| {
        export.hold.filter(|hold| hold.unsettled == unsettled).map_or(0, |hold| hold.to.above(export.size).0)
    };
    (
        own().map(|export| export.size.bytes()).sum(),
        own().map(|export| held(export, false)).sum(),
        own().map(|export| held(export, true)).sum(),
        u32::try_from(own().count()).unwrap(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sums_are_those_of_the_exports_whichever_gateway_takes_which_step_on_what_it_has_read(
        ops in prop::collection::vec(any_op(), 0..150),
    ) {
        let limits = TenantLimits { quota: Some(Bytes(QUOTA)), ..TenantLimits::NONE };
        let mut empty = TenantRecord::default();
        empty.limits = limits;
        let mut tenants = [(empty, 0); TENANTS];
        let exports = [(ExportRecord::default(), 0); EXPORTS];
        (0..EXPORTS).for_each(|export| tenants[owner(export)].0.add(&exports[export].0));
        let mut kept = Kept { tenants, exports };
        let mut read = vec![kept.clone(); GATEWAYS];
        for op in ops {
            let tenant = owner(op.export);
            if !op.stale {
                read[op.gateway] = kept.clone();
            }
            let before = read[op.gateway].clone();
            let ((mut its_tenant, tenant_written), (mut its_export, written)) =
                (before.tenants[tenant], before.exports[op.export]);
            let was = its_export;
            let in_flight = was.hold.is_some_and(|hold| !hold.unsettled);
            match op.step {
                Step::Hold(to) => match its_tenant.hold(&mut its_export, size(to)) {
                    Ok(held) => {
                        prop_assert_eq!(was.hold, None);
                        prop_assert_eq!(its_export.hold, Some(Hold { to: size(to), unsettled: false }));
                        let usage = its_tenant.usage();
                        prop_assert!(held.bytes == Bytes(0) || !usage.over_quota, "grows over the quota: {:?}", usage);
                    }
                    Err(_) => prop_assert_eq!((its_tenant, its_export), (before.tenants[tenant].0, was)),
                },
                // Each of these is only taken by who holds.
                Step::Commit(actual) if in_flight => _ = its_tenant.commit(&mut its_export, size(actual)),
                Step::RollBack if in_flight => its_tenant.roll_back(&mut its_export),
                Step::Unsettle if in_flight => its_tenant.unsettle(&mut its_export),
                Step::Commit(_) | Step::RollBack | Step::Unsettle => {}
                Step::Settle(measured) => {
                    its_tenant.settle(&mut its_export, size(measured));
                    prop_assert_eq!(its_export.hold, was.hold.filter(|_| in_flight), "a grow in flight stays");
                }
                Step::Measure(measured) => {
                    its_tenant.measure(&mut its_export, size(measured));
                    prop_assert_eq!(its_export.hold, was.hold);
                }
            }
            if (kept.tenants[tenant].1, kept.exports[op.export].1) == (tenant_written, written) {
                kept.tenants[tenant] = (its_tenant, tenant_written + 1);
                kept.exports[op.export] = (its_export, written + 1);
            }
            for tenant in 0..TENANTS {
                let usage = kept.tenants[tenant].0.usage();
                let told = (usage.used.0, usage.reserved.0, usage.unsettled.0, usage.exports);
                prop_assert_eq!(told, sums(&kept, tenant), "after {:?}", &op);
            }
        }
        for export in 0..EXPORTS {
            let tenant = &mut kept.tenants[owner(export)].0;
            tenant.settle(&mut kept.exports[export].0, Size::ZERO);
            tenant.roll_back(&mut kept.exports[export].0);
            tenant.remove(&kept.exports[export].0);
        }
        for (tenant, _) in kept.tenants {
            prop_assert_eq!(tenant, empty, "nothing is left");
        }
    }
}
