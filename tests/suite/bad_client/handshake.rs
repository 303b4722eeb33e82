//! Options that lie, that nobody knows, or that never come.

use super::Scene;
use crate::scripted::numbers::{info, opt, rep};
use crate::scripted::{Framing, Link, RawClient, go_request, meta_request, option_bytes};
use crate::trouble::{Trouble, ensure};

#[test]
fn an_unknown_option_is_unsupported_and_the_negotiation_goes_on() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    for option in [4, 5000, u32::MAX] {
        assert_eq!(client.verdict(option, b"whatever")?, rep::ERR_UNSUP, "option {option}");
    }
    client.go("disk")?;
    client.leave()?;
    scene.finish()
}

#[test]
fn an_unknown_export_is_refused_and_the_negotiation_goes_on() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    for option in [opt::INFO, opt::GO] {
        assert_eq!(client.verdict(option, &go_request("nonesuch", &[]))?, rep::ERR_UNKNOWN);
    }
    // A name of the longest length that there is may be asked for.
    assert_eq!(client.verdict(opt::GO, &go_request(&"n".repeat(4096), &[]))?, rep::ERR_UNKNOWN);
    client.go("disk")?;
    client.leave()?;
    scene.finish()
}

#[test]
fn export_name_of_an_unknown_export_ends_the_connection() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    client.option(opt::EXPORT_NAME, b"nonesuch")?;
    client.link().await_close()?;
    scene.finish()
}

#[test]
fn inner_lengths_that_disagree_with_the_outer_one_are_invalid_and_the_negotiation_goes_on() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    client.upgrade(Framing::Structured)?;
    let name_too_long = [&u32::MAX.to_be_bytes()[..], b"disk", &[0, 0]].concat();
    let name_past_the_end = [&5_u32.to_be_bytes()[..], b"disk", &[0, 0]].concat();
    let mut more_infos = go_request("disk", &[info::BLOCK_SIZE]);
    more_infos[8..10].copy_from_slice(&u16::MAX.to_be_bytes());
    let left_over = [go_request("disk", &[]), vec![0]].concat();
    let mut more_queries = meta_request("disk", &["base:allocation"]);
    more_queries[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut longer_query = meta_request("disk", &["base:allocation"]);
    longer_query[12..16].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    let cases: &[(u32, &[u8])] = &[
        (opt::GO, &[]),
        (opt::GO, &[0, 0]),
        (opt::GO, &name_too_long),
        (opt::GO, &name_past_the_end),
        (opt::GO, &more_infos),
        (opt::GO, &left_over),
        (opt::INFO, &name_too_long),
        (opt::INFO, &more_infos),
        (opt::SET_META_CONTEXT, &[]),
        (opt::SET_META_CONTEXT, &name_too_long),
        (opt::SET_META_CONTEXT, &more_queries),
        (opt::SET_META_CONTEXT, &longer_query),
        (opt::LIST_META_CONTEXT, &more_queries),
        (opt::LIST_META_CONTEXT, &longer_query),
        (opt::LIST, b"surplus"),
        (opt::STRUCTURED_REPLY, b"surplus"),
        (opt::EXTENDED_HEADERS, b"surplus"),
    ];
    for (option, data) in cases {
        let verdict = client.verdict(*option, data)?;
        ensure(matches!(verdict, rep::ERR_INVALID | rep::ERR_TOO_BIG), || {
            format!("option {option} with {data:02x?} got {verdict:#x}")
        })?;
    }
    client.go("disk")?;
    client.leave()?;
    scene.finish()
}

#[test]
fn an_option_that_claims_four_gigabytes_costs_no_memory_and_ends() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    for option in [opt::EXPORT_NAME, opt::ABORT, opt::LIST, opt::INFO, opt::GO, opt::SET_META_CONTEXT, 77] {
        let mut client = RawClient::connect(scene.socket())?;
        client.link().send(&option_bytes(option, u32::MAX, b"a little"))?;
        client.link().await_close()?;
    }
    scene.finish()
}

#[test]
fn an_option_without_its_magic_number_ends_the_connection() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    let mut bytes = option_bytes(opt::LIST, 0, &[]);
    bytes[0] ^= 1;
    client.link().send(&bytes)?;
    client.link().await_close()?;
    scene.finish()
}

#[test]
fn unknown_client_flags_end_the_connection() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect_with(scene.socket(), 0x8000_0003)?;
    client.link().await_close()?;
    scene.finish()
}

#[test]
fn a_client_that_speaks_http_is_shown_the_door() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut link = Link::dial(scene.socket())?;
    link.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    link.await_close()?;
    scene.finish()
}

#[test]
fn a_client_that_says_nothing_is_let_go_at_the_handshake_deadline() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut silent = Link::dial(scene.socket())?;
    let mut half = RawClient::connect(scene.socket())?;
    half.upgrade(Framing::Structured)?;
    silent.await_close()?;
    half.link().await_close()?;
    scene.finish()
}

#[test]
fn contexts_before_structured_replies_are_refused() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    let verdict = client.verdict(opt::SET_META_CONTEXT, &meta_request("disk", &["base:allocation"]))?;
    assert_eq!(verdict, rep::ERR_INVALID);
    client.go("disk")?;
    client.leave()?;
    scene.finish()
}

#[test]
fn abort_is_acknowledged_and_the_connection_ends() -> Result<(), Trouble> {
    let scene = Scene::new()?;
    let mut client = RawClient::connect(scene.socket())?;
    assert_eq!(client.verdict(opt::ABORT, &[])?, rep::ACK);
    client.link().await_close()?;
    scene.finish()
}
