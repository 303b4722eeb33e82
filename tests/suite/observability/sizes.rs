//! What the gauges say of an export whose size, or whose last resize, is not as it should be.

use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::scripted::backend::{Backend, Fault, Resizing, Script};
use crate::scripted::{Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

const EXPLICIT: u16 = 1;
const QUERY: u16 = 1 << 2;
const ZEROED: u16 = 1 << 5;

/// The export `vm` in front of a backend that speaks the extension, looked at ten times a second.
///
/// What is never answered is waited for all of `timeout`; the rest has it on a busy machine.
fn scene(fault: Option<Fault>, more: &str) -> Result<(Backend, Gateway, RawClient), Trouble> {
    let resizing = Resizing::Native { features: EXPLICIT | QUERY | ZEROED };
    let backend = Backend::start(Script { fault, resizing, ..Script::default() })?;
    let timeout = if fault.is_some() { "2s" } else { "30s" };
    let keys = format!("[export.resize]\ntimeout = {timeout:?}\npoll = \"100ms\"\n{more}");
    let gateway = Gateway::start(&export("vm", &backend.uri(), &keys))?.expecting_warnings();
    let (client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    Ok((backend, gateway, client))
}

fn says(gateway: &Gateway, name: &str, labels: &[&str], value: f64) -> Result<(), Trouble> {
    let name = format!("nbd_gateway_{name}");
    eventually(&format!("{name} is {value}"), || gateway.metric(&name, labels).is_ok_and(|now| now == value))
}

#[test]
fn a_resize_that_nobody_answers_is_told_as_unsettled_until_it_is_known() -> Result<(), Trouble> {
    let (backend, gateway, client) = scene(Some(Fault::ResizeLate), "")?;
    let vm = ["export=\"vm\""];
    says(&gateway, "export_unsettled", &vm, 0.0)?;
    ensure(!gateway.operator(&["resize", "vm", "+1MiB"])?.run()?.status.success(), || "it was done".into())?;
    says(&gateway, "export_unsettled", &vm, 1.0)?;
    says(&gateway, "resize_requests_total", &["style=\"operator\"", "result=\"unsettled\""], 1.0)?;
    says(&gateway, "resize_duration_seconds_count", &["driver=\"wire\"", "result=\"unsettled\""], 1.0)?;
    let took = gateway.metric("nbd_gateway_resize_duration_seconds_sum", &["result=\"unsettled\""])?;
    ensure(took >= 2.0, || format!("a timeout of 2 s took {took} s"))?;
    backend.land();
    says(&gateway, "export_unsettled", &vm, 0.0)?;
    client.leave()?;
    gateway.end()
}

#[test]
fn what_another_hand_added_and_is_not_shown_is_drift_until_it_is_published() -> Result<(), Trouble> {
    let (backend, gateway, client) = scene(None, "external = \"manual\"")?;
    let vm = ["export=\"vm\""];
    says(&gateway, "size_drift_bytes", &vm, 0.0)?;
    backend.meddle(|bytes| bytes.resize(bytes.len() + 4096, 0));
    says(&gateway, "size_drift_bytes", &vm, 4096.0)?;
    gateway.operator(&["publish", "vm"])?.run()?.success()?;
    says(&gateway, "size_drift_bytes", &vm, 0.0)?;
    says(&gateway, "resize_duration_seconds_count", &["driver=\"wire\"", "result=\"ok\""], 1.0)?;
    client.leave()?;
    gateway.end()
}

#[test]
fn what_another_hand_added_and_clients_see_is_a_resize_of_the_backends() -> Result<(), Trouble> {
    let (backend, gateway, client) = scene(None, "")?;
    let by_the_backend = ["export=\"vm\"", "style=\"backend\"", "result=\"ok\""];
    says(&gateway, "resize_requests_total", &by_the_backend, 0.0)?;
    let size = gateway.metric("nbd_gateway_export_size_bytes", &["export=\"vm\""])?;
    backend.meddle(|bytes| bytes.resize(bytes.len() + 4096, 0));
    says(&gateway, "export_size_bytes", &["export=\"vm\""], size + 4096.0)?;
    says(&gateway, "resize_requests_total", &by_the_backend, 1.0)?;
    // Each is counted once, and an operator's own is none.
    gateway.operator(&["resize", "vm", "+1MiB"])?.run()?.success()?;
    backend.meddle(|bytes| bytes.resize(bytes.len() + 4096, 0));
    says(&gateway, "resize_requests_total", &by_the_backend, 2.0)?;
    client.leave()?;
    gateway.end()
}

#[test]
fn lost_bytes_are_drift_below_nothing_and_a_quarantine_until_they_are_back() -> Result<(), Trouble> {
    let (backend, gateway, client) = scene(None, "")?;
    let (gateway, vm) = (gateway.expecting_errors(), ["export=\"vm\""]);
    let mut lost = Vec::new();
    backend.meddle(|bytes| lost = bytes.split_off(bytes.len() - 8192));
    says(&gateway, "export_quarantined", &vm, 1.0)?;
    says(&gateway, "size_drift_bytes", &vm, -8192.0)?;
    backend.meddle(|bytes| bytes.append(&mut lost));
    says(&gateway, "export_quarantined", &vm, 0.0)?;
    says(&gateway, "size_drift_bytes", &vm, 0.0)?;
    client.leave()?;
    gateway.end()
}

#[test]
fn an_export_is_open_from_its_first_client_to_its_idle_time_and_a_failure_is_counted() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let place = Place::fresh()?;
    let nobody = format!("nbd+unix:///?socket={}", place.path("nobody").display());
    let tables = export("vm", &backend.uri(), "idle-timeout = \"0s\"")
        + &export("gone", &nobody, "")
        + &export("any/*", &nobody.replace(":///", ":///{}"), "");
    let gateway = Gateway::start(&tables)?.expecting_warnings();
    for export in ["vm", "gone"] {
        says(&gateway, "export_open", &[&format!("export=\"{export}\"")], 0.0)?;
    }
    let (client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    says(&gateway, "export_open", &["export=\"vm\""], 1.0)?;
    client.leave()?;
    says(&gateway, "export_open", &["export=\"vm\""], 0.0)?;
    for (export, counted) in [("gone", "gone"), ("any/name", "any/*")] {
        let uri = gateway.uri(export);
        ensure(!Call::new("nbdinfo").arg(uri).run()?.status.success(), || format!("{export} was opened"))?;
        let failed = gateway.metric("nbd_gateway_export_open_failures_total", &[&format!("export=\"{counted}\"")])?;
        ensure(failed >= 1.0, || format!("{failed} failures of {export}"))?;
    }
    gateway.end()
}

#[test]
fn names_that_clients_make_up_have_no_series_once_they_are_closed() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let uri = backend.uri().replace(":///", ":///{}");
    let gateway = Gateway::start(&export("t/*", &uri, "idle-timeout = \"0s\""))?;
    let open = |name: &str| gateway.metric("nbd_gateway_export_open", &[&format!("export=\"{name}\"")]);
    for name in ["t/1", "t/2", "t/3"] {
        let (client, _) = RawClient::open(gateway.socket(), name, Framing::Structured)?;
        assert_eq!(open(name)?, 1.0);
        client.leave()?;
        eventually("its series are gone", || open(name).is_err())?;
    }
    gateway.end()
}
