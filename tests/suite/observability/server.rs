//! A Prometheus of one's own: its data in a fresh place, on a port that the kernel picks, asked by its HTTP interface.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde_json::Value;

use crate::place::Place;
use crate::process::{Call, Running, installed};
use crate::trouble::{Trouble, ensure};

pub(super) struct Prometheus {
    process: Running,
    url: String,
    _place: Place,
}

impl Prometheus {
    /// With this configuration; ready.
    pub(super) fn start(place: Place, config: &str) -> Result<Self, Trouble> {
        fs::write(place.path("prometheus.yml"), config)?;
        let arguments = [
            format!("--config.file={}", place.path("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", place.path("data").display()),
            "--web.listen-address=127.0.0.1:0".to_owned(),
        ];
        let mut process = Running::start(&installed("prometheus")?, arguments, place.path("prometheus.log"))?;
        // It shares the borrow of its log with the look at its readiness.
        let log = place.path("prometheus.log");
        let address = || -> Option<String> {
            let log = fs::read_to_string(&log).ok()?;
            log.contains("Server is ready to receive web requests").then_some(())?;
            Some(log.split_once("msg=\"Listening on\" address=")?.1.split_whitespace().next()?.to_owned())
        };
        process.await_ready("being ready", || address().is_some())?;
        let address = address().ok_or_else(|| process.trouble("told no address"))?;
        Ok(Self { process, url: format!("http://{address}"), _place: place })
    }

    fn ask(&self, path: &str, query: Option<&str>) -> Result<Value, Trouble> {
        let call = Call::new("curl").args(["--silent", "--show-error", "--get"]);
        let call = match query {
            Some(query) => call.args(["--data-urlencode", &format!("query={query}")]),
            None => call,
        };
        let answer: Value = serde_json::from_str(&call.arg(self.url.clone() + path).run()?.success()?.stdout)?;
        ensure(answer["status"] == "success", || format!("Prometheus refuses {}: {answer}", query.unwrap_or(path)))?;
        Ok(answer["data"].clone())
    }

    /// Whether a query has an answer now, with a number in it. A query that is none is trouble.
    pub(super) fn knows(&self, query: &str) -> Result<bool, Trouble> {
        let data = self.ask("/api/v1/query", Some(query))?;
        let is_number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
        Ok(data["result"].as_array().is_some_and(|series| series.iter().any(is_number)))
    }

    pub(super) fn rules(&self) -> Result<Vec<Value>, Trouble> {
        let data = self.ask("/api/v1/rules", None)?;
        Ok(data["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|g| g["rules"].as_array().cloned())
            .flatten()
            .collect())
    }

    /// What it scrapes.
    pub(super) fn targets(&self) -> Result<Vec<Value>, Trouble> {
        let data = self.ask("/api/v1/targets", None)?;
        Ok(data["activeTargets"].as_array().cloned().unwrap_or_default())
    }

    /// Its end, by itself.
    pub(super) fn end(mut self) -> Result<(), Trouble> {
        let status = self.process.stop()?;
        ensure(status.success(), || self.process.trouble(&format!("ended with {status}")).to_string())
    }
}

/// A file that only its owner reads.
pub(super) fn secret(place: &Place, name: &str, text: &str) -> Result<String, Trouble> {
    let path = place.path(name);
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes())?;
    Ok(path.display().to_string())
}
