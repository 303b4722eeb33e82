//! What the program says about itself and about a configuration: check, schema, completions, man.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use nbd_gateway_config::Config;
use nbd_gateway_config::cli::Cli;

use super::{DONE, USAGE, failed, log};

/// Reads a configuration as `serve` would, and prints every problem at once.
pub fn check(path: &Path) -> ExitCode {
    match Config::load(path) {
        Ok(config) => {
            if let Err(error) = log::can(&config.log) {
                eprintln!("{}: {error}", path.display());
                return ExitCode::from(USAGE);
            }
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
    let mut out = Vec::new();
    match page(&mut out) {
        Ok(()) => print(&String::from_utf8_lossy(&out)),
        Err(error) => failed(&error),
    }
}

/// The one page that there is; so it has all commands, and refers to no page of theirs.
fn page(out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let page = clap_mangen::Man::new(command.clone());
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    writeln!(out, ".SH SUBCOMMANDS")?;
    each(&command, "nbd-gateway", &mut |path, sub| {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff(path), roff(&about))
    })?;
    writeln!(out, ".SH \"EXIT STATUS\"")?;
    let codes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    // The first line is its title.
    for (code, meaning) in codes.lines().skip(1).filter_map(|line| line.trim().split_once(' ')) {
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff(code), roff(meaning.trim()))?;
    }
    each(&command, "nbd-gateway", &mut |path, sub| {
        let page = clap_mangen::Man::new(sub.clone());
        let mut section = Vec::new();
        page.render_description_section(&mut section)?;
        page.render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section).replace(".SH DESCRIPTION\n", "").replace(".SH ", ".SS ");
        write!(out, ".SH \"{}\"\n{section}", roff(&path.to_uppercase()))
    })
}

/// Every command that does something, with its words.
fn each(
    command: &clap::Command,
    path: &str,
    tell: &mut impl FnMut(&str, &clap::Command) -> io::Result<()>,
) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() { each(sub, &path, tell)? } else { tell(&path, sub)? }
    }
    Ok(())
}

/// Text as roff takes it. No line of ours begins with a dot.
fn roff(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-").replace('\'', "\\(aq")
}

/// A closed pipe (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::from(DONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_refers_to_no_page_that_is_not_there_and_has_its_exit_status() {
        let mut out = Vec::new();
        page(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap().replace("\\-", "-");
        assert!(!text.contains("(1)"), "{text}");
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert_eq!(
            sections[..6],
            ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "\"EXIT STATUS\""],
            "{sections:?}"
        );
        assert!(sections.contains(&"\"NBD-GATEWAY CLIENT INFO\""), "{sections:?}");
        assert!(text.contains(".TP\n\\fB1\\fR\nit failed; why is on standard error\n"), "{text}");
    }
}
