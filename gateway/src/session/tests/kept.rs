//! What an export knows is known where it goes on, also if no session does.

use nbd_gateway_policy::plan::Wish;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use crate::limits::{NoticeLimiter, RateGate};

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

/// What a hook hears next, and where it answers.
async fn told(host: &TcpListener) -> (TcpStream, String) {
    let accepted = timeout(Duration::from_secs(10), host.accept()).await;
    let (mut stream, _) = accepted.expect("a hook that tells nothing").unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&b'}') {
        told.push(stream.read_u8().await.unwrap());
    }
    let told = String::from_utf8(told).unwrap();
    (stream, told.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn a_hook_is_told_after_the_hand_over_what_it_has_not_heard_and_nothing_else() {
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("[[export.notify]]\nhttp = \"http://{}/\"", host.local_addr().unwrap());
    let scene = Scene::new("1MiB", "", &hook);
    let lease = scene.front.registry.open("e").await.unwrap();
    let grow = async |target| lease.export().resizer.wish(Wish::Operator { target }).await.unwrap();
    let sizes = |old: u32, new: u32| format!(r#""old_size":{},"size":{},"#, old << 20, new << 20);
    grow(2 << 20).await;
    let (mut unanswered, first) = told(&host).await;
    assert!(first.contains(&sizes(1, 2)), "{first}");
    scene.hand_over().await.unwrap();
    assert!(unanswered.read_u8().await.is_err(), "that attempt has ended");
    let (mut answered, again) = told(&host).await;
    assert_eq!(again, first);
    answered.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    while answered.read_u8().await.is_ok() {}
    scene.hand_over().await.unwrap();
    grow(3 << 20).await;
    let (_, next) = told(&host).await;
    assert!(next.contains(&sizes(2, 3)), "{next}");
}

#[tokio::test]
async fn notices_after_the_hand_over_keep_to_the_rate_of_those_before_it() {
    let scene = Scene::new("1MiB", "", "[export.limits]\nnotice-rate = \"1/h\"");
    let lease = scene.front.registry.open("e").await.unwrap();
    let (export, session) = (lease.export(), NoticeLimiter::default());
    assert_eq!(export.take_notice(&session), Ok(()));
    scene.hand_over().await.unwrap();
    assert!(export.take_notice(&session).is_err());
}

#[tokio::test]
async fn requests_after_the_hand_over_keep_to_the_rate_of_those_before_it() {
    let scene = Scene::new("1MiB", "", "[export.limits]\nio = { iops = \"1/h\" }");
    let lease = scene.front.registry.open("e").await.unwrap();
    let gate = || RateGate::new(lease.export().limiters()).pass(Cmd::FLUSH, 0);
    assert_eq!(gate(), Ok(()));
    scene.hand_over().await.unwrap();
    assert!(gate().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_to_its_own_rate_of_reading_where_it_goes_on() {
    let scene = Scene::new("1MiB", "", "[export.limits]\nsession-io = { iops = \"1/h\" }");
    let (mut client, begun) = (scene.client(Framing::Simple).await, Instant::now());
    client.ask(Cmd::READ, 0, 0, 512, &[]).await;
    client.reply(Cmd::READ, 0, 512).await;
    assert_eq!(scene.hand_over().await, Some(1));
    for hours in 1..3 {
        client.ask(Cmd::READ, hours, 0, 512, &[]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(scene.hand_over().await, Some(1), "while the request waits");
        assert_eq!(client.reply(Cmd::READ, 0, 512).await.error, 0);
        let (so_far, whole) = (begun.elapsed(), Duration::from_secs(3600 * hours));
        assert!((whole..whole + Duration::from_secs(2)).contains(&so_far), "{so_far:?}");
    }
}

#[tokio::test]
async fn a_session_keeps_to_its_own_rate_of_notices_where_it_goes_on() {
    let scene = Scene::new("1MiB", "", "[export.limits]\nsession-notice-rate = \"1/h\"");
    let _client = scene.client(Framing::Simple).await;
    let take = || {
        let session = scene.front.table.all().pop().unwrap();
        session.export.take_notice(&session.notices)
    };
    assert_eq!(take(), Ok(()));
    assert_eq!(scene.hand_over().await, Some(1));
    assert!(take().is_err());
}
