//! What an export knows is known where it goes on, also if no session does.

use super::*;

/// One client has come and gone, without a goodbye.
async fn left(scene: &Scene) {
    drop(scene.client(Framing::Structured).await);
    while !scene.front.table.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_may_come_back_after_the_hand_over_still_counts() {
    let scene = Scene::new("1MiB", "", "[export.resize]\nshrink-grace = \"60s\"");
    left(&scene).await;
    assert_eq!(scene.hand_over().await, Some(0));
    let lease = scene.front.registry.open("e").await.unwrap();
    assert_eq!(lease.export().resizer.openers.others(None).lost, 1);
}
