//! Peers that are scripted: they follow QMP, or leave it at one place.

use tokio::net::UnixListener;

use super::*;

/// A socket, and what a peer does on the first connection: it sends `first`, then for each line received the next answer.
fn peer(first: &'static str, answers: &'static [&'static str]) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("nbdgw-qmp-{}-{number}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let bound = path.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        std::fs::remove_file(&bound).unwrap();
        let _ = stream.write_all(first.as_bytes()).await;
        let mut buffer = [0; 4096];
        for answer in answers {
            if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        // Says nothing more, and stays.
        while stream.read(&mut buffer).await.unwrap_or(0) > 0 {}
    });
    path
}

const GREETS: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
const READY: &str = "{\"return\": {}, \"id\": 1}\r\n";

#[tokio::test]
async fn an_answer_is_found_among_events_and_a_refusal_keeps_the_connection() {
    let path = peer(
        GREETS,
        &[
            READY,
            "{\"event\": \"RESUME\"}\n{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such command\"}, \"id\": 2}\n",
            "{\"return\": [{\"node-name\": \"d1\", \"image\": {\"virtual-size\": 512}}], \"id\": 3}\n{\"event\": \"X\"}\n",
        ],
    );
    let mut qemu = Qemu::connect(&path).await.unwrap();
    assert_eq!(qemu.process(), i32::try_from(std::process::id()).ok());
    let error = qemu.execute("no-such", Value::Null, SOON).await.unwrap_err();
    assert!(error.is_unknown_command(), "{error}");
    assert_eq!(error.to_string(), "qemu refused no-such: no such command");
    assert_eq!(qemu.size_of("d1").await.unwrap(), Some(512));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_serves_another_client_is_named_as_such() {
    let error = Qemu::connect(&peer("", &[])).await.unwrap_err();
    assert!(matches!(error, QmpError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("one client at a time"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_answers_is_waited_for_as_long_as_was_said() {
    let mut qemu = Qemu::connect(&peer(GREETS, &[READY, "{\"event\": \"A\"}\n"])).await.unwrap();
    let error = qemu.execute("query-block-exports", Value::Null, SOON).await.unwrap_err();
    assert!(matches!(error, QmpError::Late { limit: SOON, .. }), "{error}");
}

#[tokio::test]
async fn a_peer_that_leaves_qmp_ends_the_call() {
    for (first, answers) in [
        ("SSH-2.0-OpenSSH\r\n", &[][..]),
        (READY, &[]),
        (GREETS, &["{\"return\": {}, \"id\": 7}\n"]),
        (GREETS, &["{\"error\": {\"class\": \"GenericError\", \"desc\": \"Invalid JSON syntax\"}}\n"]),
        (GREETS, &[GREETS]),
    ] {
        let error = Qemu::connect(&peer(first, answers)).await.unwrap_err();
        assert!(matches!(error, QmpError::Broken { .. }), "{first:?} {answers:?}: {error}");
    }
}

#[tokio::test]
async fn nobody_at_the_socket_is_told_with_its_path() {
    let error = Qemu::connect(Path::new("/nonexistent/qmp")).await.unwrap_err();
    assert!(error.to_string().starts_with("can't connect to the QMP socket /nonexistent/qmp: "), "{error}");
}
