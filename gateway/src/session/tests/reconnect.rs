//! Clients that are cut after a grow, so that they connect again and see it.

use super::*;

const MIB: u64 = 1 << 20;

fn scene(tenant: &str) -> Scene {
    Scene::new("1MiB", tenant, "[export.resize]\nautomatic = \"reconnect\"\nstep = \"1MiB\"")
}

#[tokio::test]
async fn a_write_past_the_end_grows_the_export_and_ends_the_session_without_an_answer_to_it() {
    let scene = scene("");
    let mut size = MIB;
    for _ in 0..3 {
        let mut client = scene.client(Framing::Structured).await;
        assert_eq!(client.size, size);
        if size > MIB {
            client.ask(Cmd::WRITE, 1, size - MIB, 512, &[7; 512]).await;
            assert_eq!(client.reply(Cmd::WRITE, size - MIB, 512).await.error, 0, "what was lost is sent again");
        }
        client.ask(Cmd::WRITE, 2, size, 512, &[7; 512]).await;
        assert_eq!(client.rest().await, b"");
        size += MIB;
    }
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::READ, 3, size - MIB, 512, &[]).await;
    let data = client.reply(Cmd::READ, size - MIB, 512).await.data;
    assert!(data.iter().all(|byte| *byte == Some(0)), "nothing of the write that was not answered has landed");
}

#[tokio::test]
async fn what_else_was_asked_is_answered_first() {
    let scene = scene("");
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 1, MIB - 512, 1024, &[7; 1024]).await;
    client.ask(Cmd::READ, 2, 0, 512, &[]).await;
    client.ask(Cmd::WRITE, 3, MIB, 1024, &[7; 1024]).await;
    client.ask(Cmd::READ, 4, 512, 512, &[]).await;
    let rest = client.rest().await;
    let cookies: Vec<u8> = rest.chunks(20 + 8 + 512).map(|reply| reply[15]).collect();
    // Which of the later ones was read is a matter of time; what was read is answered, but for the writes past the end.
    assert!(cookies.starts_with(&[2]) && !cookies.contains(&1) && !cookies.contains(&3), "{cookies:?}");
    let mut again = scene.client(Framing::Structured).await;
    again.ask(Cmd::READ, 5, MIB - 512, 512, &[]).await;
    let data = again.reply(Cmd::READ, MIB - 512, 512).await.data;
    assert!(data.iter().all(|byte| *byte == Some(0)), "not even the part before the old end");
}

#[tokio::test]
async fn one_that_does_not_send_its_write_again_is_cut_once() {
    let scene = scene("");
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 1, MIB, 512, &[7; 512]).await;
    assert_eq!(client.rest().await, b"");
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 2, 2 * MIB, 512, &[7; 512]).await;
    assert_eq!(client.reply(Cmd::WRITE, 2 * MIB, 512).await.error, 28);
    assert_eq!(scene.front.registry.open("e").await.unwrap().export().size(), 2 * MIB);
    client.ask(Cmd::READ, 3, 2 * MIB - 512, 512, &[]).await;
    assert_eq!(client.reply(Cmd::READ, 2 * MIB - 512, 512).await.error, 0, "the session goes on");
}

#[tokio::test]
async fn one_that_was_cut_before_its_export_was_handed_over_is_known_after_it() {
    let scene = scene("");
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 1, MIB, 512, &[7; 512]).await;
    assert_eq!(client.rest().await, b"");
    while !scene.front.table.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.hand_over().await, Some(0));
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 2, 2 * MIB, 512, &[7; 512]).await;
    assert_eq!(client.reply(Cmd::WRITE, 2 * MIB, 512).await.error, 28, "it has not sent again what was lost");
}

#[tokio::test]
async fn a_refused_grow_cuts_nobody() {
    let scene = scene("quota = \"1MiB\"");
    let mut client = scene.client(Framing::Structured).await;
    client.ask(Cmd::WRITE, 1, MIB, 512, &[7; 512]).await;
    assert_eq!(client.reply(Cmd::WRITE, MIB, 512).await.error, 28);
    client.ask(Cmd::READ, 2, 0, 512, &[]).await;
    assert_eq!(client.reply(Cmd::READ, 0, 512).await.error, 0);
}

#[tokio::test]
async fn a_client_without_structured_replies_is_never_cut() {
    let scene = scene("");
    let mut client = scene.client(Framing::Simple).await;
    client.ask(Cmd::WRITE, 1, MIB, 512, &[7; 512]).await;
    assert_eq!(client.simple().await, (28, 1));
}
