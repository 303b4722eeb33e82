//! Promise: a stock client that writes past the size that it knows is cut after the grow; one that connects again, as qemu
//! with `reconnect-delay` does, notices nothing, and one that does not is cut once.

use crate::client::run_python;
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::place::Place;
use crate::process::{Call, Output};
use crate::recipe::Recipe;
use crate::trouble::{Trouble, ensure};

/// A disk of 1 MiB that grows by 4 MiB, in front of which nobody sees a ceiling.
fn start(place: &Place, tenant: &str) -> Result<Gateway, Trouble> {
    let keys = "size = \"1MiB\"\n[export.resize]\nautomatic = \"reconnect\"\nstep = \"4MiB\"\n";
    let owner = if tenant.is_empty() { "" } else { "tenant = \"t\"\n" };
    let disk = export("d", &format!("file:{}", place.path("d.img").display()), &format!("{owner}{keys}"));
    Gateway::start(&format!("{tenant}{disk}"))
}

fn options(gateway: &Gateway, delay: u32) -> String {
    let socket = gateway.socket().display();
    format!(
        "driver=qcow2,file.driver=nbd,file.server.type=unix,file.server.path={socket},file.export=d,file.reconnect-delay={delay}"
    )
}

fn qemu_io(gateway: &Gateway, delay: u32, commands: &[&str]) -> Result<Output, Trouble> {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    Call::new("qemu-io").arg("--image-opts").args(commands).arg(options(gateway, delay)).run()
}

fn qemu_img(words: &[&str]) -> Result<(), Trouble> {
    Call::new("qemu-img").args(words).run()?.success().map(|_| ())
}

#[test]
fn qcow2_grows_under_a_qemu_that_comes_back() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = start(&place, "")?;
    let uri = gateway.uri("d");
    qemu_img(&["create", "-f", "qcow2", &uri, "1G"])?;
    let mut commands: Vec<String> = (0..10).map(|n| format!("write -P {} {}M 4M", n + 1, n * 4)).collect();
    commands.extend((0..10).map(|n| format!("read -P {} {}M 4M", n + 1, n * 4)));
    commands.extend((0..4).map(|n| format!("aio_write -P {} {}M 4M", n + 20, 100 + n * 8)));
    commands.push("aio_flush".to_owned());
    commands.extend((0..4).map(|n| format!("read -P {} {}M 4M", n + 20, 100 + n * 8)));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let output = qemu_io(&gateway, 10, &commands)?.success()?;
    let told = output.stdout + &output.stderr;
    ensure(!told.contains("failed") && !told.contains("rror"), || format!("qemu-io says {told}"))?;
    qemu_img(&["check", "-f", "qcow2", &uri])?;
    let log = gateway.log();
    ensure(
        gateway.metric("nbd_gateway_resize_requests_total", &["style=\"automatic\"", "result=\"ok\""])? >= 10.0,
        || format!("few grows: {log}"),
    )?;
    let file = place.path("d.img").display().to_string();
    qemu_img(&["check", "-U", "-f", "qcow2", &file])?;
    gateway.end()
}

#[test]
fn a_disk_is_converted_into_an_image_that_grows() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = start(&place, "")?;
    let uri = gateway.uri("d");
    let raw = place.path("source.raw");
    Image::full(12).write_to(&raw)?;
    let raw = raw.display().to_string();
    qemu_img(&["create", "-f", "qcow2", &uri, "64M"])?;
    qemu_img(&["convert", "-n", "-f", "raw", "--target-image-opts", &raw, &options(&gateway, 10)])?;
    qemu_img(&["check", "-f", "qcow2", &uri])?;
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &raw, &uri])?;
    gateway.end()
}

#[test]
fn a_qemu_that_does_not_come_back_is_told_an_error_and_nobody_is_harmed() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = start(&place, "")?;
    let uri = gateway.uri("d");
    qemu_img(&["create", "-f", "qcow2", &uri, "1G"])?;
    let output = qemu_io(&gateway, 0, &["write -P 1 0 8M"])?;
    let told = output.stdout + &output.stderr;
    ensure(told.contains("rror"), || format!("qemu-io says {told}"))?;
    // Another process, which comes back.
    qemu_io(&gateway, 10, &["write -P 2 0 8M", "read -P 2 0 8M"])?.success()?;
    qemu_img(&["check", "-r", "leaks", "-f", "qcow2", &uri])?;
    gateway.end()
}

#[test]
fn a_full_quota_is_no_space_left_and_no_cut() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = start(&place, "[[tenant]]\nname = \"t\"\nquota = \"6MiB\"\n")?;
    let uri = gateway.uri("d");
    qemu_img(&["create", "-f", "qcow2", &uri, "1G"])?;
    let told = qemu_io(&gateway, 10, &["write -P 1 0 4M", "write -P 2 8M 8M", "read -P 1 0 4M"])?;
    ensure(told.stdout.contains("No space left on device"), || format!("qemu-io says {}", told.stdout))?;
    ensure(std::fs::metadata(place.path("d.img"))?.len() <= 6 << 20, || "more than the quota".into())?;
    gateway.end()
}

#[test]
fn a_client_of_libnbd_that_never_sends_its_write_again_is_cut_once() -> Result<(), Trouble> {
    let place = Place::fresh()?;
    let gateway = start(&place, "")?;
    run_python("reconnect/never_again.py", &[gateway.uri("d")])?.success()?;
    gateway.end()
}

#[test]
fn qcow2_grows_as_the_readme_says() -> Result<(), Trouble> {
    let said = Recipe::named("reconnect")?.run("/tmp/nbd-reconnect")?;
    ensure(said.contains("read 100663296/100663296") && !said.contains("failed"), || format!("it did not: {said}"))
}
