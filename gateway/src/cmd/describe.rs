//! What the program says about itself and about a configuration: check, schema, completions, man.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use nbd_gateway_config::Config;
use nbd_gateway_config::cli::Cli;

use super::{DONE, USAGE, failed};

/// Reads a configuration as `serve` would, and prints every problem at once.
pub fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            let (exact, templates) = (config.listable().count(), config.templates().count());
            let listeners = config.listeners.len();
            println!(
                "{}: {listeners} listener(s), {exact} export(s), {templates} template(s): no problems",
                path.display()
            );
            ExitCode::from(DONE)
        }
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::from(USAGE)
        }
    }
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
    clap_complete::generate(shell, &mut Cli::command(), "nbd-gateway", &mut out);
    // For a program with a `-` in its name, clap_complete 4.6 sets labels in bash that it then does not look for, and no
    // command is completed any further.
    print(&String::from_utf8_lossy(&out).replace("nbd__subcmd__gateway", "nbd__gateway"))
}

/// Prints the man page: the program, then each command.
pub fn man() -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let mut out = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    if let Err(error) = page.render(&mut out).and_then(|()| subcommands(&command, "nbd-gateway", &mut out)) {
        return failed(&error);
    }
    print(&String::from_utf8_lossy(&out))
}

fn subcommands(command: &clap::Command, path: &str, out: &mut Vec<u8>) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            subcommands(sub, &path, out)?;
            continue;
        }
        writeln!(out, ".SH \"{}\"", path.to_uppercase())?;
        let page = clap_mangen::Man::new(sub.clone());
        page.render_description_section(out)?;
        page.render_options_section(out)?;
    }
    Ok(())
}

/// A closed pipe (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::from(DONE),
    }
}
