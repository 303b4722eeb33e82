//! Names that cannot be built wrong.
//!
//! Owns what a tenant and an export may be called. Never knows which of them exist: that is the model's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest export name that the protocol has, in bytes (proto.md, "Values": strings are at most 4096 bytes).
pub const LONGEST_EXPORT_NAME: usize = 4096;

/// The longest tenant name, in bytes.
pub const LONGEST_TENANT_NAME: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// A tenant's name is empty, too long, or has other characters than `[a-z0-9._-]`.
    #[error("`{0}` is not a tenant name: use 1 to 64 of a-z, 0-9, `.`, `_` and `-`")]
    Tenant(String),
    /// An export's name has more bytes than the protocol allows.
    #[error("an export name has at most 4096 bytes, this one has {0}")]
    TooLong(usize),
    /// An export's name has a NUL byte.
    #[error("an export name cannot have a NUL byte")]
    Nul,
}

/// The name of a tenant: 1 to 64 of `[a-z0-9._-]`, and neither `.` nor `..`, so that it can stand in a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Takes the name, or says why it is none.
    pub fn new(name: &str) -> Result<Self, NameFault> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=LONGEST_TENANT_NAME).contains(&name.len()) && name.bytes().all(legal);
        if fits && name != "." && name != ".." {
            Ok(Self(name.into()))
        } else {
            Err(NameFault::Tenant(name.to_owned()))
        }
    }

    /// The tenant that everything belongs to where a configuration declares none.
    pub(crate) fn default_tenant() -> Self {
        Self("default".into())
    }

    /// The tenant of the embedded default configuration.
    pub(crate) fn demo() -> Self {
        Self("demo".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an export: at most 4096 bytes of UTF-8 without NUL; `""` is the default export.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExportName(Arc<str>);

impl ExportName {
    /// Takes the name, or says why it is none.
    pub fn new(name: &str) -> Result<Self, NameFault> {
        if name.len() > LONGEST_EXPORT_NAME {
            Err(NameFault::TooLong(name.len()))
        } else if name.contains('\0') {
            Err(NameFault::Nul)
        } else {
            Ok(Self(name.into()))
        }
    }

    /// The export of the embedded default configuration.
    pub(crate) fn demo() -> Self {
        Self("demo".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! name_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                Self::new(text)
            }
        }
    };
}

name_traits!(TenantId);
name_traits!(ExportName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_name_has_1_to_64_plain_characters() {
        for good in ["a", "blue", "a.b_c-9", &"x".repeat(64)] {
            assert_eq!(TenantId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "Blue", "a b", "a/b", "ä", ".", "..", "a\0", &"x".repeat(65)] {
            assert_eq!(TenantId::new(bad), Err(NameFault::Tenant(bad.to_owned())));
        }
    }

    #[test]
    fn the_built_in_tenants_are_names_that_could_be_written() {
        assert_eq!(TenantId::new("default").unwrap(), TenantId::default_tenant());
        assert_eq!(TenantId::new("demo").unwrap(), TenantId::demo());
        assert_eq!(ExportName::new("demo").unwrap(), ExportName::demo());
        assert_eq!(ExportName::new("").unwrap(), ExportName::default());
    }

    #[test]
    fn an_export_name_has_at_most_4096_bytes_and_no_nul() {
        assert!(ExportName::new(&"ä".repeat(2048)).is_ok());
        assert_eq!(ExportName::new(&"ä".repeat(2049)), Err(NameFault::TooLong(4098)));
        assert_eq!(ExportName::new("a\0b"), Err(NameFault::Nul));
    }
}
