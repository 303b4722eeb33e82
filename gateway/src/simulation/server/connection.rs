//! One connection of the scripted server: handshake, requests and the bytes of replies.

use std::sync::Arc;

use nbd_gateway_proto::handshake::server::match_contexts;
use nbd_gateway_proto::handshake::{Ask, BlockSizes, Offer, Progress, Server as Handshake, Tls};
use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::ResizeInfo;
use nbd_gateway_proto::{Cmd, Framing, Heap, Inbox, Opt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::disk::SECTOR;
use super::super::random::Random;
use super::super::scene::Shared;
use super::Connection;
use super::request::{Received, is_cut};

/// An option number that no server knows.
const NO_OPTION: u32 = 99;

/// Serves one connection to its end.
pub(super) async fn serve(world: Shared, mut stream: UnixStream, connection: Arc<Connection>, mut random: Random) {
    let mut cut = connection.cut.follow();
    tokio::select! {
        // A cut first: the server reads nothing after it.
        biased;
        () = is_cut(&mut cut) => {}
        () = converse(&world, &mut stream, &connection, &mut random) => {}
    }
    connection.cut.set(true);
    world.lock().history.note(format_args!("connection {} is over", connection.number));
}

async fn converse(world: &Shared, stream: &mut UnixStream, connection: &Arc<Connection>, random: &mut Random) {
    let mut inbox = Inbox::default();
    let Some(framing) = greet(world, stream, &mut inbox).await else { return };
    let cuts = {
        let world = world.lock();
        !world.server.faultless && random.percent(world.server.profile.cuts)
    };
    // The byte at which the connection is cut: of the input or of the output.
    let (mut left_in, mut left_out) = match cuts {
        true if random.percent(50) => (usize::try_from(random.below(6_000)).unwrap(), usize::MAX),
        true => (usize::MAX, usize::try_from(random.below(6_000)).unwrap()),
        false => (usize::MAX, usize::MAX),
    };
    let mut waiting: Option<RequestHeader> = None;
    loop {
        while let Some(header) = waiting.take().or_else(|| RequestHeader::take(&mut inbox, framing).unwrap()) {
            let length = if header.command == Cmd::WRITE { usize::try_from(header.length).unwrap() } else { 0 };
            let Some(payload) = inbox.payload(length) else {
                waiting = Some(header);
                break;
            };
            if header.command == Cmd::DISC {
                return;
            }
            let (life, at, refusable) = {
                let world = world.lock();
                (world.server.life, world.history.now(), world.server.leaving)
            };
            let request = Received { header, payload, framing, life, at, refusable, random: random.split() };
            tokio::spawn(request.carry_out(Arc::clone(world), Arc::clone(connection)));
        }
        if left_in == 0 || left_out == 0 {
            return;
        }
        let has_out = !connection.out.lock().is_empty();
        tokio::select! {
            // Replies first, so that a cut hits them. They end when all requests are answered.
            biased;
            ready = stream.writable(), if has_out => {
                if ready.is_err() {
                    return;
                }
                let mut out = connection.out.lock();
                let some = out.len().min(left_out);
                match stream.try_write(&out[..some]) {
                    Ok(written) => {
                        out.drain(..written);
                        left_out -= if left_out == usize::MAX { 0 } else { written };
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            ready = stream.readable() => {
                if ready.is_err() {
                    return;
                }
                let mut some = vec![0; 4096.min(left_in)];
                match stream.try_read(&mut some) {
                    Ok(0) => return,
                    Ok(read) => {
                        inbox.room(&Heap).extend_from_slice(&some[..read]);
                        left_in -= if left_in == usize::MAX { 0 } else { read };
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
            () = connection.wake.notified() => {}
        }
    }
}

async fn greet(world: &Shared, stream: &mut UnixStream, inbox: &mut Inbox) -> Option<Framing> {
    let mut side = Handshake::new(4096, Tls::Off);
    // The sans-IO server knows every framing. Options that this server does not know get another number on their way.
    let unknown: &[u32] = match world.lock().server.profile.framing {
        Framing::Simple => &[Opt::STRUCTURED_REPLY.0, Opt::EXTENDED_HEADERS.0],
        Framing::Structured => &[Opt::EXTENDED_HEADERS.0],
        Framing::Extended => &[],
    };
    let mut asked = None;
    while !side.is_finished() {
        if let Some(option) = inbox.bytes().get_mut(8..12) {
            let number = u32::from_be_bytes((*option).try_into().unwrap());
            asked = unknown.contains(&number).then_some(number);
            if asked.is_some() {
                option.copy_from_slice(&NO_OPTION.to_be_bytes());
            }
        }
        let progress = side.handle_input(inbox.bytes()).ok()?;
        if let (Some(number), Some(option)) = (asked, side.output().get_mut(8..12)) {
            option.copy_from_slice(&number.to_be_bytes());
            asked = None;
        }
        {
            let world = world.lock();
            let profile = &world.server.profile;
            let names: &[(usize, &str)] = if profile.allocation { &[(0, "base:allocation")] } else { &[] };
            match progress {
                Progress::Ask(Ask::Info { name, infos, .. }) => {
                    let resize = profile.features.map(|features| {
                        let maximum = profile.most as u64 * SECTOR;
                        let granularity = u64::from(profile.minimum).max(SECTOR);
                        ResizeInfo { features, minimum: SECTOR, maximum, granularity }.to_body()
                    });
                    let block_sizes = Some(BlockSizes { minimum: profile.minimum, preferred: 4096, maximum: 1 << 20 });
                    let (size, flags) = (world.disk.size(), profile.flags());
                    side.answer_info(
                        &infos,
                        &Offer { size, flags, name: &name, description: None, block_sizes, resize },
                    );
                }
                Progress::Ask(Ask::ExportName { .. }) => side.answer_export_name(world.disk.size(), profile.flags()),
                Progress::Ask(Ask::Contexts { name, set, queries }) => {
                    side.answer_contexts(&name, &match_contexts(names, &queries, set));
                }
                Progress::Aborted => return None,
                _ => {}
            }
        }
        stream.write_all(&core::mem::take(side.output())).await.ok()?;
        if !side.is_finished() && stream.read_buf(inbox.room(&Heap)).await.ok()? == 0 {
            return None;
        }
    }
    Some(side.framing())
}
