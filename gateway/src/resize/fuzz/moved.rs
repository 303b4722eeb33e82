//! The same histories, with a coordinator that goes elsewhere after each step: nothing else comes of them.

use nbd_gateway_policy::quota::Usage;
use proptest::prelude::*;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::{advance, sleep};

use super::*;
use crate::handover::state::carried;

impl Play {
    /// Has another coordinator go on, which has only what was taken along.
    fn hand_over(&mut self) {
        let state = carried(&self.coordinator.suspend());
        let ResizeState { export, tenant, policy, size, generation, timeout, .. } = &self.coordinator.state;
        let (export, tenant) = (export.clone(), tenant.clone());
        let account = self.coordinator.account.anew();
        let effects = Fake { state: Arc::clone(&self.state), export: export.clone() };
        let start = ResizeState {
            export,
            tenant,
            policy: policy.clone(),
            size: *size,
            generation: *generation,
            disk: Size::MAX,
            backend: BackendStyle { grows: Grows::Fixed, tells: Tells::Itself },
            zeroed_by_backend: !self.coordinator.state.zeroed_by_backend,
            unsettled: None,
            unzeroed: Vec::new(),
            timeout: *timeout,
            older: true,
        };
        let told = self.coordinator.metrics.clone();
        self.coordinator = Coordinator::new(start, effects, account, Arc::clone(&self.desk), told);
        self.coordinator.resume(state);
    }

    /// What has become of everything so far.
    fn found(&self) -> (Standing, BackendStyle, [u64; 5], Option<Usage>, Vec<Job>) {
        let (coordinator, state) = (&self.coordinator, self.state.lock());
        let sizes = [coordinator.state.disk.bytes(), state.disk, state.shown, state.generation, state.end];
        let usage = self.accounts.books(|books| books.usage(&self.tenant));
        (coordinator.standing, coordinator.state.backend, sizes, usage, self.desk.jobs.list())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_history_ends_the_same_way_where_its_coordinator_goes_elsewhere_after_each_step(
        (choice, style, size) in any::<(u8, u8, u8)>(),
        steps in prop::collection::vec(
            prop_oneof![4 => (0..16_u8, any::<u8>()), 1 => (any::<u8>().prop_map(|n| n & 0xf0 | 8), any::<u8>())],
            0..40,
        ),
    ) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _clock = runtime.enter();
        let [mut stays, mut moves] = [(); 2].map(|()| Play::new(choice, style, u64::from(size)).unwrap());
        for (kind, value) in steps {
            stays.step(kind, u64::from(value));
            moves.step(kind, u64::from(value));
            moves.hand_over();
            prop_assert_eq!(stays.found(), moves.found());
        }
        stays.heal();
        moves.heal();
        prop_assert_eq!(stays.found(), moves.found());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_writes_goes_on_elsewhere_for_as_long_as_it_would_have() {
    let mut play = Play::new(0x10, 3, 24).unwrap();
    for (end, size, pause) in [(25, 25, 900), (26, 27, 900), (28, 30, 900), (31, 31, 0)] {
        play.hand_over();
        assert_eq!(play.wish(Wish::Automatic { end }, None).unwrap().bytes(), size);
        advance(Duration::from_millis(pause)).await;
        if size == 30 {
            play.hand_over();
            advance(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_disproved_is_believed_again_elsewhere_when_it_would_have_been() {
    let play = Play::new(0, 0x14, 8).unwrap();
    let state = play.state;
    let (acts, rx) = mpsc::channel(8);
    let task = tokio::spawn(play.coordinator.run(rx));
    tests::serve(play.mailbox, Arc::clone(&state));
    for seconds in [60, 120] {
        state.lock().faults.push_back(Fault::YesUnchanged);
        assert_ne!(tests::grow_in_vain(&acts).await, fixed());
        assert!(state.lock().faults.is_empty(), "it was not asked");
        sleep(Duration::from_secs(seconds / 2)).await;
        let ((resting, rests), (goes_on, over)) = (oneshot::channel(), oneshot::channel());
        acts.send(Act::Rest { resting, over }).await.unwrap();
        goes_on.send(carried(&rests.await.unwrap())).unwrap();
        sleep(Duration::from_secs(seconds / 2 - 1)).await;
        assert_eq!(tests::grow_in_vain(&acts).await, fixed());
        sleep(Duration::from_secs(1)).await;
    }
    drop(acts);
    task.await.unwrap();
}

fn fixed() -> Reason {
    Reason::FixedSize { size: Size::new(8).unwrap() }
}
