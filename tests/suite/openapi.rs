//! Promise: what the admin interface answers is what its OpenAPI document says, field by field.

use serde_json::{Map, Value};

use crate::gateway::{Gateway, TOKEN, export};
use crate::image::Image;
use crate::peer::nbdkit;
use crate::process::Call;
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure};

/// Whether a value is what a schema says. Every key of every object has to be named there, too, and a word of JSON Schema
/// that is not known here fails.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), Trouble> {
    let wrong = |why: &str| Err(Trouble::new(format!("{at}: {why}: {value} is not {schema}")));
    let Some(schema_map) = schema.as_object() else {
        // `true` is anything.
        return if schema == &Value::Bool(true) { Ok(()) } else { wrong("no schema") };
    };
    for (word, says) in schema_map {
        let holds = match word.as_str() {
            "$ref" => {
                let to = says.as_str().and_then(|to| to.strip_prefix('#')).and_then(|to| document.pointer(to));
                let Some(to) = to else { return wrong("it refers to nothing") };
                fits(document, to, value, at)?;
                true
            }
            "type" => match says {
                Value::Array(any) => any.iter().any(|one| is(one, value)),
                one => is(one, value),
            },
            "required" => says
                .as_array()
                .is_some_and(|all| all.iter().filter_map(Value::as_str).all(|name| value.get(name).is_some())),
            "properties" => {
                for (name, inner) in value.as_object().unwrap_or(&Map::new()) {
                    let Some(of) = says.get(name) else { return wrong(&format!("{name} is not told of")) };
                    fits(document, of, inner, &format!("{at}/{name}"))?;
                }
                true
            }
            "items" => {
                for (number, inner) in value.as_array().into_iter().flatten().enumerate() {
                    fits(document, says, inner, &format!("{at}/{number}"))?;
                }
                true
            }
            "anyOf" | "oneOf" => {
                let any = says.as_array().into_iter().flatten();
                any.into_iter().any(|one| fits(document, one, value, at).is_ok())
            }
            "enum" => says.as_array().is_some_and(|all| all.contains(value)),
            "const" => says == value,
            "minimum" => says.as_f64().zip(value.as_f64()).is_none_or(|(least, is)| is >= least),
            // Said of requests, which the gateway judges itself.
            "pattern" => true,
            "description" | "default" | "format" | "title" | "additionalProperties" => true,
            other => return wrong(&format!("what is {other:?}?")),
        };
        if !holds {
            return wrong(word);
        }
    }
    Ok(())
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

/// What is asked: method, path of the document, how the path is filled in, body, and the status that comes.
struct Asked(&'static str, &'static str, &'static str, &'static str, &'static str);

#[test]
fn every_answer_is_what_the_document_says() -> Result<(), Trouble> {
    let server = nbdkit(&[], &["file", "DISK"], &Image::sparse(3))?;
    let own = "tenant = \"blue\"\nsize = \"8MiB\"\n[export.resize]\npublish = \"manual\"\n";
    let tables = "[[tenant]]\nname = \"blue\"\nquota = \"64MiB\"\nsoft-quota = \"9MiB\"\n\n".to_owned()
        + &export("own", "memory:", own)
        + &export("far", &server.uri(), "tenant = \"blue\"")
        + &export("gone", "nbd+unix:///?socket=/nonexistent/socket", "tenant = \"blue\"\ndial-timeout = \"1s\"");
    let mut gateway = Gateway::start(&tables)?.expecting_warnings();
    let url = gateway.told("admin on ").to_owned();
    let clients = [
        RawClient::open(gateway.socket(), "own", Framing::Simple)?,
        RawClient::open(gateway.socket(), "far", Framing::Simple)?,
    ];
    let ask = |method: &str, path: &str, body: &str| -> Result<(String, Value), Trouble> {
        let call =
            Call::new("curl").args(["--silent", "--show-error", "--write-out", "\n%{http_code}", "--request", method]);
        let call = call.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        let call = call.args(["--header", "Content-Type: application/json", "--data", body, &format!("{url}{path}")]);
        let output = call.run()?.success()?.stdout;
        let (text, status) = output.rsplit_once('\n').unwrap_or_default();
        let value =
            serde_json::from_str(text).map_err(|error| Trouble::new(format!("{method} {path}: {error}: {text}")))?;
        Ok((status.to_owned(), value))
    };
    let (_, document) = ask("GET", "/api/v1/openapi.json", "")?;
    const EXPORT: &str = "/api/v1/exports/{name}";
    const RESIZE: &str = "/api/v1/exports/{name}/resize";
    for Asked(method, path, at, body, expected) in [
        Asked("POST", RESIZE, "/api/v1/exports/own/resize", "{\"size\": \"12MiB\"}", "200"),
        Asked("POST", "/api/v1/exports/{name}/publish", "/api/v1/exports/own/publish", "", "200"),
        Asked("POST", RESIZE, "/api/v1/exports/own/resize", "{\"size\": 1073741824}", "409"),
        Asked("POST", RESIZE, "/api/v1/exports/own/resize", "{}", "400"),
        Asked("POST", RESIZE, "/api/v1/exports/none/resize", "{\"size\": 1}", "404"),
        Asked("DELETE", "/api/v1/exports/{name}/jobs/{job}", "/api/v1/exports/own/jobs/1", "", "409"),
        Asked("PATCH", "/api/v1/tenants/{name}", "/api/v1/tenants/blue", "{\"quota\": \"128MiB\"}", "200"),
        Asked("PATCH", "/api/v1/tenants/{name}", "/api/v1/tenants/none", "{\"quota\": null}", "404"),
        Asked("POST", "/api/v1/exports/{name}/settle", "/api/v1/exports/own/settle", "{\"zero\": true}", "409"),
        Asked("POST", "/api/v1/ledger/reconcile", "/api/v1/ledger/reconcile", "{\"apply\": false}", "200"),
        Asked("POST", "/api/v1/reload", "/api/v1/reload", "", "200"),
        Asked("GET", "/api/v1/exports", "/api/v1/exports", "", "200"),
        Asked("GET", EXPORT, "/api/v1/exports/far", "", "200"),
        Asked("GET", EXPORT, "/api/v1/exports/own", "", "200"),
        Asked("GET", EXPORT, "/api/v1/exports/none", "", "404"),
        Asked("GET", "/api/v1/tenants", "/api/v1/tenants", "", "200"),
        Asked("GET", "/api/v1/sessions", "/api/v1/sessions", "", "200"),
        Asked("POST", RESIZE, "/api/v1/exports/gone/resize", "{\"size\": 1}", "503"),
        Asked("GET", "/api/v1/unopened", "/api/v1/unopened", "", "200"),
        Asked("GET", "/api/v1/events", "/api/v1/events", "", "200"),
        Asked("GET", "/api/v1/events", "/api/v1/events?after=soon", "", "400"),
        Asked("GET", "/api/v1/events", "/api/v1/events?color=red", "", "400"),
        Asked("POST", "/api/v1/drain", "/api/v1/drain", "", "202"),
    ] {
        let (status, value) = ask(method, at, body)?;
        let about = format!("{method} {at}: {status} {value}");
        ensure(status == expected, || about.clone())?;
        // Where there is a list there is something in it.
        ensure(value.as_array().is_none_or(|list| !list.is_empty()), || about.clone())?;
        let schema = &document["paths"][path][method.to_lowercase()]["responses"][&status]["content"]["application/json"]
            ["schema"];
        ensure(schema.is_object(), || format!("the document has nothing of {about}"))?;
        fits(&document, schema, &value, &about)?;
    }
    drop(clients);
    gateway.await_end()
}

#[test]
fn a_field_that_is_not_told_of_would_be_noticed() {
    let schema =
        serde_json::json!({ "type": "object", "required": ["a"], "properties": { "a": { "type": "integer" } } });
    let fits = |value: Value| fits(&Value::Null, &schema, &value, "").is_ok();
    assert!(fits(serde_json::json!({ "a": 1 })));
    for wrong in [serde_json::json!({}), serde_json::json!({ "a": "1" }), serde_json::json!({ "a": 1, "b": 2 })] {
        assert!(!fits(wrong));
    }
}
