//! Quotas that are smaller than what the configuration itself gives their tenants: nearly always a unit that was left out.

use std::fmt;

use nbd_gateway_config::{Backend, Config, Driver};
use nbd_gateway_policy::types::{Bytes, Count, TenantId};

/// A tenant that is over its quota from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tight {
    tenant: TenantId,
    quota: Bytes,
    exports: usize,
    sum: Bytes,
}

impl fmt::Display for Tight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, quota, exports, sum } = self;
        write!(
            f,
            "tenant `{tenant}` has a quota of {quota}, and {} of it with a `size` of {sum} in all: nothing of it can grow; \
             write the quota with its unit, like 10GiB",
            Count::of(*exports, "export")
        )
    }
}

/// All of them, by the sizes that the configuration says.
pub(crate) fn tight(config: &Config) -> Vec<Tight> {
    let exports: Vec<(TenantId, u64)> = config
        .listable()
        .filter_map(|name| config.export_for(name).ok())
        .filter_map(|export| {
            let size = match (&export.backend, &export.resize.driver) {
                (Backend::Memory { size }, _) | (Backend::File { size: Some(size), .. }, _) => size.bytes(),
                (_, Driver::Window { size }) => size.bytes(),
                _ => return None,
            };
            Some((export.tenant.clone(), size))
        })
        .collect();
    let over = config.tenants().iter().filter_map(|tenant| {
        let quota = tenant.allowance.quota?;
        let own = || exports.iter().filter(|(owner, _)| *owner == tenant.id).map(|(_, size)| *size);
        let sum = Bytes::saturating(own().map(u128::from).sum());
        (sum > quota).then(|| Tight { tenant: tenant.id.clone(), quota, exports: own().count(), sum })
    });
    over.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_without_its_unit_is_warned_of() {
        let text = r#"
            [[listener]]
            address = "127.0.0.1:0"
            [[tenant]]
            name = "t"
            quota = "10"
            [[tenant]]
            name = "u"
            quota = "2MiB"
            [[tenant]]
            name = "v"
            [[export]]
            name = "a"
            tenant = "t"
            backend = "memory:"
            size = "1MiB"
            [[export]]
            name = "b"
            tenant = "u"
            backend = "file:b"
            size = "2MiB"
            [[export]]
            name = "c"
            tenant = "v"
            backend = "memory:"
            size = "1MiB"
        "#;
        let config = Config::parse(text, std::path::Path::new("test.toml")).unwrap();
        let said: Vec<String> = tight(&config).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "tenant `t` has a quota of 10 bytes, and 1 export of it with a `size` of 1 MiB in all: nothing of it can grow; \
              write the quota with its unit, like 10GiB"
            ]
        );
    }
}
