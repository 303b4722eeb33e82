//! Names that come from the network or the config: checked once, shared cheaply afterwards.
//!
//! An export's name is a string as proto.md ("Values") has it: UTF-8, at most 4096 bytes, no NUL; the empty name is the
//! default export. A tenant's name is the operator's and becomes a metric label, so it is stricter.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a name can't be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Only a tenant's: the name is empty.
    #[error("the name is empty; give at least one character")]
    Empty,
    /// More bytes than the most such a name may have.
    #[error("the name has {bytes} bytes; the most is {most}")]
    TooLong {
        /// How many bytes were given.
        bytes: usize,
        /// The most there may be.
        most: usize,
    },
    /// Not UTF-8; the first `valid` bytes are.
    #[error("the name is not UTF-8 after its first {valid} bytes")]
    NotUtf8 {
        /// How many bytes from the start are UTF-8.
        valid: usize,
    },
    /// A character that such a name may not have.
    #[error("the name has the character {found:?}; leave it out")]
    Character {
        /// The character.
        found: char,
    },
}

/// The name of an export: 0 to 4096 bytes of UTF-8 without NUL (proto.md, "Values"). Cloning shares it.
///
/// The default is the empty name, which is that of the default export.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportName(Arc<str>);

impl ExportName {
    /// The most bytes that an export's name may have (proto.md, "Values").
    pub(crate) const MOST_BYTES: usize = 4096;

    /// A name from text.
    ///
    /// # Errors
    /// [`NameError::TooLong`] or [`NameError::Character`] (a NUL).
    pub fn new(name: &str) -> Result<Self, NameError> {
        let bytes = name.len();
        if bytes > Self::MOST_BYTES {
            return Err(NameError::TooLong { bytes, most: Self::MOST_BYTES });
        }
        if name.contains('\0') {
            return Err(NameError::Character { found: '\0' });
        }
        Ok(Self(Arc::from(name)))
    }

    /// A name from the bytes of an option.
    ///
    /// # Errors
    /// [`NameError::NotUtf8`], or as [`ExportName::new`].
    pub fn from_wire(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.len() > Self::MOST_BYTES {
            return Err(NameError::TooLong { bytes: bytes.len(), most: Self::MOST_BYTES });
        }
        let name = std::str::from_utf8(bytes).map_err(|error| NameError::NotUtf8 { valid: error.valid_up_to() })?;
        Self::new(name)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a tenant: 1 to 255 bytes of UTF-8 without control characters. Cloning shares it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The most bytes that a tenant's name may have.
    pub(crate) const MOST_BYTES: usize = 255;

    /// A name from text.
    ///
    /// # Errors
    /// [`NameError::Empty`], [`NameError::TooLong`] or [`NameError::Character`] (a control character).
    pub fn new(name: &str) -> Result<Self, NameError> {
        let bytes = name.len();
        if bytes == 0 {
            return Err(NameError::Empty);
        }
        if bytes > Self::MOST_BYTES {
            return Err(NameError::TooLong { bytes, most: Self::MOST_BYTES });
        }
        if let Some(found) = name.chars().find(|c| c.is_control()) {
            return Err(NameError::Character { found });
        }
        Ok(Self(Arc::from(name)))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tenant that everything belongs to where nobody declares one: `default`.
impl Default for TenantId {
    fn default() -> Self {
        Self(Arc::from("default"))
    }
}

macro_rules! shown_as_text {
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

        // Lets a map keyed by the name be asked with text, without building a name first.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

shown_as_text!(ExportName);
shown_as_text!(TenantId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_names_are_what_the_protocol_allows() {
        assert_eq!(ExportName::new("").unwrap().as_str(), "");
        assert_eq!(ExportName::new(""), Ok(ExportName::default()));
        assert_eq!(ExportName::from_wire("größe".as_bytes()).unwrap().as_str(), "größe");
        let longest = "x".repeat(4096);
        assert_eq!(ExportName::new(&longest).unwrap().as_str(), longest);
        let too_long = NameError::TooLong { bytes: 4097, most: 4096 };
        assert_eq!(ExportName::new(&"x".repeat(4097)), Err(too_long.clone()));
        assert_eq!(ExportName::from_wire(&[0xff; 4097]), Err(too_long));
        assert_eq!(ExportName::from_wire(b"ab\xff"), Err(NameError::NotUtf8 { valid: 2 }));
        assert_eq!(ExportName::from_wire(b"a\0"), Err(NameError::Character { found: '\0' }));
    }

    #[test]
    fn tenants_have_names_fit_for_a_label() {
        assert_eq!(TenantId::new("blue").unwrap().to_string(), "blue");
        assert_eq!(TenantId::new("default"), Ok(TenantId::default()));
        assert_eq!(TenantId::new(""), Err(NameError::Empty));
        assert_eq!(TenantId::new("a\nb"), Err(NameError::Character { found: '\n' }));
        assert_eq!(TenantId::new(&"x".repeat(256)), Err(NameError::TooLong { bytes: 256, most: 255 }));
    }

    #[test]
    fn each_problem_says_what_is_wrong() {
        assert_eq!(NameError::Empty.to_string(), "the name is empty; give at least one character");
        assert_eq!(NameError::TooLong { bytes: 9, most: 5 }.to_string(), "the name has 9 bytes; the most is 5");
        assert_eq!(NameError::NotUtf8 { valid: 2 }.to_string(), "the name is not UTF-8 after its first 2 bytes");
        let nul = NameError::Character { found: '\0' };
        assert_eq!(nul.to_string(), "the name has the character '\\0'; leave it out");
    }

    #[test]
    fn a_map_is_asked_with_text() {
        let map = std::collections::HashMap::from([(ExportName::new("vm7").unwrap(), 7)]);
        assert_eq!(map.get("vm7"), Some(&7));
        assert_eq!(map.get("vm8"), None);
    }
}
