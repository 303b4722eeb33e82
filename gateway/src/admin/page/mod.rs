//! The page at `/`: files that are part of the program and hold no data, so anyone may have them. What they show they ask
//! for like everybody else, with the token where that is needed.
//!
//! They are as they stand in this directory: there is no build step. The policy sent along lets them load and reach nothing
//! but this interface, forbids script and style inside the document, and makes a text of a client's that would become markup
//! an error.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::refuse;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// Name, type and content of what the page is made of.
const PARTS: [(&str, &str, &str); 16] = [
    ("icon.svg", PICTURE, include_str!("icon.svg")),
    ("look.css", CSS, include_str!("look.css")),
    ("parts.css", CSS, include_str!("parts.css")),
    ("phone.css", CSS, include_str!("phone.css")),
    ("ask.js", SCRIPT, include_str!("ask.js")),
    ("detail.js", SCRIPT, include_str!("detail.js")),
    ("events.js", SCRIPT, include_str!("events.js")),
    ("exports.js", SCRIPT, include_str!("exports.js")),
    ("glance.js", SCRIPT, include_str!("glance.js")),
    ("make.js", SCRIPT, include_str!("make.js")),
    ("order.js", SCRIPT, include_str!("order.js")),
    ("page.js", SCRIPT, include_str!("page.js")),
    ("plot.js", SCRIPT, include_str!("plot.js")),
    ("sessions.js", SCRIPT, include_str!("sessions.js")),
    ("tenants.js", SCRIPT, include_str!("tenants.js")),
    ("words.js", SCRIPT, include_str!("words.js")),
];

/// What a browser lets the page do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

pub(super) async fn document(headers: HeaderMap) -> Response {
    send(&headers, HTML, include_str!("index.html"))
}

/// A file that the document names.
pub(super) async fn part(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match PARTS.iter().find(|(part, ..)| *part == name) {
        Some((_, kind, content)) => send(&headers, kind, content),
        None => refuse(StatusCode::NOT_FOUND, format!("the page has no part {name:?}")).into_response(),
    }
}

/// The file, or that it is still the one that the browser has.
fn send(headers: &HeaderMap, kind: &'static str, content: &'static str) -> Response {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|had| had.as_bytes() == tag.as_bytes());
    let about = [
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        // Asked for again each time, so that a page is never older than the gateway that it shows.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::ETAG, tag),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, kind)], content).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::to_bytes;

    use super::*;

    /// What stands in quotes after `before` in a text.
    fn named(text: &str, before: &str) -> BTreeSet<String> {
        text.split(before).skip(1).filter_map(|rest| rest.split(['"', '\'']).next()).map(str::to_owned).collect()
    }

    #[test]
    fn every_part_is_asked_for_and_all_that_is_asked_for_is_a_part() {
        let mut asked = named(include_str!("index.html"), "=\"/page/");
        for (_, _, content) in PARTS.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            asked.extend(named(content, " from './"));
        }
        let parts: BTreeSet<_> = PARTS.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(asked, parts);
    }

    /// The policy would stop these, and then the page would be less than it is.
    #[test]
    fn nothing_is_named_that_the_policy_forbids() {
        let html = include_str!("index.html");
        for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:", "http:", "https:"] {
            assert!(!html.contains(forbidden), "index.html has {forbidden}");
        }
        for (name, _, content) in PARTS {
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https:"] {
                assert!(!content.contains(forbidden), "{name} has {forbidden}");
            }
        }
    }

    #[tokio::test]
    async fn a_browser_that_has_a_part_is_not_sent_it_again() {
        let first = part(Path("page.js".to_owned()), HeaderMap::new()).await;
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].clone();
        assert!(!to_bytes(first.into_body(), usize::MAX).await.unwrap().is_empty());
        let again = |tag| part(Path("page.js".to_owned()), HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]));
        let same = again(tag).await;
        assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
        assert!(same.headers().contains_key(header::CONTENT_SECURITY_POLICY));
        assert!(to_bytes(same.into_body(), usize::MAX).await.unwrap().is_empty());
        assert_eq!(again("\"other\"".parse().unwrap()).await.status(), StatusCode::OK);
        assert_eq!(part(Path("mod.rs".to_owned()), HeaderMap::new()).await.status(), StatusCode::NOT_FOUND);
    }
}
