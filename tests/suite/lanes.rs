//! Promise: several connections to one backend are used where it allows them, and nobody can tell, least of all by a FLUSH.

use std::fs;

use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::{Server, nbdkit};
use crate::process::Call;
use crate::scripted::numbers::{cmd, flag};
use crate::scripted::{Ask, Framing, RawClient};
use crate::trouble::{Trouble, ensure, eventually};

#[test]
fn nbdkit_gets_as_many_connections_as_lanes_if_it_allows_them_else_one_and_a_warning() -> Result<(), Trouble> {
    for (mode, connections) in [("auto", 4), ("disable", 1)] {
        let place = crate::place::Place::fresh()?;
        let log = place.path("connections");
        let mode = format!("multi-conn-mode={mode}");
        let logfile = format!("logfile={}", log.display());
        let flags = ["--filter=log", "--filter=multi-conn"];
        let served = nbdkit(&flags, &["memory", "8M", &mode, &logfile], &Image::sparse(2))?;
        // Its image came in over connections of its own.
        let opened = || -> Result<usize, Trouble> { Ok(fs::read_to_string(&log)?.matches(" Connect ").count()) };
        let before = opened()?;
        let mut gateway = Gateway::start(&export("vm", &served.uri(), "lanes = 4"))?;
        if connections == 1 {
            gateway = gateway.expecting_warnings();
        }
        let uri = format!("nbd+unix:///vm?socket={}", gateway.socket().display());
        let copy = place.path("copy");
        Call::new("nbdcopy").args(["--connections=4", &uri]).arg(&copy).run()?.success()?;
        Image::sparse(2).expect_same(&Image::read_from(&copy)?, "the copy")?;
        let source = place.path("source");
        Image::full(3).write_to(&source)?;
        Call::new("nbdcopy").args(["--connections=4", "--flush"]).arg(&source).arg(&uri).run()?.success()?;
        Call::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&source).arg(&uri).run()?.success()?;
        assert_eq!(opened()? - before, connections, "{mode}");
        let warned = gateway.log().contains("one is used");
        assert_eq!(warned, connections == 1, "{mode}");
        // With one lane a FLUSH covers all sessions whatever the server says of its own connections.
        let (client, told) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
        assert_ne!(told.flags & flag::MULTI_CONN, 0, "{mode}");
        client.leave()?;
        gateway.end()?;
    }
    Ok(())
}

/// qcow2 keeps its tables in the server's memory until a FLUSH: what was not flushed is gone with the process.
#[test]
fn what_one_session_wrote_and_another_flushed_outlives_the_servers_death() -> Result<(), Trouble> {
    for lanes in [1, 4] {
        let mut served = Server::QemuNbdQcow2.start(&Image::sparse(6))?;
        let gateway = Gateway::start(&export("vm", &served.uri(), &format!("lanes = {lanes}")))?.expecting_warnings();
        let mut expected = Image::sparse(6);
        let mut sessions = Vec::new();
        for index in 0..8_usize {
            // One for each, in holes of the image, so that the tables have to change.
            let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::ALL[index % 3])?;
            let offset = (100 + index) << 16;
            client.write(offset as u64, &[0xc0 | index as u8; 4096])?.success()?;
            expected.put(offset, 4096, 0xc0 | index as u8);
            sessions.push(client);
        }
        sessions[3].ask(Ask { command: cmd::FLUSH, cookie: 1, ..Ask::default() }, &[])?.success()?;
        served.kill()?;
        expected.expect_same(&served.content()?, &format!("the disk after {lanes} lane(s)"))?;
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn fua_alone_outlives_the_servers_death() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdQcow2.start(&Image::sparse(6))?;
    let gateway = Gateway::start(&export("vm", &served.uri(), ""))?.expecting_warnings();
    let (mut client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let fua = crate::scripted::numbers::cmd_flag::FUA;
    let ask = Ask { command: cmd::WRITE, flags: fua, cookie: 1, offset: 110 << 16, length: 4096 };
    client.ask(ask, &[0xfa; 4096])?.success()?;
    served.kill()?;
    let mut expected = Image::sparse(6);
    expected.put(110 << 16, 4096, 0xfa);
    expected.expect_same(&served.content()?, "the disk")?;
    gateway.end()
}

#[test]
fn an_operator_sees_each_connection_and_whether_the_backend_can_be_used() -> Result<(), Trouble> {
    let mut served = Server::QemuNbdShared.start(&Image::sparse(1))?;
    let waiting = export("vm", &served.uri(), "lanes = 2\non-backend-loss = { hold = \"30s\", durable = true }");
    let mut gateway = Gateway::start(&waiting)?.expecting_warnings();
    let (client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    let look = |gateway: &Gateway| -> Result<serde_json::Value, Trouble> {
        Ok(serde_json::from_str(&gateway.operator(&["exports", "vm", "--json"])?.run()?.success()?.stdout)?)
    };
    let health = |gateway: &Gateway, state: &str, says: &str| -> Result<(), Trouble> {
        eventually(state, || {
            look(gateway).is_ok_and(|export| {
                let told = |key: &str| export["health"][key].as_str().unwrap_or_default().to_owned();
                told("state") == state && told("says").contains(says)
            })
        })
    };
    health(&gateway, "up", "its connections are up")?;
    let lanes = look(&gateway)?["lanes"].as_array().cloned().unwrap_or_default();
    assert_eq!(lanes.len(), 2);
    for (number, lane) in (0..).zip(&lanes) {
        assert_eq!((lane["number"].as_u64(), lane["up"].as_bool()), (Some(number), Some(true)), "{lane}");
        assert_eq!((lane["reconnects"].as_u64(), lane["in_flight"].as_u64()), (Some(0), Some(0)), "{lane}");
        assert_eq!(lane["backend"].as_str(), Some(served.uri().as_str()), "{lane}");
        assert_eq!(lane.get("last_error"), None, "{lane}");
    }
    served.kill()?;
    health(&gateway, "degraded", "requests wait for the backend to come back: ")?;
    let shown = gateway.operator(&["exports"])?.run()?.success()?.stdout;
    ensure(shown.contains("  degraded  ") && shown.contains("\nvm: requests wait for the backend"), || shown.clone())?;
    let shown = gateway.operator(&["exports", "vm"])?.run()?.success()?.stdout;
    for part in ["\nhealth       degraded\n", "LANE  STATE  SINCE (UTC) ", "   0  away   2", "   1  away   2"] {
        ensure(shown.contains(part), || shown.clone())?;
    }
    served.start_again()?;
    health(&gateway, "up", "its connections are up")?;
    for lane in look(&gateway)?["lanes"].as_array().into_iter().flatten() {
        assert_eq!(lane["reconnects"].as_u64(), Some(1), "{lane}");
        ensure(lane["last_error"].is_string(), || format!("nothing of what happened: {lane}"))?;
    }
    client.leave()?;
    gateway.signal(rustix::process::Signal::TERM);
    gateway.await_end()?;

    let failing = export("vm", &served.uri(), "on-backend-loss = \"error\"");
    let gateway = Gateway::start(&failing)?.expecting_warnings();
    let (client, _) = RawClient::open(gateway.socket(), "vm", Framing::Structured)?;
    health(&gateway, "up", "its connection is up")?;
    served.kill()?;
    health(&gateway, "down", "requests fail until the backend is back: ")?;
    drop(client);
    gateway.end()
}
