//! What a program or a URL of the operator's is told: which export, and which sizes.

use std::ffi::OsStr;
use std::fmt::Display;

use nbd_gateway_policy::types::{ExportName, TenantId};
use serde::{Serialize, Serializer};

/// A size that is wanted, or that there is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Occasion {
    /// Whose size it is.
    #[serde(serialize_with = "text")]
    pub export: ExportName,
    #[serde(serialize_with = "text")]
    pub tenant: TenantId,
    /// The size before, in bytes.
    pub old_size: u64,
    /// The size wanted or reached, in bytes.
    pub size: u64,
    /// Rises with each change of size, over openings and restarts too; None where nothing has changed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// A name is its text.
fn text<S: Serializer>(name: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

impl Occasion {
    /// The variables for a program's environment; sizes in bytes.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            (EXPORT, self.export.as_str().to_owned()),
            (TENANT, self.tenant.as_str().to_owned()),
            (OLD_SIZE, self.old_size.to_string()),
            (NEW_SIZE, self.size.to_string()),
        ];
        all.extend(self.generation.map(|generation| (GENERATION, generation.to_string())));
        all
    }

    /// One JSON object, with the keys `export`, `tenant`, `old_size`, `size` and, if there is one, `generation`.
    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Whether a variable is one of these, whoever set it: what is not told must not seem to be.
pub(super) fn is_ours(name: &OsStr) -> bool {
    [EXPORT, TENANT, OLD_SIZE, NEW_SIZE, GENERATION].iter().any(|ours| name == *ours)
}

const EXPORT: &str = "NBD_GATEWAY_EXPORT";
const TENANT: &str = "NBD_GATEWAY_TENANT";
const OLD_SIZE: &str = "NBD_GATEWAY_OLD_SIZE";
const NEW_SIZE: &str = "NBD_GATEWAY_NEW_SIZE";
const GENERATION: &str = "NBD_GATEWAY_GENERATION";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_and_json_tell_the_same() {
        let mut occasion = Occasion {
            export: ExportName::new("a \"b\"\n=c").unwrap(),
            tenant: TenantId::new("blue").unwrap(),
            old_size: 1 << 20,
            size: u64::MAX,
            generation: None,
        };
        let variables =
            |pairs: Vec<(&'static str, String)>| pairs.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        let told: Vec<String> = variables(occasion.environment());
        assert_eq!(
            told,
            [
                "NBD_GATEWAY_EXPORT=a \"b\"\n=c",
                "NBD_GATEWAY_TENANT=blue",
                "NBD_GATEWAY_OLD_SIZE=1048576",
                "NBD_GATEWAY_NEW_SIZE=18446744073709551615",
            ]
        );
        let json = |occasion: &Occasion| String::from_utf8(occasion.json()).unwrap();
        let rest = r#"{"export":"a \"b\"\n=c","tenant":"blue","old_size":1048576,"size":18446744073709551615"#;
        assert_eq!(json(&occasion), format!("{rest}}}"));
        occasion.generation = Some(7);
        assert_eq!(json(&occasion), format!("{rest},\"generation\":7}}"));
        assert_eq!(occasion.environment().pop(), Some(("NBD_GATEWAY_GENERATION", "7".to_owned())));
    }
}
