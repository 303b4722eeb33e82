//! The coordinator against a world that fails by name: histories at random, and its task in virtual time.

use proptest::prelude::*;

use super::fuzz::fuzz_resizes;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_history_of_wishes_and_faults_breaks_a_promise(
        setup in any::<[u8; 3]>(),
        steps in prop::collection::vec(
            (prop_oneof![0..16_u8, any::<u8>()], prop_oneof![0..64_u8, any::<u8>()]),
            0..40,
        ),
    ) {
        let mut data = setup.to_vec();
        data.extend(steps.into_iter().flat_map(|(kind, value)| [kind, value]));
        fuzz_resizes(&data);
    }
}
