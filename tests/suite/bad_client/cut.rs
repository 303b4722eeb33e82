//! Every message of a client cut at every byte.

use super::Scene;
use crate::scripted::backend::Backend;
use crate::scripted::numbers::{cmd, cmd_flag, info, opt};
use crate::scripted::{Ask, Framing, Link, go_request, meta_request, option_bytes};
use crate::trouble::{Trouble, ensure};

#[test]
fn a_conversation_cut_at_any_byte_ends_and_half_a_write_is_never_written() -> Result<(), Trouble> {
    let mut scene = Scene::new()?;
    let before = Backend::content().bytes().to_vec();
    for framing in Framing::ALL {
        let (bytes, write_ends) = conversation(framing);
        for cut in 0..bytes.len() {
            let mut link = Link::dial(scene.socket())?;
            link.send(&bytes[..cut])?;
            link.finish_sending()?;
            link.await_close().map_err(|trouble| {
                Trouble::new(format!("a {framing:?} conversation cut at byte {cut} of {}", bytes.len())).with(trouble)
            })?;
            if cut < write_ends {
                ensure(scene.backend.story(|story| story.disk == before), || {
                    format!("a WRITE that ends at byte {write_ends} and was cut at {cut} reached the disk")
                })?;
            }
        }
        scene.backend.await_that("the whole WRITE", |story| story.disk[512..1024] == [0xcc; 512])?;
        // A read behind the last write on the same lane: nothing is under way any more.
        scene.witness.read(0, 512)?;
        scene.backend.restore();
    }
    scene.finish()
}

/// A whole session as one run of bytes, and where its WRITE ends.
fn conversation(framing: Framing) -> (Vec<u8>, usize) {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    let mut option = |option: u32, data: &[u8]| bytes.extend(option_bytes(option, data.len() as u32, data));
    option(opt::LIST, &[]);
    match framing {
        Framing::Simple => {}
        Framing::Structured => option(opt::STRUCTURED_REPLY, &[]),
        Framing::Extended => option(opt::EXTENDED_HEADERS, &[]),
    }
    if framing != Framing::Simple {
        option(opt::LIST_META_CONTEXT, &meta_request("disk", &["base:"]));
        option(opt::SET_META_CONTEXT, &meta_request("disk", &["base:allocation"]));
    }
    option(opt::INFO, &go_request("disk", &[info::BLOCK_SIZE]));
    option(opt::GO, &go_request("disk", &[]));
    let payload_flag = if framing == Framing::Extended { cmd_flag::PAYLOAD_LEN } else { 0 };
    let request = |flags, command, cookie, length| Ask { flags, command, cookie, offset: 512, length }.encode(framing);
    bytes.extend(request(payload_flag, cmd::WRITE, 1, 512));
    bytes.extend([0xcc; 512]);
    let write_ends = bytes.len();
    bytes.extend(request(0, cmd::READ, 2, 512));
    if framing != Framing::Simple {
        bytes.extend(request(0, cmd::BLOCK_STATUS, 3, 4096));
    }
    bytes.extend(Ask { command: cmd::FLUSH, cookie: 4, ..Ask::default() }.encode(framing));
    bytes.extend(Ask { command: cmd::DISC, cookie: 5, ..Ask::default() }.encode(framing));
    (bytes, write_ends)
}
