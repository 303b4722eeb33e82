//! The manual pages, in roff: of the commands, from their definition; of the configuration, from its schema's words.

use std::io::{self, Write};
use std::process::ExitCode;

use nbd_gateway_config::reference::{Key, reference};

use super::describe::print;
use super::failed;
use crate::cmd::cli::{self, Page};

/// What the reference does not say of single keys.
const UNITS: &str = "Sizes are written 10GiB, 512MiB, 1TB or plain bytes; times 250ms, 30s, 5m, 1h; rates 20/s, 10/min, \
50GiB/h. A section in double brackets can stand there several times. `nbd-gateway check` tells everything that is wrong \
with a file at once.";

/// Prints a page.
pub fn man(page: Page) -> ExitCode {
    let mut out = Vec::new();
    let written = match page {
        Page::Commands => commands(&mut out),
        Page::Configuration => configuration(&mut out),
    };
    match written {
        Ok(()) => print(&String::from_utf8_lossy(&out)),
        Err(error) => failed(&error),
    }
}

/// One page for all commands, so it refers to no page of theirs.
fn commands(out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = cli::command();
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

/// Every section of the file with its keys.
fn configuration(out: &mut Vec<u8>) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(out, ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '")?;
    writeln!(out, ".TH nbd\\-gateway.toml 5 \"\" \"nbd\\-gateway {version}\"")?;
    writeln!(out, ".SH NAME\nnbd\\-gateway.toml \\- configuration of nbd\\-gateway")?;
    for (number, section) in reference().iter().enumerate() {
        if number == 0 {
            writeln!(out, ".SH DESCRIPTION\n{}\n.PP\n{}", roff(&section.description), roff(UNITS))?;
            writeln!(out, ".SH \"ABOVE THE FIRST SECTION\"")?;
        } else {
            writeln!(out, ".SH \"{}\"\n{}", roff(&section.header), roff(&section.description))?;
        }
        for key in &section.keys {
            write_key(out, key)?;
        }
    }
    writeln!(out, ".SH \"SEE ALSO\"\n.BR nbd\\-gateway (1)")
}

fn write_key(out: &mut Vec<u8>, key: &Key) -> io::Result<()> {
    let example = key.example.as_ref().map(|example| format!(" = {}", roff(example))).unwrap_or_default();
    writeln!(out, ".TP\n\\fB{}\\fR{example}\n{}", roff(&key.name), roff(&key.description))?;
    if !key.words.is_empty() {
        writeln!(out, "One of: {}.", roff(&key.words.join(", ")))?;
    }
    match &key.default {
        Some(default) => writeln!(out, "Default: {}", roff(default)),
        None if key.required => writeln!(out, "Required."),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_refers_to_no_page_that_is_not_there_and_has_its_exit_status() {
        let mut out = Vec::new();
        commands(&mut out).unwrap();
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
    #[test]
    fn the_configuration_s_manual_has_every_section_and_nothing_that_roff_takes_for_its_own() {
        let mut out = Vec::new();
        configuration(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let keys: usize = reference().iter().map(|section| section.keys.len()).sum();
        assert_eq!(text.lines().filter(|line| *line == ".TP").count(), keys);
        assert!(text.contains("\n.SH \"[[export]]\"\n"), "{text}");
        let requests = [".ie", ".el", ".TH", ".SH", ".TP", ".PP", ".BR"];
        for line in text.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(requests.contains(&line.split(' ').next().unwrap()), "{line}");
        }
    }
}
