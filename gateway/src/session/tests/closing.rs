//! Ending sessions between two messages.

use super::*;
use crate::session::Session;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn a_session_that_parts_drops_half_a_request_and_closes() {
    let scene = Scene::new("1MiB", "", "");
    for sent in [0, 10, 28, 28 + 100] {
        let mut client = scene.client(Framing::Simple).await;
        client.ask(Cmd::WRITE, 1, 0, 512, &[7; 512]).await;
        assert_eq!(client.simple().await, (0, 1));
        let header =
            RequestHeader { flags: CmdFlags::NONE, command: Cmd::WRITE, cookie: Cookie(2), offset: 0, length: 512 };
        let mut bytes = Vec::new();
        header.put(Framing::Simple, &mut bytes);
        bytes.extend_from_slice(&[8; 512]);
        client.send(&bytes[..sent]).await;
        // Read as far as it goes.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let parted = scene.front.table.close(|session| session.export.name() == "e");
        assert_eq!(parted.len(), 1);
        assert_eq!(client.rest().await, b"", "after {sent} bytes");
        parted[0].ended().await;
        assert!(parted[0].permits.is_idle(), "after {sent} bytes");
        drop(parted);
        while !scene.front.table.is_empty() {
            tokio::task::yield_now().await;
        }
    }
    let mut client = scene.client(Framing::Simple).await;
    client.ask(Cmd::READ, 3, 0, 512, &[]).await;
    client.simple().await;
    assert_eq!(client.take(512).await, [7; 512]);
}

#[tokio::test]
async fn a_session_that_parts_writes_the_replies_that_its_client_was_slow_to_read() {
    let scene = Scene::new("4MiB", "", "");
    let mut client = scene.client(Framing::Simple).await;
    for cookie in 0..64 {
        client.ask(Cmd::READ, cookie, 0, MIB / 16, &[]).await;
    }
    let session = scene.front.table.close(|_| false).pop();
    assert!(session.is_none(), "nobody was chosen");
    let session = only(&scene);
    while !session.out.is_blocked() {
        tokio::task::yield_now().await;
    }
    session.close();
    // Nothing of this one is read any more.
    client.ask(Cmd::READ, 99, 0, MIB / 16, &[]).await;
    let rest = client.rest().await;
    assert_eq!(rest.len() % (16 + (1 << 16)), 0, "{} bytes are no whole number of replies", rest.len());
    let cookies = rest.chunks(16 + (1 << 16)).map(|reply| u64::from_be_bytes(reply[8..16].try_into().unwrap()));
    assert!(
        cookies.clone().count() == 64 && !cookies.clone().any(|cookie| cookie == 99),
        "{:?}",
        cookies.collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_its_replies_does_not_keep_its_session() {
    let scene = Scene::new("4MiB", "", "");
    let mut client = scene.client(Framing::Simple).await;
    for cookie in 0..64 {
        client.ask(Cmd::READ, cookie, 0, MIB / 16, &[]).await;
    }
    let session = only(&scene);
    while !session.out.is_blocked() {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    session.close();
    session.ended().await;
    assert_eq!(before.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_session_that_parts_waits_for_a_write_that_was_admitted() {
    let (_scene, mut client, session) = grown_as_far_as_the_rate_goes().await;
    client.ask(Cmd::WRITE, 2, 2 * MIB, MIB, &vec![2; 1 << 20]).await;
    waits_for_its_growth(&session).await;
    tokio::time::pause();
    session.close();
    assert_eq!(client.simple().await, (0, 2));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_write_that_waits_for_its_growth_does_not_land_when_its_session_is_gone() {
    let (scene, mut client, session) = grown_as_far_as_the_rate_goes().await;
    client.ask(Cmd::WRITE, 2, 2 * MIB - 512, 1024, &[2; 1024]).await;
    waits_for_its_growth(&session).await;
    drop(client);
    session.ended().await;
    let mut again = scene.client(Framing::Simple).await;
    // What overlaps it waits until nobody has it any more.
    again.ask(Cmd::WRITE, 3, 2 * MIB - 512, 512, &[3; 512]).await;
    assert_eq!(again.simple().await, (0, 3));
    while session.export.size() < 2 * MIB + 512 {
        tokio::task::yield_now().await;
    }
    again.ask(Cmd::READ, 4, 2 * MIB - 512, 512, &[]).await;
    assert_eq!(again.simple().await, (0, 4));
    assert_eq!(again.take(512).await, [3; 512]);
}

/// A client whose first write took all of the rate: the next one that grows the disk waits.
async fn grown_as_far_as_the_rate_goes() -> (Scene, Client, Arc<Session>) {
    let keys = "[export.resize]\nautomatic = \"always\"\nstep = 0\ngrowth-wait = \"30s\"";
    let scene = Scene::new("1MiB", "growth-rate = \"1MiB/s\"", keys);
    let mut client = scene.client(Framing::Simple).await;
    let session = only(&scene);
    client.ask(Cmd::WRITE, 1, MIB, MIB, &vec![1; 1 << 20]).await;
    assert_eq!(client.simple().await, (0, 1));
    (scene, client, session)
}

/// Until the second write has asked for its growth.
async fn waits_for_its_growth(session: &Session) {
    while session.export.resizer.jobs.list().len() < 2 {
        tokio::task::yield_now().await;
    }
}

fn only(scene: &Scene) -> Arc<Session> {
    let open: Vec<_> = scene.front.table.open.iter().filter_map(|entry| entry.value().upgrade()).collect();
    assert_eq!(open.len(), 1);
    open[0].clone()
}

/// It looked for its client every 250 ms: another client's write could get ahead of what was in flight.
#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_read_ends_as_soon_as_its_client_has_left() {
    let scene = Scene::new("1MiB", "", "[export.limits]\nsession-io = { iops = \"1/s\" }");
    let mut client = scene.client(Framing::Simple).await;
    for cookie in 0..8 {
        client.ask(Cmd::READ, cookie, 0, 512, &[]).await;
    }
    assert_eq!(client.reply(Cmd::READ, 0, 512).await.error, 0);
    let begun = tokio::time::Instant::now();
    drop(client);
    scene.front.table.emptied().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}
