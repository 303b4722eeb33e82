//! One answer for everybody who asks at the same time. It is made by one task at a time, which began after they asked: nobody
//! gets what was so before. Between two answers there is a pause, so that readers take a bounded part of the processor
//! however many they are and however often they ask.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Of each so many parts of time, one goes into making answers.
const PARTS: u32 = 10;
/// The pause after an answer that was made at once.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// The pause after an answer that took long.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The answers to one question; cheap to clone.
#[derive(Debug)]
pub(super) struct Paced<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    /// When the newest answer was begun, and the answer.
    made: Option<(Instant, T)>,
    /// The next one is not begun before.
    pause: Option<Instant>,
}

impl<T> Clone for Paced<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Paced<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { made: None, pause: None })))
    }
}

impl<T: Clone + Send + 'static> Paced<T> {
    /// What `make` makes, begun after this was asked. Cancel-safe: yes; an answer that is being made is finished for others.
    pub(super) async fn ask<F>(&self, make: impl Fn() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let asked = Instant::now();
        loop {
            let mut state = Arc::clone(&self.0).lock_owned().await;
            if let Some((begun, made)) = &state.made
                && *begun >= asked
            {
                return made.clone();
            }
            let making = make();
            // Whoever asks may leave, and the next one must not begin while this one is being made.
            tokio::spawn(async move {
                if let Some(pause) = state.pause {
                    sleep_until(pause).await;
                }
                let begun = Instant::now();
                let made = making.await;
                let took = begun.elapsed();
                let pause = took.saturating_mul(PARTS - 1).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
                state.pause = Some(Instant::now() + pause);
                state.made = Some((begun, made));
            });
            // The lock is taken again behind the task, which holds it already.
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::sleep;

    use super::*;

    /// Takes a second, and is the number of times that it was made.
    fn slow(made: &Arc<AtomicU32>) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = u32> + Send>> + use<> {
        let made = Arc::clone(made);
        move || {
            let made = Arc::clone(&made);
            Box::pin(async move {
                sleep(Duration::from_secs(1)).await;
                made.fetch_add(1, Ordering::Relaxed) + 1
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_share_an_answer_and_those_who_come_meanwhile_share_the_next() {
        let (paced, made) = (Paced::default(), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let (paced, make) = (paced.clone(), slow(&made));
            tokio::spawn(async move { paced.ask(make).await })
        };
        let first: Vec<_> = (0..100).map(|_| ask()).collect();
        sleep(Duration::from_millis(500)).await;
        let meanwhile: Vec<_> = (0..100).map(|_| ask()).collect();
        for asked in first {
            assert_eq!(asked.await.unwrap(), 1);
        }
        let began = Instant::now();
        for asked in meanwhile {
            assert_eq!(asked.await.unwrap(), 2);
        }
        // Nine parts would be nine seconds: the pause has a bound.
        assert_eq!(began.elapsed(), LONGEST_PAUSE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_nothing_from_the_others_and_begins_nothing_twice() {
        let (paced, made) = (Paced::default(), Arc::new(AtomicU32::new(0)));
        for _ in 0..100 {
            let asked = tokio::time::timeout(Duration::from_millis(1), paced.ask(slow(&made)));
            assert!(asked.await.is_err());
        }
        assert_eq!(paced.ask(slow(&made)).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_asks_now_and_then_waits_for_no_pause() {
        let (paced, made) = (Paced::default(), Arc::new(AtomicU32::new(0)));
        for number in 1..5 {
            let began = Instant::now();
            assert_eq!(paced.ask(slow(&made)).await, number);
            assert_eq!(began.elapsed(), Duration::from_secs(1));
            sleep(LONGEST_PAUSE).await;
        }
    }
}
