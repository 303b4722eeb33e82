//! Requests that the bridge sends in pieces, handed over while the server has some of them.

use std::path::PathBuf;

use nbd_gateway_proto::handshake::{Ask, BlockSizes, Offer, Progress, Server as Handshake, Tls};
use nbd_gateway_proto::{ExportFlags, Heap, Inbox};
use tokio::net::UnixListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;

const SIZE: u64 = 1 << 20;

/// A server, whose first connection the test answers. Others look at its size.
struct Server {
    requests: UnboundedReceiver<RequestHeader>,
    replies: UnboundedSender<Vec<u8>>,
    directory: PathBuf,
}

impl Server {
    /// With blocks of these sizes, and a gateway in front of it.
    fn new(name: &str, minimum: u32, maximum: u32) -> (Self, Scene) {
        let directory = std::env::temp_dir().join(format!("nbd-gateway-pieces-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (asks, requests) = unbounded_channel();
        let (replies, answers) = unbounded_channel();
        tokio::spawn(async move {
            let mut answers = Some(answers);
            while let Ok((stream, _)) = listener.accept().await {
                let answers = answers.take().unwrap_or_else(|| unbounded_channel().1);
                tokio::spawn(serve(stream, BlockSizes { minimum, preferred: 4096, maximum }, asks.clone(), answers));
            }
        });
        let scene = Scene::in_front_of(&format!("backend = \"nbd+unix:///e?socket={}\"", path.display()), "", "");
        (Self { requests, replies, directory }, scene)
    }

    async fn next(&mut self) -> RequestHeader {
        let next = timeout(Duration::from_secs(60), self.requests.recv()).await;
        next.expect("the gateway sends nothing").unwrap()
    }

    async fn some(&mut self, count: usize) -> Vec<RequestHeader> {
        let mut headers = Vec::new();
        while headers.len() < count {
            headers.push(self.next().await);
        }
        headers
    }

    /// Answers READs until blocks are written.
    async fn written(&mut self, offset: u64, length: u64) -> RequestHeader {
        loop {
            let header = self.next().await;
            if header.command == Cmd::WRITE {
                assert_eq!((header.offset, header.length), (offset, length));
                return header;
            }
            self.answer(&header, 0).await;
        }
    }

    /// Answers a request, and waits until the gateway has read that.
    async fn answer(&self, header: &RequestHeader, error: u32) {
        let (kind, body) = match (error, header.command) {
            (0, Cmd::READ) => {
                let data = vec![0; usize::try_from(header.length).unwrap()];
                (1_u16, [&header.offset.to_be_bytes()[..], &data].concat())
            }
            (0, _) => (0, Vec::new()),
            _ => (0x8001, [&error.to_be_bytes()[..], &[0; 2]].concat()),
        };
        let length = u64::try_from(body.len()).unwrap();
        let [magic, offset] = [&0x6e8a_278c_u32.to_be_bytes()[..], &header.offset.to_be_bytes()];
        let head = [magic, &1_u16.to_be_bytes(), &kind.to_be_bytes(), &header.cookie.0.to_be_bytes(), offset].concat();
        self.replies.send([&head[..], &length.to_be_bytes(), &body].concat()).unwrap();
        settle().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// All others do what they can.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

async fn serve(
    mut stream: UnixStream,
    sizes: BlockSizes,
    asks: UnboundedSender<RequestHeader>,
    mut answers: UnboundedReceiver<Vec<u8>>,
) {
    let flags = ExportFlags::HAS_FLAGS.with(ExportFlags::SEND_FLUSH).with(ExportFlags::SEND_WRITE_ZEROES);
    let (mut side, mut inbox) = (Handshake::new(4096, Tls::Off), Inbox::default());
    while !side.is_finished() {
        match side.handle_input(inbox.bytes()).unwrap() {
            Progress::Ask(Ask::Info { name, infos, .. }) => {
                let offer =
                    Offer { size: SIZE, flags, name: &name, description: None, block_sizes: Some(sizes), resize: None };
                side.answer_info(&infos, &offer);
            }
            Progress::Ask(Ask::Contexts { name, .. }) => side.answer_contexts(&name, &[]),
            Progress::Aborted => return,
            _ => {}
        }
        stream.write_all(&core::mem::take(side.output())).await.unwrap();
        if !side.is_finished() && stream.read_buf(inbox.room(&Heap)).await.is_ok_and(|read| read == 0) {
            return;
        }
    }
    let mut waiting: Option<RequestHeader> = None;
    loop {
        while let Some(header) = waiting.take().or_else(|| RequestHeader::take(&mut inbox, side.framing()).unwrap()) {
            let length = if header.command == Cmd::WRITE { usize::try_from(header.length).unwrap() } else { 0 };
            if inbox.payload(length).is_none() {
                waiting = Some(header);
                break;
            }
            if header.command == Cmd::DISC {
                return;
            }
            let _ = asks.send(header);
        }
        tokio::select! {
            // Answers first: the test waits for them.
            biased;
            Some(answer) = answers.recv() => stream.write_all(&answer).await.unwrap(),
            Ok(read) = stream.read_buf(inbox.room(&Heap)) => if read == 0 { return },
            else => return,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_piece_is_sent_again_over_what_another_client_has_written_since() {
    for fails in [0, 5] {
        let (mut server, scene) = Server::new("window", 1, 4096);
        let (mut one, mut other) = (scene.client(Framing::Simple).await, scene.client(Framing::Simple).await);
        one.ask(Cmd::WRITE, 1, 0, 4 * 4096, &[1; 4 * 4096]).await;
        let pieces = server.some(4).await;
        server.answer(&pieces[1], 0).await;
        server.answer(&pieces[2], fails).await;
        for _ in 0..2 {
            settle().await;
            assert_eq!(scene.hand_over().await, Some(2));
        }
        other.ask(Cmd::WRITE, 2, 2048, 3 * 4096, &[2; 3 * 4096]).await;
        let newer = server.some(3).await;
        for (header, offset) in newer.iter().zip([2048, 2048 + 4096, 2048 + 2 * 4096]) {
            assert_eq!(header.offset, offset, "a piece of the older one was sent again");
            server.answer(header, 0).await;
        }
        assert_eq!(other.simple().await, (0, 2));
        server.answer(&pieces[0], 0).await;
        server.answer(&pieces[3], 0).await;
        assert_eq!(one.simple().await, (fails, 1));
        settle().await;
        assert!(server.requests.try_recv().is_err(), "more was sent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_on_with_the_pieces_that_were_not_sent() {
    let (mut server, scene) = Server::new("rest", 1, 4096);
    let mut client = scene.client(Framing::Simple).await;
    client.ask(Cmd::WRITE, 1, 0, 40 * 4096, &[1; 40 * 4096]).await;
    let sent = server.some(32).await;
    assert_eq!(scene.hand_over().await, Some(1));
    for piece in &sent {
        server.answer(piece, 0).await;
    }
    for piece in server.some(8).await {
        assert!(piece.offset >= 32 * 4096, "{piece:?}");
        server.answer(&piece, 0).await;
    }
    assert_eq!(client.simple().await, (0, 1));
    assert!(server.requests.try_recv().is_err(), "more was sent");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_read_and_written_stays_its_requests_own() {
    let (mut server, scene) = Server::new("block", 4096, 1 << 20);
    let (mut one, mut other) = (scene.client(Framing::Simple).await, scene.client(Framing::Simple).await);
    one.ask(Cmd::WRITE, 1, 512, 512, &[1; 512]).await;
    let first = server.written(0, 4096).await;
    other.ask(Cmd::WRITE, 2, 2048, 4096, &[2; 4096]).await;
    settle().await;
    one.ask(Cmd::WRITE, 3, 4096, 512, &[3; 512]).await;
    let last = server.written(4096, 4096).await;
    server.answer(&first, 0).await;
    assert_eq!(one.simple().await, (0, 1));
    // The other request waits for the second block, and is older than the one that has it.
    assert_eq!(scene.hand_over().await, Some(2));
    settle().await;
    while let Ok(again) = server.requests.try_recv() {
        assert_eq!((again.command, again.offset), (Cmd::READ, 4096), "the other request did not wait");
        server.answer(&again, 0).await;
    }
    server.answer(&last, 0).await;
    assert_eq!(one.simple().await, (0, 3));
    let both = server.written(0, 8192).await;
    server.answer(&both, 0).await;
    assert_eq!(other.simple().await, (0, 2));
}
