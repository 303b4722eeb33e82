//! What a configuration may call a tenant.
//!
//! The names themselves are `policy`'s. A tenant's is held to more here: operators type it into URLs, and it stands in paths
//! and in labels, so it should need no escapes in any of them.

use nbd_gateway_policy::types::TenantId;

/// The most characters of a tenant's name.
const LONGEST: usize = 64;

/// Why a text is not a tenant's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a tenant name: use 1 to 64 of a-z, 0-9, `.`, `_` and `-`")]
pub(crate) struct TenantError(String);

/// The tenant of that name, if it has 1 to 64 of `[a-z0-9._-]` and is neither `.` nor `..`.
pub(crate) fn tenant(name: &str) -> Result<TenantId, TenantError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
    let fault = || TenantError(name.to_owned());
    if name.len() > LONGEST || name == "." || name == ".." || !name.bytes().all(legal) {
        return Err(fault());
    }
    TenantId::new(name).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_name_has_1_to_64_plain_characters() {
        for good in ["a", "blue", "a.b_c-9", "...", &"x".repeat(64), TenantId::default().as_str()] {
            assert_eq!(tenant(good).unwrap().as_str(), good);
        }
        for bad in ["", "Blue", "a b", "a/b", "ä", ".", "..", "a\0", &"x".repeat(65)] {
            assert_eq!(tenant(bad), Err(TenantError(bad.to_owned())));
        }
    }
}
