//! Words of the file that are the model's own: each enum says its words itself.

use std::borrow::Cow;

use nbd_gateway_policy::types::Worded;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};

/// One of `T`, written as its word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word<T>(pub(crate) T);

impl<'de, T: Worded> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let said = String::deserialize(from)?;
        let known = T::WORDS.iter().find(|(word, _)| *word == said);
        known.map(|(_, one)| Self(*one)).ok_or_else(|| D::Error::custom(format_args!("`{said}` is not known")))
    }
}

impl<T: Worded> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": T::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
}
