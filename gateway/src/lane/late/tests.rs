//! One late write at a time, in virtual time.

use tokio::time::advance;

use super::*;

const GUARD: Duration = Duration::from_secs(10);

fn request(command: Cmd, offset: u64, length: u64) -> Request {
    Request::new(command, CmdFlags::NONE, offset, length)
}

fn lose(late: &LateWrites, offset: u64, length: u64) -> u64 {
    late.lost(0, &request(Cmd::WRITE, offset, length), &Link::new(None))
}

#[tokio::test(start_paused = true)]
async fn what_overlaps_waits_for_the_guard_and_the_copy_and_the_rest_does_not() {
    let late = LateWrites::new(GUARD, false);
    let id = lose(&late, 100, 100);
    for command in [Cmd::WRITE, Cmd::TRIM, Cmd::WRITE_ZEROES] {
        assert!(!late.admits(&request(command, 150, 10), 0), "{command}");
        assert!(late.admits(&request(command, 200, 10), 0) && late.admits(&request(command, 0, 100), 0), "{command}");
    }
    assert!(late.admits(&request(Cmd::WRITE, 100, 100), id), "itself");
    for command in [Cmd::READ, Cmd::FLUSH, Cmd::CACHE, Cmd::BLOCK_STATUS] {
        assert!(late.admits(&request(command, 100, 100), 0), "{command}");
    }
    advance(GUARD - Duration::from_millis(1)).await;
    assert_eq!(late.expire().0, 0);
    advance(Duration::from_millis(1)).await;
    assert_eq!(late.expire(), (1, None));
    assert!(!late.admits(&request(Cmd::WRITE, 150, 10), 0), "its copy is not answered");
    late.answered(id, true);
    assert!(late.admits(&request(Cmd::WRITE, 150, 10), 0) && !late.any());
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_the_copy_ends_no_late_write_and_after_an_error_reads_wait_too() {
    let late = LateWrites::new(GUARD, false);
    late.answered(lose(&late, 0, 100), true);
    late.answered(lose(&late, 200, 100), false);
    assert!(!late.admits(&request(Cmd::WRITE, 0, 1), 0) && !late.admits(&request(Cmd::WRITE, 200, 1), 0));
    assert!(late.admits(&request(Cmd::READ, 0, 100), 0) && !late.admits(&request(Cmd::READ, 299, 1), 0));
    assert_eq!((late.refused(), late.any()), (2, false));
    assert!(late.admits(&request(Cmd::READ, 299, 1), 0));
}

/// The later of two losses counts, with what was sent over the later connection.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_lost_too_begins_the_guard_again() {
    let late = LateWrites::new(GUARD, false);
    let id = lose(&late, 0, 100);
    advance(GUARD / 2).await;
    assert_eq!(late.lost(id, &request(Cmd::WRITE, 0, 100), &Link::new(None)), id);
    advance(GUARD / 2).await;
    assert_eq!((late.expire().0, late.count()), (0, 1));
    advance(GUARD / 2).await;
    assert_eq!(late.expire().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fence_covers_the_connections_from_before_it_and_no_later_one() {
    let late = LateWrites::new(GUARD, true);
    let (before, write) = (Link::new(None), request(Cmd::WRITE, 0, 100));
    late.answered(late.lost(0, &write, &before), false);
    late.all_lost();
    assert!(late.wants_fence() && late.fenced_soon().is_some());
    advance(Duration::from_millis(1)).await;
    let begun = Instant::now();
    advance(Duration::from_millis(1)).await;
    assert_eq!(late.fenced(begun), 1);
    late.fence_tried();
    // A lane whose loss is seen only now, by the fence.
    late.answered(late.lost(0, &write, &before), false);
    assert!(!late.any() && late.fenced_soon().is_none());
    late.lost(0, &write, &Link::new(None));
    assert!(late.wants_fence(), "this one was made after it");
}

#[tokio::test(start_paused = true)]
async fn a_resize_that_was_lost_holds_back_what_it_would_cut_off() {
    let late = LateWrites::new(GUARD, false);
    late.answered(late.lost(0, &request(Cmd::RESIZE, 4096, 0), &Link::new(None)), false);
    assert!(late.has_resize());
    assert!(late.admits(&request(Cmd::WRITE, 0, 4096), 0) && !late.admits(&request(Cmd::WRITE, 1 << 40, 1), 0));
    assert!(!late.admits(&request(Cmd::RESIZE, 8192, 0), 0), "another size");
    let query = Request { flags: CmdFlags::QUERY, ..request(Cmd::RESIZE, 0, 0) };
    assert!(late.admits(&query, 0));
    late.resize_confirmed();
    assert!(!late.any());
}

/// It ended what else had been left, though its server may carry that out.
#[tokio::test(start_paused = true)]
async fn a_resize_that_is_confirmed_ends_nothing_but_itself() {
    let late = LateWrites::new(GUARD, false);
    late.suspect(Instant::now(), None);
    late.suspect_resize(512);
    assert!(late.has_resize());
    late.resize_confirmed();
    assert!(!late.has_resize() && !late.admits(&request(Cmd::WRITE, 512, 1), 0));
    advance(GUARD).await;
    late.expire();
    late.suspect_resize(512);
    assert!(!late.has_resize() && !late.any(), "nothing was left any more");
}

#[tokio::test(start_paused = true)]
async fn however_many_fail_there_are_few_and_all_are_covered() {
    let late = LateWrites::new(GUARD, false);
    for at in 0..3 * 4096 {
        late.answered(lose(&late, at * 10, 5), false);
    }
    assert!(late.count() <= MOST, "{}", late.count());
    for at in 0..3 * 4096 {
        assert!(!late.admits(&request(Cmd::WRITE, at * 10, 5), 0), "{at}");
    }
    advance(GUARD).await;
    late.expire();
    assert!(!late.any());
}

#[tokio::test(start_paused = true)]
async fn the_first_change_waits_for_the_mark_and_a_read_does_not() {
    let late = LateWrites::new(GUARD, false);
    late.marks(None);
    assert!(late.admits(&request(Cmd::READ, 0, 1), 0) && late.mark_wanted().is_none());
    assert!(!late.admits(&request(Cmd::WRITE, 0, 1), 0));
    assert_eq!(late.mark_wanted(), Some(None));
    late.marked(None);
    assert!(late.admits(&request(Cmd::WRITE, 0, 1), 0) && !late.any() && late.has_mark());
}

#[tokio::test(start_paused = true)]
async fn a_guard_of_zero_holds_back_only_until_the_copy_is_answered() {
    let late = LateWrites::new(Duration::ZERO, false);
    late.suspect(Instant::now(), None);
    assert!(!late.any());
    let id = lose(&late, 0, 100);
    assert!(!late.admits(&request(Cmd::WRITE, 0, 1), 0));
    late.answered(id, true);
    assert!(late.admits(&request(Cmd::WRITE, 0, 1), 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_nothing_can_land_past_its_end() {
    let late = LateWrites::new(GUARD, false);
    late.answered(lose(&late, 1000, 100), true);
    late.clear_of(ByteRange::beyond(1100)).await;
    let waiting = tokio::spawn({
        let late = Arc::clone(&late);
        async move { late.clear_of(ByteRange::beyond(1050)).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    advance(GUARD).await;
    late.expire();
    waiting.await.unwrap();
}
