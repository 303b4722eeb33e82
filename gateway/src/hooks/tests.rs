//! Hooks in virtual time, with one who is told and may not listen.

use std::collections::VecDeque;

use tokio::time::{Instant, sleep};

use super::*;

/// One who hears, or fails as often as it is to; each attempt takes a second.
#[derive(Clone)]
struct Listener(Arc<Mutex<Heard>>);

struct Heard {
    fails: VecDeque<bool>,
    /// The second at which each attempt began, and its sizes: the old one, the new one, its generation.
    attempts: Vec<(u64, u64, u64, u64)>,
    since: Instant,
    busy: bool,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a test")
    }
}

impl Tell for Listener {
    const WAY: HookWay = HookWay::Exec;

    async fn tell(&self, occasion: &Occasion) -> Result<(), Fault> {
        let fails = {
            let mut heard = self.0.lock();
            assert!(!std::mem::replace(&mut heard.busy, true), "two attempts at once");
            let at = heard.since.elapsed().as_secs();
            heard.attempts.push((at, occasion.old_size, occasion.size, occasion.generation.unwrap()));
            heard.fails.pop_front().unwrap_or(false)
        };
        sleep(Duration::from_secs(1)).await;
        self.0.lock().busy = false;
        if fails { Err(Fault::backend("it does not listen")) } else { Ok(()) }
    }
}

struct Scene {
    listener: Listener,
    sizes: watch::Sender<Shown>,
    metrics: Metrics,
    following: tokio::task::JoinHandle<()>,
}

impl Scene {
    /// An export of 100 bytes with a hook that fails so often.
    fn failing(times: usize) -> Self {
        let (sizes, follow) = watch::channel(Shown { size: 100, generation: 0 });
        let heard = Heard { fails: vec![true; times].into(), attempts: Vec::new(), since: Instant::now(), busy: false };
        let listener = Listener(Arc::new(Mutex::new(heard)));
        let metrics = Metrics::new("0").unwrap();
        let follower = Follower {
            export: ExportName::new("vm").unwrap(),
            tenant: TenantId::new("blue").unwrap(),
            told: Arc::new(AtomicU64::new(100)),
            backoff: Backoff::new(FIRST, MOST, 7),
            metrics: metrics.hooks("vm", None),
            teller: listener.clone(),
        };
        let following = tokio::spawn(follower.follow(follow));
        Self { listener, sizes, metrics, following }
    }

    fn resize(&self, size: u64) {
        self.sizes.send_modify(|shown| *shown = Shown { size, generation: shown.generation + 1 });
    }

    /// The sizes of all attempts, and their seconds.
    fn attempts(&self) -> Vec<(u64, u64, u64, u64)> {
        self.listener.0.lock().attempts.clone()
    }

    fn sizes(&self) -> Vec<(u64, u64, u64)> {
        self.attempts().into_iter().map(|(_, old, new, generation)| (old, new, generation)).collect()
    }

    fn counts(&self, series: &str) -> bool {
        self.metrics.render().unwrap().lines().any(|line| line == format!("nbd_gateway_{series}"))
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_size_is_told_once_with_the_one_before_it() {
    let scene = Scene::failing(0);
    seconds(1000).await;
    assert_eq!(scene.sizes(), [], "the size at the start is no news");
    scene.resize(200);
    seconds(5).await;
    scene.resize(150);
    seconds(1000).await;
    assert_eq!(scene.sizes(), [(100, 200, 1), (200, 150, 2)]);
    assert!(scene.counts(r#"hook_attempts_total{export="vm",result="ok",way="exec"} 2"#));
    assert!(scene.counts(r#"hook_attempts_total{export="vm",result="failed",way="exec"} 0"#));
    drop(scene.sizes);
    scene.following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_fails_is_told_again_with_growing_delays_up_to_a_minute() {
    let scene = Scene::failing(12);
    scene.resize(200);
    seconds(3600).await;
    assert_eq!(scene.sizes(), [(100, 200, 1); 13]);
    let began: Vec<u64> = scene.attempts().iter().map(|(at, ..)| *at).collect();
    for (nth, pair) in began.windows(2).enumerate() {
        let step = (1 << nth.min(6)).min(60);
        // The attempt itself, and between half of the step and the whole; seconds are cut.
        let gap = pair[1] - pair[0];
        assert!((step / 2..=step + 2).contains(&gap), "{nth}: {gap} of {step}");
    }
    assert!(scene.counts(r#"hook_attempts_total{export="vm",result="failed",way="exec"} 12"#));
    assert!(scene.counts(r#"hooks_behind{export="vm"} 0"#));
}

#[tokio::test(start_paused = true)]
async fn who_missed_two_sizes_is_told_the_last_and_from_what_it_knew() {
    let scene = Scene::failing(8);
    scene.resize(200);
    seconds(100).await;
    assert!(scene.counts(r#"hooks_behind{export="vm"} 1"#));
    let failed = scene.attempts().len();
    scene.resize(300);
    scene.resize(400);
    seconds(2).await;
    // A newer size does not wait as long as the old one would have.
    let attempts = scene.sizes();
    assert_eq!(attempts[failed..], [(100, 400, 3)], "{attempts:?}");
    seconds(1000).await;
    assert_eq!(scene.sizes().last(), Some(&(100, 400, 3)));
    assert!(!scene.sizes().iter().any(|(_, size, _)| *size == 300));
    scene.resize(500);
    seconds(5).await;
    assert_eq!(scene.sizes().last(), Some(&(400, 500, 4)));
}

#[tokio::test(start_paused = true)]
async fn sizes_that_come_during_an_attempt_wait_for_its_end_and_merge() {
    let scene = Scene::failing(0);
    scene.resize(200);
    sleep(Duration::from_millis(500)).await;
    scene.resize(300);
    scene.resize(400);
    seconds(10).await;
    assert_eq!(scene.attempts(), [(0, 100, 200, 1), (1, 200, 400, 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_goes_back_to_what_was_heard_is_no_news() {
    let scene = Scene::failing(3);
    scene.resize(200);
    seconds(2).await;
    scene.resize(100);
    seconds(1000).await;
    assert!(scene.sizes().iter().all(|told| *told == (100, 200, 1)), "{:?}", scene.sizes());
    assert!(scene.counts(r#"hooks_behind{export="vm"} 0"#));
}
