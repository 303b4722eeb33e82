//! The interface as an OpenAPI 3.1 document, made of the table that the router is made of and of the types that are sent:
//! it can't say anything else than what is served.

use axum::http::StatusCode;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::events::LAST_SEEN;
use super::routes::{Asks, Route, Shape};
use super::view::Refused;

pub(super) fn document(table: &[Route]) -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut content = |shape: &Shape| match shape {
        Shape::Json(schema) => json!({ "application/json": { "schema": schema(&mut generator) } }),
        Shape::Listed(schema) => {
            let one = schema(&mut generator);
            json!({
                "application/json": { "schema": { "type": "array", "items": one } },
                "text/event-stream": { "schema": {
                    "type": "string",
                    "description": "server-sent events: `id` is the event's number, `data` is JSON of the schema in `x-data`",
                    "x-data": one,
                } },
            })
        }
        Shape::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Shape::File(kind) => json!({ (*kind): {} }),
    };
    let error = content(&Shape::Json(|generator| generator.subschema_for::<Refused>()));
    let mut paths = Map::new();
    for route in table {
        let mut answers = Map::new();
        let (status, shape) = &route.answers;
        let mut fails = route.fails.to_vec();
        if route.asks != Asks::Anyone {
            fails.extend([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
        }
        if !route.any_name {
            fails.push(StatusCode::MISDIRECTED_REQUEST);
        }
        if route.takes.is_some() || route.filters.is_some() {
            fails.push(StatusCode::BAD_REQUEST);
        }
        for status in fails {
            let says = status.canonical_reason().unwrap_or_default();
            // Where text is answered, an error is text too.
            let body = if matches!(shape, Shape::Text) { content(shape) } else { error.clone() };
            answers.insert(status.as_str().to_owned(), json!({ "description": says, "content": body }));
        }
        answers.insert(status.as_str().to_owned(), json!({ "description": route.does, "content": content(shape) }));
        let mut operation = Map::new();
        operation.insert("summary".into(), route.does.into());
        operation.insert("responses".into(), answers.into());
        if let Some(takes) = &route.takes {
            operation.insert("requestBody".into(), json!({ "required": true, "content": content(takes) }));
        }
        let security = match route.asks {
            Asks::Anyone => json!([]),
            // Only where the address can be reached from other hosts.
            Asks::Reader => json!([{}, { "token": [] }]),
            Asks::Operator => json!([{ "token": [] }]),
        };
        operation.insert("security".into(), security);
        let filters = route.filters.map(|schema| schema(&mut SchemaGenerator::default()).to_value());
        let in_query = filters.iter().flat_map(in_the_query);
        let seen = matches!(shape, Shape::Listed(_)).then(|| {
            let does = "of a stream: only what came after the event of this number";
            json!({ "name": LAST_SEEN, "in": "header", "required": false, "description": does,
                    "schema": { "type": "integer", "format": "uint64", "minimum": 0 } })
        });
        let parameters: Vec<Value> = parameters(route.path).chain(in_query).chain(seen).collect();
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        let methods = paths.entry(route.path).or_insert_with(|| Map::new().into());
        if let Some(methods) = methods.as_object_mut() {
            methods.insert(route.method.as_str().to_lowercase(), operation.into());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "nbd-gateway", "version": env!("CARGO_PKG_VERSION"), "description": "Sizes are in bytes." },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// The names in a path. A job is a number, everything else a text; no part of a path can be empty.
fn parameters(path: &str) -> impl Iterator<Item = Value> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).map(|name| {
        let kind = if name == "job" { "integer" } else { "string" };
        let mut parameter = json!({ "name": name, "in": "path", "required": true, "schema": { "type": kind } });
        if let Some(parameter) = parameter.as_object_mut().filter(|_| name == "name") {
            parameter.insert("description".into(), "two quotation marks mean the export with the empty name".into());
        }
        parameter
    })
}

/// The fields of an object that may stand after a `?`. None of them has to.
fn in_the_query(object: &Value) -> impl Iterator<Item = Value> {
    object
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, schema)| json!({ "name": name, "in": "query", "required": false, "schema": schema }))
}

#[cfg(test)]
mod tests {
    use super::super::routes::table;
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value.as_str() {
                Some(to) if key == "$ref" => found.push(to.to_owned()),
                _ => references(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_has_every_route_and_refers_to_nothing_that_is_not_in_it() {
        let table = table();
        let document = document(&table);
        for route in &table {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert!(operation["summary"].is_string(), "{} {}", route.method, route.path);
            let needs_token = operation["security"] == json!([{ "token": [] }]);
            assert_eq!(needs_token, route.asks == Asks::Operator, "{}", route.path);
            let (may, refused) = (operation["security"].as_array().unwrap(), &operation["responses"]["401"]);
            assert_eq!(may.is_empty(), refused.is_null(), "{}", route.path);
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 5, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn what_events_can_be_asked_for_stands_in_the_document() {
        let document = document(&table());
        let parameters = document["paths"]["/api/v1/events"]["get"]["parameters"].as_array().unwrap();
        let mut names: Vec<_> = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["Last-Event-ID", "after", "before", "export", "kind", "limit", "since", "tenant"]);
        let header = |parameter: &Value| parameter["name"] == "Last-Event-ID";
        let place = |parameter: &Value| if header(parameter) { "header" } else { "query" };
        assert!(parameters.iter().all(|p| p["in"] == place(p) && p["schema"].is_object()));
        let answers = &document["paths"]["/api/v1/events"]["get"]["responses"]["200"]["content"];
        assert_eq!(answers["application/json"]["schema"]["items"]["$ref"], "#/components/schemas/EventView");
        assert_eq!(answers["text/event-stream"]["schema"]["x-data"]["$ref"], "#/components/schemas/EventView");
    }

    #[test]
    fn a_name_in_a_path_is_a_parameter() {
        let found: Vec<_> = parameters("/api/v1/exports/{name}/jobs/{job}").collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0]["name"].as_str(), found[1]["schema"]["type"].as_str()), (Some("name"), Some("integer")));
    }
}
