//! The keys of the configuration as a reference for people: sections in the order of the file, each with its keys.
//!
//! Owns the order and what is a section; the words are those of the schema. Never renders anything.

use serde_json::Value;

use crate::schema::{alternatives, header, properties, schema, to_toml};

/// A table of the file; the first one is what stands above all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// As it is written, like `[[export]]` or `[export.resize]`; empty for the first.
    pub header: String,
    /// What it is for.
    pub description: String,
    /// Its keys, in the order of their names.
    pub keys: Vec<Key>,
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its default in TOML; None: it has none.
    pub default: Option<String>,
    /// The words that it can have; empty: it is not such a key.
    pub words: Vec<String>,
    /// A value in TOML that it could have; None if a section tells.
    pub example: Option<String>,
    /// Whether it has to be there.
    pub required: bool,
}

/// All sections: each before those within it.
pub fn reference() -> Vec<Section> {
    let mut sections = Vec::new();
    gather(schema(), "", text(schema(), "description"), &mut sections);
    sections
}

fn gather(table: &Value, path: &str, description: String, sections: &mut Vec<Section>) {
    let header = if path.is_empty() { String::new() } else { header(path) };
    let required = table.get("required").and_then(Value::as_array).into_iter().flatten();
    let required: Vec<&str> = required.filter_map(Value::as_str).collect();
    let mut section = Section { header, description, keys: Vec::new() };
    let mut within = Vec::new();
    for (name, entry) in properties(table).into_iter().flatten() {
        let shapes = || alternatives(entry).map(|shape| shape.get("items").unwrap_or(shape));
        if shapes().any(|shape| properties(shape).is_none()) {
            let words = shapes().flat_map(|shape| shape.get("enum").and_then(Value::as_array)).flatten();
            section.keys.push(Key {
                name: name.clone(),
                description: text(entry, "description"),
                default: entry.get("default").map(to_toml),
                words: words.map(to_toml).collect(),
                example: entry.get("examples").and_then(|examples| examples.get(0)).map(to_toml),
                required: required.contains(&name.as_str()),
            });
        }
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        within.extend(shapes().filter(|shape| properties(shape).is_some()).map(|shape| (shape, path.clone(), entry)));
    }
    sections.push(section);
    for (table, path, entry) in within {
        gather(table, &path, text(entry, "description"), sections);
    }
}

fn text(schema: &Value, key: &str) -> String {
    schema.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_schema_stands_in_its_section() {
        let sections = reference();
        let headers: Vec<&str> = sections.iter().map(|section| section.header.as_str()).collect();
        assert_eq!(headers[..4], ["", "[admin]", "[[export]]", "[export.limits]"]);
        let export = &sections[2];
        let name = export.keys.iter().find(|key| key.name == "name").unwrap();
        assert!(name.required && name.default.is_none() && name.example.is_some());
        // A word, or a table with a section of its own.
        let loss = export.keys.iter().find(|key| key.name == "on-backend-loss").unwrap();
        assert_eq!(loss.words, ["\"error\""]);
        assert!(headers.contains(&"[export.on-backend-loss]"));
        // A table alone is no key.
        assert!(export.keys.iter().all(|key| key.name != "resize"));
        let count = |text: &str| schema().to_string().matches(text).count();
        assert_eq!(sections.len(), count("\"properties\":{"));
        assert!(sections.iter().all(|section| !section.description.is_empty() && !section.keys.is_empty()));
    }
}
