//! What an observer may see otherwise through the gateway than without it, and why. Nothing else may differ.

use serde_json::Value;

use crate::trouble::{Trouble, ensure};

/// A key, what may become of it, and the reason.
type Change = (&'static str, fn(&Value, &Value) -> bool, &'static str);

const CHANGES: &[Change] = &[
    ("uri", |_, _| true, "it names the gateway's socket"),
    ("can_multi_conn", becomes_true, "sessions share lanes, so a FLUSH of one holds for all of them"),
    ("structured", becomes_true, "structured replies are made of a backend's simple ones"),
    ("can_df", becomes_true, "what came in a simple reply came in one piece"),
    ("contexts", own_contexts_added, "the gateway lists its own x-resize: contexts after the backend's"),
    ("export-size", |was, _| *was == 0, "nbd-server tells INFO size 0 whatever the size is"),
    ("export-size-str", |was, _| *was == "0", "the same"),
    ("content", |was, _| *was == "empty", "the same: nbdinfo reads nothing from a disk of size 0"),
    ("description", |_, is| is.is_null(), "LIST dials no backend, so it tells only what the configuration says"),
];

fn becomes_true(was: &Value, is: &Value) -> bool {
    *was == Value::Bool(false) && *is == Value::Bool(true)
}

/// Whether the backend's contexts come first and unchanged, and nothing but `x-resize:` follows.
fn own_contexts_added(was: &Value, is: &Value) -> bool {
    let none = Vec::new();
    let (was, is) = (was.as_array().unwrap_or(&none), is.as_array().unwrap_or(&none));
    let own = |context: &Value| context.as_str().is_some_and(|name| name.starts_with("x-resize:"));
    is.starts_with(was) && is[was.len()..].iter().all(own)
}

/// Fails with every difference that is not on the list.
pub(crate) fn expect_same(direct: &Value, through: &Value) -> Result<(), Trouble> {
    let mut differences = Vec::new();
    compare("", direct, through, &mut differences);
    ensure(differences.is_empty(), || format!("through the gateway it sees another {}", differences.join("\nand ")))
}

fn compare(key: &str, direct: &Value, through: &Value, differences: &mut Vec<String>) {
    match (direct, through) {
        _ if CHANGES.iter().any(|(changed, fits, _)| *changed == key && fits(direct, through)) => {}
        (Value::Object(was), Value::Object(is)) => {
            let mut keys: Vec<_> = was.keys().chain(is.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                compare(key, was.get(key).unwrap_or(&Value::Null), is.get(key).unwrap_or(&Value::Null), differences);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            was.iter().zip(is).for_each(|(was, is)| compare(key, was, is, differences));
        }
        _ if direct == through => {}
        _ => differences.push(format!("{key}: {direct} became {through}")),
    }
}

#[test]
fn a_difference_that_is_not_on_the_list_is_seen() {
    let was: Value = serde_json::json!({"exports": [{"uri": "a", "can_fua": true, "can_df": true}]});
    let same: Value = serde_json::json!({"exports": [{"uri": "b", "can_fua": true, "can_df": true}]});
    expect_same(&was, &same).unwrap();
    for worse in [
        serde_json::json!({"exports": [{"uri": "b", "can_fua": false, "can_df": true}]}),
        serde_json::json!({"exports": [{"uri": "b", "can_fua": true, "can_df": false}]}),
        serde_json::json!({"exports": [{"uri": "b", "can_df": true}]}),
        serde_json::json!({"exports": []}),
    ] {
        expect_same(&was, &worse).unwrap_err();
    }
}
