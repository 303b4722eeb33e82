//! Conversations with and without hand-overs, compared reply by reply.

use std::collections::BTreeMap;

use super::client::run_in_batches;
use super::random::Random;
use super::scene::Scene;
use super::{HandOvers, hand_over, in_virtual_time, server};

/// The conversations of one seed: the replies by the cookies of their requests, and how many sessions went on elsewhere.
fn transcript(seed: u64, hand_overs: HandOvers) -> (BTreeMap<u64, String>, u64) {
    let (held, panicked) = in_virtual_time(async |directory| {
        let mut random = Random::new(seed);
        let scene = Scene::patient(&mut random, &directory);
        let violation = scene.world().lock().history.first_violation();
        tokio::spawn(server::run(scene.world().clone(), directory, random.split()));
        let moments = random.split();
        if hand_overs == HandOvers::Many {
            tokio::spawn(hand_over(scene.clone(), moments));
        }
        for _ in 0..2 {
            let batches = random.between(5, 15);
            run_in_batches(scene.clone(), batches, random.split()).await;
        }
        let violation = violation.borrow().clone();
        assert_eq!(violation, None, "seed {seed}, {hand_overs:?}");
        scene.recorded()
    });
    assert_eq!(panicked, None, "seed {seed}, {hand_overs:?}");
    held
}

#[test]
fn conversations_have_the_same_replies_with_and_without_hand_overs() {
    let (mut went_on, mut watched) = (0, 0);
    for seed in 0..40 {
        let (without, _) = transcript(seed, HandOvers::None);
        let (with, sessions) = transcript(seed, HandOvers::Many);
        for (cookie, reply) in &without {
            assert_eq!(with.get(cookie), Some(reply), "seed {seed}, request {cookie:#x}");
        }
        assert_eq!(with.len(), without.len(), "seed {seed}");
        went_on += sessions;
        watched += without.values().filter(|reply| reply.starts_with("watch: ")).count();
    }
    assert!(went_on > 200 && watched > 5, "{went_on} sessions went on, {watched} watchers heard of a size");
}
