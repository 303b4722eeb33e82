//! `serve`: reads the configuration, builds the gateway, and runs it until a signal.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nbd_gateway_config::Config;
use nbd_gateway_metrics::Metrics;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{DONE, FAILED, failed, token};
use crate::app::{App, StartError};
use crate::log;
use crate::reload::{Reload, ReloadError, Source};
use crate::service::Service;
use crate::shards::Shards;

/// Runs the gateway: with this configuration, or with the embedded default.
pub fn run(path: Option<&Path>) -> ExitCode {
    let config = match path {
        Some(path) => Config::load(path),
        None => match std::env::current_dir() {
            Ok(here) => Ok(Config::embedded_default(&here)),
            Err(error) => return failed(&format!("can't tell the current directory: {error}")),
        },
    };
    let config = match config {
        Ok(config) => config,
        Err(problems) => return super::misused(&problems),
    };
    let metrics = match Metrics::new(env!("CARGO_PKG_VERSION")) {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return failed(&format!("cannot set up the metrics: {error}")),
    };
    // Dropped after everything else has ended: it writes lines and posts spans that wait then.
    let mut log = match log::start(&config.log, &metrics) {
        Ok(log) => log,
        Err(error) => return super::misused(&format_args!("nbd-gateway: {error}")),
    };
    let source = Source { file: path.map(Path::to_owned), level: log.set_level.take() };
    let threads = config.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    // Requests are the shards' work; this runtime accepts, shakes hands, dials and administers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (runtime, shards) = match (runtime, Shards::start(threads)) {
        (Ok(runtime), Ok(shards)) => (runtime, shards),
        (Err(error), _) | (_, Err(error)) => {
            log.say(&format!("can't start {threads} threads: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let outcome = runtime.block_on(serve(config, shards, source, metrics));
    // A disk that hangs in the kernel must not hold the end up.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => {
            log.say(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// Why the gateway does not serve.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("can't write an operator's token to {}: {error}", path.display())]
    Token { path: PathBuf, error: io::Error },
}

async fn serve(config: Config, shards: Shards, source: Source, metrics: Arc<Metrics>) -> Result<(), ServeError> {
    // Caught before anyone can send one: an early SIGTERM is a drain too.
    let stop = async {
        let Ok(stopped) = stopped() else { return std::future::pending().await };
        // A file over RLIMIT_FSIZE is to be an error for one request, not the end of the process.
        let _fsize = signal(SignalKind::from_raw(25));
        ignore(SignalKind::user_defined1(), "SIGUSR1");
        ignore(SignalKind::user_defined2(), "SIGUSR2");
        stopped.await;
    };
    let mut stop = std::pin::pin!(stop);
    // Polled once, so that the signals are caught from here on.
    let early = tokio::select! { biased; () = &mut stop => true, () = std::future::ready(()) => false };
    if early {
        return Ok(());
    }
    let service = Service::from_env();
    // Caught from here on too: until the gateway runs it would be the end of the process.
    let hangups = signal(SignalKind::hangup());
    // A newcomer brings none; everybody else says where theirs is.
    let own_token = config.token_file.clone().filter(|_| source.file.is_none());
    let app = App::build(config, shards, metrics).await?;
    if let Some(path) = &own_token {
        token::write_fresh(path).map_err(|error| ServeError::Token { path: path.clone(), error })?;
    }
    say_on_standard_output(announcement(&app, own_token.as_deref()));
    if let Ok(hangups) = hangups {
        tokio::spawn(read_anew(hangups, app.reload()));
    }
    Box::pin(app.run(source, stop, service)).await;
    Ok(())
}

/// Catches, from now on, the signals that ask for an end, and waits for one. Within a runtime.
pub(super) fn stopped() -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            // In any order: both mean the same.
            biased;
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Has a signal log a line; it would end the process. Within a runtime.
pub(super) fn ignore(kind: SignalKind, name: &'static str) {
    let Ok(mut signals) = signal(kind) else { return };
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            tracing::info!(signal = name, "signal ignored: it has no meaning here");
        }
    });
}

/// Has the configuration read anew at each SIGHUP; those that come while one is under way are one.
async fn read_anew(mut hangups: Signal, reload: Reload) {
    while hangups.recv().await.is_some() {
        // What came of it is in the log.
        if let Err(why @ ReloadError::NotNow) = reload.ask().await {
            tracing::info!(%why, "SIGHUP is ignored");
        }
    }
}

/// Writes a text to standard output in a thread of its own: a pipe that nobody reads must not stop the gateway.
fn say_on_standard_output(text: String) {
    let write = move || {
        let mut out = io::stdout().lock();
        // Nobody reads: no reason not to serve.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    if let Err(error) = std::thread::Builder::new().name("stdout".to_owned()).spawn(write) {
        tracing::warn!(%error, "cannot start a thread to write to standard output; the addresses are in the log");
    }
}

/// Where the gateway is, for standard output; logs go to standard error.
fn announcement(app: &App, own_token: Option<&Path>) -> String {
    let mut text = String::new();
    for uri in app.listening() {
        text.push_str(&format!("listening on {uri}\n"));
    }
    if let Some(url) = app.admin() {
        text.push_str(&format!("admin on {url}\n"));
    }
    if let (Some(token), Some(uri), Some(admin)) = (own_token, app.listening().next(), app.admin()) {
        let program = here(std::env::current_exe().ok().as_deref()).unwrap_or_else(|| "nbd-gateway".to_owned());
        let token = here(Some(token)).unwrap_or_else(|| token.display().to_string());
        text.push_str(&format!(
            "\nThe disk `demo` is a sparse file in ./nbd-gateway-data, and {admin}/ shows what becomes of it.\n\
             Try, in another terminal, in this directory:\n  \
             {program} client info {uri}/demo\n  \
             qemu-img info {uri}/demo\n  \
             {program} resize demo 2GiB --token-file {token}\n  \
             {program} exports\n  \
             curl {admin}/metrics\n\nStop with Ctrl-C.\n\n",
        ));
    }
    text.push_str("ready\n");
    text
}

/// A file as one types it in a shell in this directory: a program need not be on the path.
fn here(file: Option<&Path>) -> Option<String> {
    typed(file, std::env::current_dir().ok().as_deref())
}

/// `file` as a word for a shell, short if it is below `here`.
fn typed(file: Option<&Path>, here: Option<&Path>) -> Option<String> {
    let file = file?;
    let below = here.and_then(|here| file.strip_prefix(here).ok());
    let word = match below.unwrap_or(file).to_str()? {
        // Without a slash a shell would look on the path.
        bare if !bare.contains('/') => format!("./{bare}"),
        path => path.to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if word.chars().all(plain) { Some(word) } else { Some(format!("'{}'", word.replace('\'', "'\\''"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(program: &str, here: &str) -> String {
        typed(Some(Path::new(program)), Some(Path::new(here))).unwrap()
    }

    #[test]
    fn the_program_is_shown_as_a_shell_in_this_directory_takes_it() {
        assert_eq!(shown("/src/gw/target/release/nbd-gateway", "/src/gw"), "target/release/nbd-gateway");
        assert_eq!(shown("/usr/bin/nbd-gateway", "/src/gw"), "/usr/bin/nbd-gateway");
        assert_eq!(shown("/src/gw/nbd-gateway", "/src/gw"), "./nbd-gateway");
        assert_eq!(shown("/my disks/it's/nbd-gateway", "/"), r"'my disks/it'\''s/nbd-gateway'");
        assert_eq!(typed(None, Some(Path::new("/"))), None);
    }
}
