//! A session that goes on elsewhere, at any byte of its conversation and any number of times: its client sees no difference.
//!
//! Each seed is a conversation, held twice in front of a separate disk: once as it is, and once while the session is taken
//! apart, carried through JSON and put together again between any two bytes. Both clients get the same messages for each of
//! their requests, and the disks are the same in the end. `NBD_GATEWAY_SEED` repeats one.

mod talk;

use super::*;
use crate::handover::SpeaksTls;
use crate::handover::state::Beside;
use crate::session::suspend::{ResumedSession, SuspendError, resume};
use talk::{Style, Talk};

/// Numbers that follow from a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

const GROWS: &str = "[export.resize]\nautomatic = \"always\"\nstep = 0";
const CEILING: &str = "max-size = \"2MiB\"\n[export.resize]\npresent = \"ceiling\"\nstep = 0";

/// The beginning of each message, for people.
fn short(messages: &[Vec<u8>]) -> Vec<(usize, &[u8])> {
    messages.iter().map(|message| (message.len(), &message[..message.len().min(48)])).collect()
}

/// Conversations with `seeds`; how often sessions were moved.
async fn play(seeds: std::ops::Range<u64>, scene: impl AsyncFn() -> Scene, styles: &[Style]) -> usize {
    let seeds = match std::env::var("NBD_GATEWAY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => seeds,
    };
    let mut moves = 0;
    for seed in seeds {
        for style in styles {
            let mut ends = Vec::new();
            for moved in [false, true] {
                let scene = scene().await;
                let mut talk = Talk::begin(&scene, *style, seed, moved).await;
                talk.hold().await;
                moves += talk.moves;
                let mut reader = scene.client(Framing::Simple).await;
                reader.ask(Cmd::READ, 1, 0, 1 << 20, &[]).await;
                assert_eq!(reader.simple().await, (0, 1));
                ends.push((talk.told(), reader.take(1 << 20).await));
            }
            let [plain, moved] = &ends[..] else { panic!() };
            for cookie in plain.0.keys().chain(moved.0.keys()) {
                let [plain, moved] = [plain, moved].map(|(told, _)| told.get(cookie).map(|told| short(told)));
                assert_eq!(plain, moved, "seed {seed}, {style:?}: request {cookie} was answered in another way");
            }
            assert!(plain.0 == moved.0, "seed {seed}, {style:?}: a client read something else");
            assert!(plain.1 == moved.1, "seed {seed}, {style:?}: the disk is another");
        }
    }
    moves
}

#[tokio::test(start_paused = true)]
async fn a_client_of_an_export_that_grows_does_not_notice_that_its_session_is_moved() {
    let moves = play(0..4, async || Scene::new("1MiB", "", GROWS), &Style::ALL).await;
    assert!(moves > 100, "{moves} moves");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_shown_a_ceiling_does_not_notice_that_its_session_is_moved() {
    let moves = play(0..6, async || Scene::new("1MiB", "", CEILING), &[Style::Kernel, Style::Stock]).await;
    assert!(moves > 20, "{moves} moves");
}

#[tokio::test(start_paused = true)]
async fn a_session_inside_tls_refuses_to_be_suspended_and_goes_on() {
    let scene = Scene::new("1MiB", "", "");
    let mut client = scene.client(Framing::Simple).await;
    let session = || scene.front.table.all().pop().unwrap();
    // As if its connection had come inside TLS.
    let mut suspended = session().suspend().unwrap().await.unwrap();
    suspended.state.tls = true;
    let resumed = resume(&scene.front, scene.place(), suspended).await.unwrap();
    ResumedSession::start(vec![resumed], Vec::new(), &Beside::default()).unwrap();
    assert!(matches!(session().suspend().err(), Some(SuspendError::Tls(SpeaksTls))));
    client.ask(Cmd::READ, 1, 0, 512, &[]).await;
    assert_eq!(client.reply(Cmd::READ, 0, 512).await.error, 0);
}
