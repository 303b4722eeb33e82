//! The JSON schema of the file, from the shapes that read it, and what reading takes from it: examples for problems.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::raw::RawConfig;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RawConfig>().to_value();
    tidy(&mut schema);
    schema
});

/// The JSON schema (draft 2020-12) of the configuration, with a description of every key, defaults and examples.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// TOML has no null, and programs that complete a file as it is written should not offer it. Descriptions lose the line
/// breaks that their source has.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(tidy);
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|name| name != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    map.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(words)) = map.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type").and_then(Value::as_str) != Some("null"));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    absorb(map, only);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The only choice takes the place of the list; what the field itself says comes before what its type says.
fn absorb(map: &mut Map<String, Value>, only: Map<String, Value>) {
    for (key, value) in only {
        map.entry(key).or_insert(value);
    }
}

/// The shapes that a value may have: the alternatives, or the one.
pub(crate) fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    let listed = ["anyOf", "oneOf"].into_iter().find_map(|key| schema.get(key)?.as_array());
    let single = if listed.is_none() { Some(schema) } else { None };
    // An alternative can be a list of alternatives itself, one level deep: a shape in a shape.
    let nested = listed.into_iter().flatten().flat_map(|choice| match choice.get("anyOf").and_then(Value::as_array) {
        Some(inner) => inner.as_slice(),
        None => std::slice::from_ref(choice),
    });
    nested.chain(single)
}

/// The keys of a table.
pub(crate) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

/// How the key at `path` could be written, as a line of TOML.
pub(crate) fn example(path: &str) -> Option<String> {
    let mut schema = &*SCHEMA;
    let mut last = "";
    for key in path.split('.') {
        last = key.split('[').next().unwrap_or_default();
        let entry = schema.get("items").unwrap_or(schema);
        schema = alternatives(entry).find_map(|shape| properties(shape)?.get(last))?;
    }
    Some(format!("{last} = {}", to_toml(schema.get("examples")?.get(0)?)))
}

/// A JSON value as TOML on one line.
pub(crate) fn to_toml(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key} = {}", to_toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // JSON's strings without escapes, its numbers and booleans are TOML's too.
        other => other.to_string(),
    }
}

/// Where `key` is known, if it is: every table that has it, as a place.
pub(crate) fn homes(key: &str) -> Vec<String> {
    let mut found = Vec::new();
    search(&SCHEMA, "", key, &mut found);
    found
}

fn search(schema: &Value, path: &str, key: &str, found: &mut Vec<String>) {
    for (name, inner) in alternatives(schema).filter_map(properties).flatten() {
        if name == key {
            found.push(if path.is_empty() {
                "above the first section".to_owned()
            } else {
                format!("under {}", header(path))
            });
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        search(inner.get("items").unwrap_or(inner), &path, key, found);
    }
}

/// How the table at `path` starts: entries of a list in double brackets.
pub(crate) fn header(path: &str) -> String {
    if matches!(path, "listener" | "tenant" | "tenant.clients" | "export" | "export.notify") {
        format!("[[{path}]]")
    } else {
        format!("[{path}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        for (name, inner) in alternatives(schema).filter_map(properties).flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            visit(&path, inner);
            each(inner.get("items").unwrap_or(inner), &path, visit);
        }
    }

    #[test]
    fn every_key_has_a_description_and_every_plain_one_an_example() {
        let mut count = 0;
        each(schema(), "", &mut |path, schema| {
            count += 1;
            assert!(schema.get("description").is_some_and(Value::is_string), "{path}: {schema:#}");
            // A list of words is as plain as a word.
            let table = |shape: &Value| properties(shape.get("items").unwrap_or(shape)).is_some();
            let table = alternatives(schema).all(table);
            assert_eq!(example(path).is_some(), !table, "{path}: {schema:#}");
        });
        assert!(count > 30, "{count}");
    }

    #[test]
    fn null_is_not_offered_anywhere() {
        assert!(!schema().to_string().contains("null"), "{:#}", schema());
    }

    #[test]
    fn tables_refuse_other_keys_and_lists_need_an_entry() {
        let tables = schema().to_string().matches("\"additionalProperties\":false").count();
        assert_eq!(tables, 19, "{:#}", schema());
        assert_eq!(schema()["required"], serde_json::json!(["listener", "export"]));
        assert_eq!(schema()["properties"]["export"]["items"]["required"], serde_json::json!(["name", "backend"]));
    }

    #[test]
    fn examples_are_found_by_the_path_of_a_key() {
        assert_eq!(example("export[3].read-only").as_deref(), Some("read-only = true"));
        assert_eq!(example("export[3].on-backend-loss.hold").as_deref(), Some("hold = \"30s\""));
        assert_eq!(
            example("export[0].on-backend-loss").as_deref(),
            Some("on-backend-loss = { durable = false, hold = \"30s\" }")
        );
        assert_eq!(example("export[0].unknown"), None);
        assert_eq!(example("listener"), None);
    }

    #[test]
    fn the_tables_that_know_a_key_are_named() {
        assert_eq!(homes("handshake-timeout"), ["under [limits]"]);
        assert_eq!(homes("lanes"), ["under [[export]]"]);
        assert_eq!(homes("state"), ["above the first section"]);
        assert_eq!(homes("quota"), ["under [[tenant]]"]);
        assert_eq!(homes("growth-wait"), ["under [export.resize]"]);
        assert!(homes("colour").is_empty());
    }
}
