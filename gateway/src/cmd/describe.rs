//! What the program says about itself and about a configuration: check, schema, completions.

use nbd_gateway_policy::types::Count;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nbd_gateway_config::{self as config, Config};
use nbd_gateway_net::tls::ListenerTls;

use super::{DONE, USAGE, failed};
use crate::cmd::cli;
use crate::export::{aliases, tight};
use crate::log;

/// Reads a configuration as `serve` would, and prints every problem at once.
pub fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            if let Err(error) = log::can(&config.log) {
                return super::misused(&format_args!("{}: {error}", path.display()));
            }
            let misplaced = aliases::misplaced_files(&config);
            if !misplaced.is_empty() {
                misplaced.iter().for_each(|what| super::complain(&format_args!("{}: {what}", path.display())));
                return ExitCode::from(USAGE);
            }
            let certificates: Vec<String> = certificates(&config).collect();
            if !certificates.is_empty() {
                certificates.iter().for_each(|what| eprintln!("{}: {what}", path.display()));
                return ExitCode::from(USAGE);
            }
            // No problem, and yet seldom meant.
            for twins in aliases::aliases(&config) {
                super::complain(&format_args!("{}: warning: {twins}", path.display()));
            }
            for tight in tight::tight(&config) {
                super::complain(&format_args!("{}: warning: {tight}", path.display()));
            }
            let (exact, templates) = (config.listable().count(), config.templates().count());
            let listeners = config.listeners.len();
            println!(
                "{}: {}, {}, {}: no problems",
                path.display(),
                Count::of(listeners, "listener"),
                Count::of(exact, "export"),
                Count::of(templates, "template"),
            );
            ExitCode::from(DONE)
        }
        Err(problems) => super::misused(&problems),
    }
}

/// What is wrong with listeners' certificates, where their directory is on this host.
fn certificates(config: &Config) -> impl Iterator<Item = String> {
    config.listeners.iter().filter_map(|listener| match &listener.tls {
        config::ListenerTls::On { certificates, verify_peer, .. } if certificates.is_dir() => {
            let fault = ListenerTls::check(certificates, *verify_peer).err()?;
            Some(format!("listener {listener}: {fault}"))
        }
        config::ListenerTls::On { .. } | config::ListenerTls::Off => None,
    })
}

/// Prints the JSON schema of the configuration.
pub fn schema() -> ExitCode {
    match serde_json::to_string_pretty(nbd_gateway_config::schema()) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => failed(&error),
    }
}

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "nbd-gateway", &mut out);
    // For a program with a `-` in its name, clap_complete 4.6 sets labels in bash that it then does not look for, and no
    // command is completed any further.
    print(&String::from_utf8_lossy(&out).replace("nbd__subcmd__gateway", "nbd__gateway"))
}

/// A closed pipe (`| head`) is no failure.
pub(super) fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::from(DONE),
    }
}
