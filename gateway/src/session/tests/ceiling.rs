//! A client that is shown the ceiling, against a vector of bytes.

use proptest::prelude::*;

use super::*;

/// What it is shown, in bytes.
const CEILING: u64 = 64 << 10;

#[derive(Clone, Debug)]
enum Op {
    Read(u64, u64),
    Write(u64, u64, u8),
    Zero(u64, u64),
    Trim(u64, u64),
    Cache(u64, u64),
    Status(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Offsets cluster where sizes do, and reach past the ceiling.
    let offset = prop_oneof![0..CEILING + 512, (0..16u64).prop_map(|n| n << 12)];
    let length = prop_oneof![1..64u64, 1..20_000u64, (1..5u64).prop_map(|n| n << 12)];
    (0..6, offset, length, 1..=255u8).prop_map(|(kind, offset, length, byte)| match kind {
        0 => Op::Read(offset, length),
        1 => Op::Write(offset, length, byte),
        2 => Op::Zero(offset, length),
        3 => Op::Trim(offset, length),
        4 => Op::Cache(offset, length),
        _ => Op::Status(offset, length),
    })
}

async fn play(framing: Framing, size: u64, step: u64, ops: Vec<Op>) {
    let keys = format!("max-size = {CEILING}\n[export.resize]\npresent = \"ceiling\"\nstep = {step}");
    let scene = Scene::new(&size.to_string(), "", &keys);
    let mut client = scene.client(framing).await;
    assert_eq!(client.size, CEILING);
    let mut model = vec![0u8; usize::try_from(CEILING).unwrap()];
    // Where the real end must be at least.
    let mut written = size;
    for op in ops {
        let (command, offset, length, byte) = match op {
            Op::Read(offset, length) => (Cmd::READ, offset, length, 0),
            Op::Write(offset, length, byte) => (Cmd::WRITE, offset, length, byte),
            Op::Zero(offset, length) => (Cmd::WRITE_ZEROES, offset, length, 0),
            Op::Trim(offset, length) => (Cmd::TRIM, offset, length, 0),
            Op::Cache(offset, length) => (Cmd::CACHE, offset, length, 0),
            Op::Status(offset, length) => (Cmd::BLOCK_STATUS, offset, length, 0),
        };
        if command == Cmd::BLOCK_STATUS && framing == Framing::Simple {
            continue;
        }
        let payload = if command == Cmd::WRITE { vec![byte; usize::try_from(length).unwrap()] } else { Vec::new() };
        client.ask(command, 1, offset, length, &payload).await;
        let reply = client.reply(command, offset, length).await;
        let writes = matches!(command, Cmd::WRITE | Cmd::WRITE_ZEROES);
        if offset + length > CEILING {
            assert_eq!(reply.error, if writes { 28 } else { 22 }, "{op:?} past the ceiling");
            continue;
        }
        assert_eq!(reply.error, 0, "{op:?}");
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        let real = scene.real().await;
        match command {
            Cmd::READ => {
                let expect: Vec<_> = model[range].iter().map(|b| Some(*b)).collect();
                assert!(reply.data == expect, "{op:?} with an end at {real}");
                let hole = framing != Framing::Simple && offset + length > real;
                assert!(!hole || reply.holes > 0, "{op:?} with an end at {real}: zeroes that could be a hole");
            }
            Cmd::WRITE | Cmd::WRITE_ZEROES => {
                model[range].fill(byte);
                written = written.max(offset + length);
                assert!((written..=CEILING).contains(&real), "{op:?}: the end is at {real}");
            }
            // The memory disk reads zeroes there afterwards; the tail did before.
            Cmd::TRIM => {
                client.ask(Cmd::READ, 2, offset, length, &[]).await;
                let now = client.reply(Cmd::READ, offset, length).await;
                for (was, is) in model[range].iter_mut().zip(now.data) {
                    assert!(is == Some(0) || is == Some(*was), "{op:?} made {is:?} of {was}");
                    *was = is.unwrap();
                }
            }
            Cmd::BLOCK_STATUS => {
                // Short only where there was no room for more: one extent, and one for each 512 bytes.
                let full = u64::try_from(reply.extents.len()).unwrap() > length / 512;
                let told = reply.extents.iter().map(|(length, _)| length).sum::<u64>();
                assert!(told == length || full && (1..length).contains(&told), "{op:?}: {told} bytes");
                let mut at = offset;
                for (length, flags) in &reply.extents {
                    let zero = model[usize::try_from(at).unwrap()..][..usize::try_from(*length).unwrap()]
                        .iter()
                        .all(|b| *b == 0);
                    assert!(flags & 2 == 0 || zero, "{op:?}: {length} bytes at {at} are told to be zero");
                    at += length;
                    assert!(at <= real || *flags == 3, "{op:?}: flags {flags} past the end at {real}");
                }
            }
            _ => {}
        }
        if !writes {
            assert_eq!(real, scene.real().await, "{op:?} has grown the export");
        }
    }
}

impl Scene {
    /// The size that there is.
    async fn real(&self) -> u64 {
        self.front.registry.open("e").await.unwrap().export().size()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn below_the_ceiling_an_export_is_bytes_that_begin_as_zeroes(
        framing in prop_oneof![Just(Framing::Simple), Just(Framing::Structured), Just(Framing::Extended)],
        size in prop_oneof![1..CEILING, Just(1), Just(CEILING)],
        step in prop_oneof![Just(0u64), 1..9000u64],
        ops in prop::collection::vec(op(), 1..40),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(framing, size, step, ops));
    }
}

#[tokio::test]
async fn a_write_that_the_quota_refuses_is_enospc_and_the_session_goes_on() {
    let keys = "max-size = \"1GiB\"\n[export.resize]\npresent = \"ceiling\"\nstep = \"1MiB\"";
    let scene = Scene::new("64KiB", "quota = \"2MiB\"", keys);
    let mut client = scene.client(Framing::Structured).await;
    for (offset, error) in [(1 << 20, 0), ((2 << 20) - 512, 0), ((2 << 20) - 511, 28), (1 << 29, 28), (0, 0)] {
        client.ask(Cmd::WRITE, 1, offset, 512, &[1; 512]).await;
        assert_eq!(client.reply(Cmd::WRITE, offset, 512).await.error, error, "at {offset}");
    }
    assert_eq!(scene.real().await, 2 << 20, "the last step is cut to what the quota leaves");
    client.ask(Cmd::READ, 1, (2 << 20) - 512, 1024, &[]).await;
    let data = client.reply(Cmd::READ, (2 << 20) - 512, 1024).await.data;
    assert_eq!(data.iter().filter(|byte| **byte == Some(1)).count(), 512);
}
