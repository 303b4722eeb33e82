//! `nbd-load`: clients in any number with any number of requests in flight each, against one NBD server.
//!
//! What `tests/bench` measures with. Prints one JSON object; times are in nanoseconds. Exits 1 if a session fails, and says why.

mod session;
mod wire;

use std::io::{self, Read, Write};
use std::mem;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use clap::Parser;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use session::{Begin, PATIENCE, Plan};
use wire::Wire;

/// How many sessions are opened at a time.
const OPENING: usize = 64;

/// Asks an NBD server for as much as it can give.
#[derive(Clone, Debug, Parser)]
struct Ask {
    /// HOST:PORT of the server
    address: String,
    /// Name of the export; `{}` is the session's number modulo --exports
    #[arg(long, default_value = "")]
    export: String,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    exports: u64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sessions: u64,
    /// Requests in flight on each session
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    depth: u16,
    /// Bytes of each request
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    size: u32,
    /// Of 100 requests, how many write
    #[arg(long, default_value_t = 0)]
    writes: u64,
    /// One block after the other; otherwise at random
    #[arg(long)]
    sequential: bool,
    /// Bytes of the export that are used
    #[arg(long, default_value_t = 1 << 30)]
    span: u64,
    /// How long to ask; 0: only open the sessions
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Ask for so many bytes in each session, however long it takes
    #[arg(long)]
    total: Option<u64>,
    /// Use TLS
    #[arg(long, value_enum, requires = "ca")]
    tls: Option<Begin>,
    /// File with the certificate of the CA that the server's is of; it has to be for `localhost`
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Print when all sessions are open, and ask for nothing until a line comes on standard input; its end ends the sessions
    #[arg(long)]
    wait: bool,
}

/// What threads tell each other.
struct Shared {
    barrier: Barrier,
    /// Set before all begin to ask: a session can't be opened, or there is nothing to ask for.
    over: AtomicBool,
    begun: Instant,
    told: Mutex<Vec<io::Result<Told>>>,
}

/// What a thread has to tell.
struct Told {
    /// From the first request until the last reply.
    asked: Duration,
    /// How long each request took, in nanoseconds.
    waits: Vec<u64>,
    cipher: Option<String>,
}

fn main() -> ExitCode {
    match load(&Ask::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nbd-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(ask: &Ask) -> io::Result<()> {
    let threads = thread::available_parallelism()?.get().min(usize::try_from(ask.sessions).unwrap_or(usize::MAX));
    let tls = ask.tls.map(|begin| Ok::<_, io::Error>((begin, trusting(ask.ca.as_ref())?))).transpose()?;
    let shared = Shared {
        barrier: Barrier::new(threads),
        over: AtomicBool::new(false),
        begun: Instant::now(),
        told: Mutex::default(),
    };
    thread::scope(|scope| {
        let start = |number| {
            let (tls, shared) = (tls.clone(), &shared);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let numbers = (0..ask.sessions).skip(number).step_by(threads).collect();
                LocalSet::new().block_on(&runtime, clients(ask, numbers, tls, shared, number == 0))
            })
        };
        let running: Vec<_> = (0..threads).map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
        };
        running.into_iter().try_for_each(join)
    })
}

/// Trust in the certificates of a file and nothing else.
fn trusting(file: Option<&PathBuf>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(file.map_or("".as_ref(), PathBuf::as_path)).map_err(io::Error::other)?
    {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// One thread's sessions. The first thread talks with whoever started the program.
async fn clients(
    ask: &Ask,
    numbers: Vec<u64>,
    tls: Option<(Begin, Arc<ClientConfig>)>,
    shared: &Shared,
    first: bool,
) -> io::Result<()> {
    let opened = open(ask, &numbers, tls).await;
    if opened.is_err() {
        shared.over.store(true, Ordering::Relaxed);
    }
    shared.barrier.wait();
    let open = shared.begun.elapsed();
    if first && ask.wait && !shared.over.load(Ordering::Relaxed) {
        shared.over.store(!told_to_begin(open).unwrap_or(false), Ordering::Relaxed);
    }
    shared.barrier.wait();
    let wires = opened?;
    if shared.over.load(Ordering::Relaxed) {
        return Ok(());
    }
    // All come to the barriers, whatever has failed.
    let (told, wires) = match asking(ask, wires).await {
        Ok((told, wires)) => (Ok(told), wires),
        Err(error) => (Err(error), Vec::new()),
    };
    shared.told.lock().push(told);
    shared.barrier.wait();
    let reported = if first { report(ask, open, mem::take(&mut *shared.told.lock())) } else { Ok(()) };
    shared.barrier.wait();
    for mut wire in wires {
        // NBD_CMD_DISC: some servers log a client that just goes away.
        let bye = [&[0x25, 0x60, 0x95, 0x13, 0, 0, 0, 2][..], &[0; 20]].concat();
        _ = wire.write_all(&bye).await;
    }
    reported
}

/// Says that all sessions are open, and waits for a line.
fn told_to_begin(open: Duration) -> io::Result<bool> {
    writeln!(io::stdout(), "{{\"open_ns\": {}}}", open.as_nanos())?;
    Ok(io::stdin().read_line(&mut String::new())? > 0)
}

/// Asks in all of a thread's sessions until they are done.
async fn asking(ask: &Ask, wires: Vec<(u64, Wire)>) -> io::Result<(Told, Vec<Wire>)> {
    let cipher = wires.first().and_then(|(_, wire)| wire.cipher());
    let plan = Rc::new(Plan {
        depth: ask.depth.into(),
        size: ask.size,
        writes: ask.writes,
        sequential: ask.sequential,
        span: ask.total.unwrap_or(ask.span),
        time: match ask.total {
            Some(_) => Duration::from_secs(3600),
            None => Duration::try_from_secs_f64(ask.seconds).map_err(io::Error::other)?,
        },
        total: ask.total.unwrap_or(u64::MAX),
        payload: noise(ask.size),
    });
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (number, mut wire) in wires {
        let (plan, sessions) = (Rc::clone(&plan), ask.sessions);
        running.spawn_local(async move {
            let waits = session::run(&mut wire, &plan, number, sessions).await?;
            Ok::<_, io::Error>((waits, wire))
        });
    }
    let (mut waits, mut wires) = (Vec::new(), Vec::new());
    while let Some(done) = running.join_next().await {
        let (some, wire) = done.map_err(io::Error::other)??;
        waits.extend(some);
        wires.push(wire);
    }
    Ok((Told { asked: begun.elapsed(), waits, cipher }, wires))
}

async fn open(ask: &Ask, numbers: &[u64], tls: Option<(Begin, Arc<ClientConfig>)>) -> io::Result<Vec<(u64, Wire)>> {
    let room = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    for number in numbers.iter().copied() {
        let permit = Arc::clone(&room).acquire_owned().await.map_err(io::Error::other)?;
        let export = ask.export.replace("{}", &(number % ask.exports).to_string());
        let (address, tls) = (ask.address.clone(), tls.clone());
        opening.spawn_local(async move {
            let opened = timeout(PATIENCE, session::open(&address, &export, tls)).await;
            let wire = opened.unwrap_or_else(|_| Err(io::Error::other("the server does not answer")));
            drop(permit);
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("session {number} can't be opened: {error}"));
            Ok::<_, io::Error>((number, wire.map_err(named)?))
        });
    }
    let mut wires = Vec::new();
    while let Some(opened) = opening.join_next().await {
        wires.push(opened.map_err(io::Error::other)??);
    }
    Ok(wires)
}

/// Bytes that no server takes for zeroes.
fn noise(size: u32) -> Vec<u8> {
    let bytes = (1_u32..).flat_map(|number| number.wrapping_mul(0x9E37_79B1).to_ne_bytes());
    bytes.take(usize::try_from(size).unwrap_or_default()).collect()
}

fn report(ask: &Ask, open: Duration, told: Vec<io::Result<Told>>) -> io::Result<()> {
    let told: Vec<Told> = told.into_iter().collect::<io::Result<_>>()?;
    let asked = told.iter().map(|t| t.asked).max().unwrap_or_default();
    let cipher = told.iter().find_map(|t| t.cipher.clone()).unwrap_or_default();
    let mut waits: Vec<u64> = told.into_iter().flat_map(|t| t.waits).collect();
    waits.sort_unstable();
    let part = |of_hundred: usize| {
        let at = (waits.len() * of_hundred / 100).min(waits.len().saturating_sub(1));
        waits.get(at).copied().unwrap_or_default()
    };
    writeln!(
        io::stdout(),
        "{{\"open_ns\": {}, \"ns\": {}, \"requests\": {}, \"size\": {}, \"p50_ns\": {}, \"p99_ns\": {}, \
         \"longest_ns\": {}, \"cipher\": \"{cipher}\"}}",
        open.as_nanos(),
        asked.as_nanos(),
        waits.len(),
        ask.size,
        part(50),
        part(99),
        part(100),
    )?;
    if ask.wait {
        // What the sessions have cost can be read until they leave.
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
