//! What Prometheus' own tool says: of a page, of the alert rules, and of their unit tests.

use std::fs;

use super::shipped;
use crate::gateway::{Gateway, export};
use crate::place::Place;
use crate::process::Call;
use crate::trouble::{Trouble, ensure};

#[test]
fn promtool_has_nothing_to_say_about_a_page() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = Gateway::start(&export("vm", "memory:", "size = \"1MiB\"\n[[export.notify]]\nexec = [\"true\"]"))?;
    let url = gateway.told("admin on ").to_owned() + "/metrics";
    let page = Call::new("curl").args(["--silent", "--fail", "--show-error", &url]).run()?.success()?.stdout;
    let file = place.path("page");
    fs::write(&file, &page)?;
    let said = Call::new("promtool").args(["check", "metrics"]).reading(&file).run()?.success()?;
    ensure(said.stdout.is_empty() && said.stderr.is_empty(), || said.trouble("should have said nothing").to_string())?;
    gateway.end()
}

#[test]
fn the_alert_rules_are_rules_and_fire_when_their_tests_say() -> Result<(), Trouble> {
    Call::new("promtool").args(["check", "rules"]).arg(shipped("alerts.yml")).run()?.success()?;
    Call::new("promtool").args(["test", "rules"]).arg(shipped("alerts_test.yml")).run()?.success()?;
    Ok(())
}
