//! Metadata contexts: the backend's own, by the names that it gave them, for each client by its own choice.

use crate::client::map_of;
use crate::gateway::{Gateway, export};
use crate::image::Image;
use crate::peer::Server;
use crate::route::Route;
use crate::scripted::backend::{Backend, Script};
use crate::scripted::numbers::{cmd, cmd_flag, opt, rep};
use crate::scripted::{Ask, Framing, RawClient, meta_request};
use crate::trouble::{Trouble, ensure};

const CONTEXTS: &[&str] = &["base:allocation", "qemu:allocation-depth", "x-other:thing"];

#[test]
fn the_contexts_of_qemu_nbd_look_the_same_through_the_gateway() -> Result<(), Trouble> {
    let served = Server::QemuNbdQcow2.start(&Image::sparse(1))?;
    let way = Route::Gateway.open(&served)?;
    let direct = Route::Direct.open(&served)?;
    for context in ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:since"] {
        let without = map_of(&direct.target, context)?;
        ensure(without.as_array().is_some_and(|extents| extents.len() > 2), || {
            format!("{context} shows nothing worth comparing: {without}")
        })?;
        assert_eq!(map_of(&way.target, context)?, without, "{context}");
    }
    way.close()
}

#[test]
fn each_client_chooses_its_own_contexts_over_one_lane() -> Result<(), Trouble> {
    for behind in [Framing::Structured, Framing::Extended] {
        let backend = Backend::start(Script { framing: behind, contexts: CONTEXTS, ..Script::default() })?;
        let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
        for (before, wanted) in [
            (Framing::Structured, &CONTEXTS[1..2]),
            (Framing::Structured, &CONTEXTS[2..]),
            (Framing::Extended, CONTEXTS),
        ] {
            let mut client = RawClient::connect(gateway.socket())?;
            client.upgrade(before)?;
            let given = client.contexts("", wanted)?;
            let names: Vec<_> = given.iter().map(|(_, name)| name.as_str()).collect();
            assert_eq!(names, wanted);
            client.go("")?;
            let ask = Ask { command: cmd::BLOCK_STATUS, cookie: 5, offset: 0, length: 1 << 20, flags: 0 };
            let extents = client.ask(ask, &[])?.success()?.extents;
            assert_eq!(extents.len(), wanted.len(), "{before:?} in front of {behind:?}: {extents:?}");
            for (id, name) in &given {
                // The scripted backend flags the first 64 KiB with its own id of the context: 7 and up.
                let own = 7 + CONTEXTS.iter().position(|context| context == name).unwrap() as u64;
                let found = extents.iter().find(|(of, _)| of == id).map(|(_, extents)| extents.clone());
                assert_eq!(found, Some(vec![(1 << 16, own), ((1 << 20) - (1 << 16), 0)]), "{name}");
            }
            let one = client.ask(Ask { flags: cmd_flag::REQ_ONE, ..ask }, &[])?.success()?.extents;
            assert!(one.iter().all(|(_, extents)| extents.len() == 1), "REQ_ONE gave {one:?}");
            client.leave()?;
        }
        gateway.end()?;
    }
    Ok(())
}

#[test]
fn contexts_are_listed_by_namespace_and_all_at_once() -> Result<(), Trouble> {
    let backend = Backend::start(Script { contexts: CONTEXTS, ..Script::default() })?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let mut client = RawClient::connect(gateway.socket())?;
    client.upgrade(Framing::Structured)?;
    // The gateway's own come after the backend's; growth by writes is not among them: this backend can't grow.
    let own = ["x-resize:size-low", "x-resize:size-high", "x-resize:watch"];
    let all = [CONTEXTS, &own].concat();
    let cases: [(&[&str], &[&str]); 4] =
        [(&[], &all), (&["qemu:"], &CONTEXTS[1..2]), (&["x-resize:"], &own), (&["none:"], &[])];
    for (queries, expected) in cases {
        let answers = client.negotiate(opt::LIST_META_CONTEXT, &meta_request("", queries))?;
        let listed = answers.iter().filter(|answer| answer.kind == rep::META_CONTEXT);
        let names: Vec<_> = listed.map(|answer| String::from_utf8_lossy(&answer.data[4..]).into_owned()).collect();
        assert_eq!(names, expected, "{queries:?}");
    }
    gateway.end()
}

#[test]
fn block_status_without_an_agreed_context_is_refused_in_step() -> Result<(), Trouble> {
    let backend = Backend::start(Script::default())?;
    let gateway = Gateway::start(&export("", &backend.uri(), ""))?;
    let (mut client, _) = RawClient::open(gateway.socket(), "", Framing::Structured)?;
    let reply = client.ask(Ask { command: cmd::BLOCK_STATUS, length: 4096, ..Ask::default() }, &[])?;
    assert_eq!(reply.error, crate::scripted::numbers::errno::EINVAL);
    client.read(0, 512)?;
    gateway.end()
}
