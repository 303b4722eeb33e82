//! Every message of a backend cut at every byte.

use super::{Scene, Verdict, recovers, verdict};
use crate::scripted::backend::{Backend, Fault, Script};
use crate::scripted::numbers::cmd;
use crate::scripted::{Ask, Framing};
use crate::trouble::{Trouble, ensure};

/// One bad backend per byte, all behind one gateway; each must be told from success, and serve the next client well.
fn at_every_byte(length: usize, framing: Framing, ask: Ask, fault: fn(usize) -> Fault) -> Result<(), Trouble> {
    let mut backends = Vec::new();
    for cut in 0..length {
        let script = Script { fault: Some(fault(cut)), framing, struck: 1, ..Script::default() };
        backends.push((format!("cut-{cut}"), Backend::start(script)?));
    }
    let named: Vec<_> = backends.iter().map(|(name, backend)| (name.clone(), backend)).collect();
    let scene = Scene::new(&named)?;
    for (name, _) in &backends {
        let verdict = verdict(scene.socket(), name, Framing::Structured, ask)?;
        let handshake = matches!(fault(0), Fault::GreetingCutAt(_) | Fault::GoCutAt(_));
        // A handshake that failed may have been tried again, but half a reply is no reply.
        ensure(handshake || verdict != Verdict::Right, || format!("{framing:?} {name}: half a reply was a success"))?;
        recovers(scene.socket(), name).map_err(|trouble| trouble.with(scene.gateway.log()))?;
    }
    scene.finish()
}

const READ: Ask = Ask { command: cmd::READ, cookie: 1, offset: 0x1_0000, length: 32, flags: 0 };

#[test]
fn a_greeting_cut_at_any_byte_hurts_nobody_else() -> Result<(), Trouble> {
    at_every_byte(18, Framing::Structured, READ, Fault::GreetingCutAt)
}

#[test]
fn the_replies_to_go_cut_at_any_byte_hurt_nobody_else() -> Result<(), Trouble> {
    // NBD_REP_INFO with the size is 20+12 bytes, NBD_REP_ACK is 20.
    at_every_byte(52, Framing::Structured, READ, Fault::GoCutAt)
}

#[test]
fn a_simple_reply_cut_at_any_byte_fails_its_request() -> Result<(), Trouble> {
    at_every_byte(16 + 32, Framing::Simple, READ, Fault::ReplyCutAt)
}

#[test]
fn a_structured_reply_cut_at_any_byte_fails_its_request() -> Result<(), Trouble> {
    at_every_byte(20 + 8 + 32, Framing::Structured, READ, Fault::ReplyCutAt)
}

#[test]
fn an_extended_reply_cut_at_any_byte_fails_its_request() -> Result<(), Trouble> {
    at_every_byte(32 + 8 + 32, Framing::Extended, READ, Fault::ReplyCutAt)
}

#[test]
fn extents_cut_at_any_byte_fail_their_request() -> Result<(), Trouble> {
    let status = Ask { command: cmd::BLOCK_STATUS, ..READ };
    // One context with one extent, then the chunk that says done.
    at_every_byte(20 + 4 + 8 + 20, Framing::Structured, status, Fault::ReplyCutAt)
}
