//! Holds a file against the schema before serde reads it, so that every key that is unknown or has the wrong type is told
//! at once; serde would stop at the first. What is wrong is told and taken out, the rest goes on to be checked.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{Report, key_path, nearest};
use crate::raw::RawConfig;
use crate::schema::{self, schema};

/// Reads the text, or notes what keeps it from being read. None: it is not TOML, and nothing else can be said.
pub(crate) fn read(text: &str, report: &mut Report) -> Option<RawConfig> {
    let lines = Lines::of(text);
    let (mut root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            report.syntax(error.span().map(|span| lines.position(span.start)), error.message());
        }
        return None;
    }
    table(root.get_mut(), schema(), "", &lines, report);
    match serde::Deserialize::deserialize(toml::Deserializer::from(root)) {
        Ok(raw) => Some(raw),
        Err(error) => {
            // The schema is made from what serde reads, so it has seen this before; if not, it is told all the same.
            report.syntax(error.span().map(|span| lines.position(span.start)), error.message());
            None
        }
    }
}

fn table(table: &mut DeTable<'_>, schema: &Value, path: &str, lines: &Lines<'_>, report: &mut Report) {
    let mut wrong = Vec::new();
    for (key, value) in table.iter_mut() {
        let path = key_path(path, key.get_ref());
        report.place(&path, lines.position(key.span().start));
        let known = schema::properties(schema).and_then(|properties| properties.get(key.get_ref().as_ref()));
        let right = match known {
            Some(known) => fits(value, known, &path, lines, report),
            None => {
                report.note_with(&path, unknown(key.get_ref(), schema), None);
                false
            }
        };
        if !right {
            wrong.push(key.get_ref().to_string());
        }
    }
    for key in wrong {
        table.remove(key.as_str());
    }
}

/// Whether the value can stay.
fn fits(value: &mut Spanned<DeValue<'_>>, schema: &Value, path: &str, lines: &Lines<'_>, report: &mut Report) -> bool {
    let found = kind(value.get_ref());
    let Some(shape) = schema::alternatives(schema).find(|shape| accepts(shape, found)) else {
        let tables = |shape: &Value| shape.get("items").and_then(schema::properties).is_some();
        if found == "object" && schema::alternatives(schema).any(tables) {
            report
                .note(path, format_args!("there can be several of this, so it stands in double brackets: [[{path}]]"));
            return false;
        }
        let wanted: Vec<String> = schema::alternatives(schema).map(describe).collect();
        report.note(path, format_args!("this has to be {}, not {}", wanted.join(" or "), article(found)));
        return false;
    };
    match value.get_mut() {
        DeValue::Table(inner) => table(inner, shape, path, lines, report),
        DeValue::Array(list) => {
            let mut right = true;
            for (index, entry) in list.iter_mut().enumerate() {
                let path = format!("{path}[{index}]");
                report.place(&path, lines.position(entry.span().start));
                right &= fits(entry, shape.get("items").unwrap_or(&Value::Null), &path, lines, report);
            }
            return right;
        }
        DeValue::Integer(number) if i64::from_str_radix(number.as_str(), number.radix()).is_err() => {
            report.note(path, format_args!("`{number}` is too large: it does not fit in 64 bits"));
            return false;
        }
        DeValue::String(text) => {
            let words: Vec<&str> = words(shape).collect();
            if !words.is_empty() && !words.contains(&text.as_ref()) {
                let hint = match nearest(text, words.iter().copied()) {
                    Some(meant) => question(meant),
                    None => format!(": use {}", listed(&words)),
                };
                report.note(path, format_args!("`{text}` is not known{hint}"));
                return false;
            }
        }
        _ => {}
    }
    true
}

/// The words that are allowed; none: any text is.
fn words(shape: &Value) -> impl Iterator<Item = &str> {
    let several = shape.get("enum").and_then(Value::as_array).into_iter().flatten();
    several.chain(shape.get("const")).filter_map(Value::as_str)
}

fn unknown(key: &str, schema: &Value) -> String {
    let known = schema::properties(schema).into_iter().flatten().map(|(name, _)| name.as_str());
    let known: Vec<&str> = known.collect();
    let homes = schema::homes(key);
    // A letter too many, like a plural: what is meant here comes before what is called so elsewhere.
    if let Some(meant) = nearest(key, known.iter().copied()).filter(|meant| one_off(key, meant)) {
        return format!("this key is not known here{}", question(meant));
    }
    if !homes.is_empty() {
        return format!("this key does not belong here but {}", homes.join(" or "));
    }
    if let Some(meant) = nearest(key, known.iter().copied()) {
        return format!("this key is not known{}", question(meant));
    }
    format!("this key is not known; known here: {}", known.join(", "))
}

/// Whether one of two words has an `s` more than the other at its end.
fn one_off(key: &str, meant: &str) -> bool {
    key.strip_suffix('s') == Some(meant) || meant.strip_suffix('s') == Some(key)
}

fn question(meant: &str) -> String {
    format!("; did you mean `{meant}`?")
}

fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(" or ")
}

/// The name that JSON schemas have for the type of a value.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "string",
        DeValue::Integer(_) => "integer",
        DeValue::Float(_) => "float",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "array",
        DeValue::Table(_) => "object",
    }
}

fn accepts(shape: &Value, kind: &str) -> bool {
    match shape.get("type") {
        Some(Value::Array(several)) => several.iter().any(|name| name == kind),
        Some(one) => one == kind,
        None => shape.get("enum").or(shape.get("const")).is_some() && kind == "string",
    }
}

fn describe(shape: &Value) -> String {
    let words: Vec<&str> = words(shape).collect();
    if words.is_empty() {
        article(shape.get("type").and_then(Value::as_str).unwrap_or_default()).to_owned()
    } else {
        listed(&words)
    }
}

/// What people call a type.
fn article(kind: &str) -> &'static str {
    match kind {
        "string" => "a text in quotes",
        "integer" => "a whole number",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "date" => "a date",
        "array" => "a list",
        _ => "a table",
    }
}

/// Where lines start, so that an offset becomes a line and a column.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let later = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { text, starts: std::iter::once(0).chain(later).collect() }
    }

    /// Line and column (in characters), both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| self.starts.get(index)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_lines_and_characters_from_1() {
        let lines = Lines::of("a\nää b\n\nc");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(2), (2, 1));
        assert_eq!(lines.position(7), (2, 4));
        assert_eq!(lines.position(9), (3, 1));
        assert_eq!(lines.position(10), (4, 1));
        assert_eq!(lines.position(11), (4, 2));
    }
}
