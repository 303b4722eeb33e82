//! The coordinator against a world that fails by name: histories at random, and its task in virtual time.

use proptest::prelude::*;

use super::fuzz::fuzz_resizes;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_history_of_wishes_and_faults_breaks_a_promise(
        setup in any::<[u8; 3]>(),
        steps in prop::collection::vec(
            prop_oneof![
                4 => (prop_oneof![0..16_u8, any::<u8>()], prop_oneof![0..64_u8, any::<u8>()]),
                // The ledger fails, or the process ends at one of its next touches of the world.
                1 => (any::<u8>().prop_map(|n| n & 0xf0 | 8), 240..=255_u8),
            ],
            0..40,
        ),
    ) {
        let mut data = setup.to_vec();
        data.extend(steps.into_iter().flat_map(|(kind, value)| [kind, value]));
        fuzz_resizes(&data);
    }
}

/// The steps that the bodies of the tests below are made of: see [`fuzz_resizes`]. Three bytes set the scene; each pair
/// after them is a step.
mod regressions {
    use super::fuzz_resizes;

    const EXPLICIT: u8 = 0x10;
    const ORIGIN: u8 = 0x13;
    const WINDOW: u8 = 0x40;
    const EXCLUSIVE: u8 = 4;
    const GROW: u8 = 0;
    const SHRINK_OR_GROW: u8 = 2;
    const ANOTHER_HAND: u8 = 5;
    const HINT: u8 = 6;
    const FAULT: u8 = 8;
    const PUBLISH: u8 = 0xd4;
    const ADOPT_WHAT_IS: u8 = 0xf4;
    const MANUAL: u8 = 3;
    const PROBE: u8 = 9;
    const LANDS: u8 = 10;
    const NEVER: u8 = 0x60;
    const READ_FAILS: u8 = 0x80;
    const READS_HUGE: u8 = 0x90;
    const CLEAR_FAILS: u8 = 0xc0;
    const LEDGER_FAILS: u8 = 240;
    const LEDGER_LIES: u8 = 244;
    const CRASHES: u8 = 248;
    const ANOTHER_EXPORT: u8 = 12;

    fn play(scene: [u8; 3], steps: &[(u8, u8)]) {
        let steps = steps.iter().flat_map(|(kind, value)| [*kind, *value]);
        fuzz_resizes(&scene.into_iter().chain(steps).collect::<Vec<u8>>());
    }

    /// It was rolled back and forgotten: its bytes were shown unzeroed, its quota was given to another.
    #[test]
    fn a_grow_that_lands_after_its_timeout_stays_counted_and_is_zeroed_before_it_is_shown() {
        play([0, EXPLICIT, 8], &[(FAULT, NEVER), (GROW, 16), (PROBE, 0), (GROW, 24), (LANDS, 0), (PROBE, 0)]);
    }

    /// The end went back up at once, and the shrink cut off what was written there.
    #[test]
    fn a_shrink_that_lands_after_its_timeout_finds_the_end_lowered() {
        let grow_then_shrink =
            [(GROW, 32), (FAULT, NEVER), (SHRINK_OR_GROW | 0xf0, 8), (PROBE, 0), (LANDS, 0), (PROBE, 0)];
        play([0, EXPLICIT, 8], &grow_then_shrink);
    }

    /// It was settled by opening the export, and its bytes were free for another one.
    #[test]
    fn a_resize_that_lands_after_a_restart_stays_counted_and_its_end_lowered_until_then() {
        let restart = [(FAULT, CRASHES), (PROBE, 0)];
        let grow = [(GROW, 8), (FAULT, NEVER), (GROW, 24)];
        let after = [(PROBE, 0), (ANOTHER_EXPORT, 30), (LANDS, 0), (PROBE, 0), (GROW, 40)];
        play([0, EXPLICIT, 8], &[&grow[..], &restart, &after].concat());
        let shrink = [(GROW, 32), (FAULT, NEVER), (SHRINK_OR_GROW | 0xf0, 8)];
        play([0, EXPLICIT, 8], &[&shrink[..], &restart, &after].concat());
    }

    /// A size read before a grow and told after it passed for lost bytes.
    #[test]
    fn a_hint_from_before_a_grow_quarantines_nothing() {
        play([0, EXPLICIT, 8], &[(GROW, 32), (HINT, 8), (GROW, 40)]);
        play([0, ORIGIN, 8], &[(GROW, 32), (HINT, 8), (GROW, 40)]);
    }

    /// The note of a grow that was not done stayed on the ledger: a restart would have zeroed what clients wrote there.
    #[test]
    fn the_note_of_a_grow_of_unknown_outcome_goes_when_that_is_known() {
        play([0, EXPLICIT, 8], &[(FAULT, NEVER), (GROW, 16), (FAULT, READ_FAILS), (PROBE, 0)]);
        play([0, EXPLICIT, 8], &[(FAULT, CLEAR_FAILS), (GROW, 16), (GROW, 24)]);
    }

    #[test]
    fn what_another_hand_took_away_is_gone_by_order_and_the_export_grows_again() {
        play([0, EXPLICIT, 20], &[(ANOTHER_HAND, 8), (HINT, 8), (ADOPT_WHAT_IS, 0), (GROW, 16)]);
        play([0, ORIGIN, 20], &[(ANOTHER_HAND, 8), (ADOPT_WHAT_IS, 0), (GROW, 16)]);
    }

    #[test]
    fn nothing_is_adopted_that_a_late_answer_may_still_change() {
        let lost = [(FAULT, NEVER), (GROW, 24), (ANOTHER_HAND, 8), (ADOPT_WHAT_IS, 0)];
        play([0, EXPLICIT, 16], &lost);
    }

    #[test]
    fn what_another_hand_added_is_shown_by_order() {
        play([MANUAL, EXPLICIT, 8], &[(ANOTHER_HAND, 24), (PUBLISH, 0), (GROW, 30)]);
    }

    /// The part that was noted first was zeroed a second time, without a note.
    #[test]
    fn more_than_was_noted_is_noted_and_zeroed_as_one_range() {
        play([EXCLUSIVE, EXPLICIT | 2, 0], &[(FAULT, 0x10), (ANOTHER_HAND, 33), (GROW, 1)]);
    }

    /// What it had got beyond the note was taken for somebody else's when its size was one again.
    #[test]
    fn what_a_backend_without_another_hand_got_of_a_grow_that_led_to_an_impossible_size_is_zeroed() {
        play([EXCLUSIVE | 0xa0, 8, 96], &[(FAULT, 9), (FAULT, READS_HUGE), (GROW, 66)]);
    }

    /// It was zeroed a second time, without a note.
    #[test]
    fn what_the_ledger_lets_go_of_and_says_that_it_has_not_is_noted_again_before_it_is_zeroed() {
        let window = [(FAULT | 0xa0, CRASHES), (GROW | 0x10, 1), (FAULT, LEDGER_FAILS), (ANOTHER_HAND | 0xf0, 0)];
        let lost = [(GROW, 2), (GROW, 2), (GROW, 0), (FAULT, LEDGER_LIES), (ANOTHER_HAND, 2), (PROBE, 0), (HINT, 2)];
        play([WINDOW, 0, 0], &[&window[..], &lost].concat());
    }

    /// What was noted is zeroed; what the backend gave beyond that is taken for another hand's.
    #[test]
    fn a_crash_right_after_a_backend_gave_more_than_was_asked_for_zeroes_what_was_noted() {
        play([36, 0, 0], &[(88, 248), (8, 240), (8, 3), (0, 1), (0, 1)]);
    }
}
