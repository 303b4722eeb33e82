//! Those who want other sizes: clients of every style, and the operator. Each does one thing after another, whatever comes
//! of it; being refused and being cut off are all in a day's work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::diary::Diary;
use super::dice::Dice;
use super::town::{Export, MIB, TENANTS, Way};
use crate::gateway::binary;
use crate::process::Call;
use crate::scripted::numbers::{cmd, cmd_flag, info, opt};
use crate::scripted::{Ask, Framing, RawClient, Reply};
use crate::trouble::Trouble;

/// Sizes are multiples of this.
const GRAIN: u64 = 64 << 10;

/// A way to want a size.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// `nbd-gateway client resize URI SIZE`
    Command,
    /// `nbd-gateway client resize URI +SIZE`
    CommandMore,
    /// `nbd-gateway client write --grow URI`
    CommandWrite,
    /// `nbd-gateway resize EXPORT SIZE`
    Operator,
    /// NBD_CMD_RESIZE by one who asked for NBD_INFO_RESIZE.
    Explicit(Framing),
    /// The same by one who did not.
    Unasked(Framing),
    /// A WRITE past the end.
    Automatic(Framing),
    /// NBD_CMD_RESIZE while a NOTIFY stands.
    Notified,
}

const STYLES: [Style; 15] = [
    Style::Command,
    Style::CommandMore,
    Style::CommandWrite,
    Style::Operator,
    Style::Operator,
    Style::Explicit(Framing::Simple),
    Style::Explicit(Framing::Structured),
    Style::Explicit(Framing::Structured),
    Style::Explicit(Framing::Extended),
    Style::Unasked(Framing::Simple),
    Style::Unasked(Framing::Structured),
    Style::Automatic(Framing::Simple),
    Style::Automatic(Framing::Structured),
    Style::Automatic(Framing::Extended),
    Style::Notified,
];

/// One of them.
pub(super) struct Actor<'a> {
    pub(super) name: String,
    pub(super) exports: &'a [Export],
    pub(super) way: &'a Way,
    pub(super) diary: &'a Diary,
}

impl Actor<'_> {
    /// Goes on until told to stop.
    pub(super) fn act(&self, mut dice: Dice, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let export = &self.exports[dice.index(self.exports.len())];
            let style = STYLES[dice.index(STYLES.len())];
            // Mostly what fits if others have little; now and then all that there is.
            let most = TENANTS[export.tenant].1 / if dice.chance(20) { 1 } else { 3 };
            let size = (1 + dice.below(most / GRAIN)) * GRAIN;
            let what = format!("{style:?} {} {size}", export.name);
            self.diary.note(&self.name, &format!("{what} ..."));
            let outcome = self.want(style, export.name, size, &mut dice);
            let failed = outcome.is_err();
            let outcome = outcome.unwrap_or_else(|trouble| format!("failed: {trouble}"));
            self.diary.note(&self.name, &format!("{what}: {outcome}"));
            if failed {
                // Whoever is not there yet is not found sooner by asking more.
                thread::park_timeout(Duration::from_millis(20));
            }
        }
    }

    fn want(&self, style: Style, export: &str, size: u64, dice: &mut Dice) -> Result<String, Trouble> {
        let uri = self.way.uri(export);
        match style {
            Style::Command => command(["client", "resize", &uri, &size.to_string()]),
            Style::CommandMore => command(["client", "resize", &uri, &format!("+{}", (size / 4).max(GRAIN))]),
            Style::CommandWrite => {
                let input = self.way.input.display().to_string();
                command(["client", "write", "--grow", "--offset", &(size - GRAIN).to_string(), "--input", &input, &uri])
            }
            Style::Operator => {
                let way = ["--admin", &self.way.admin, "--token-file", &self.way.token];
                let size = size.to_string();
                command(["resize", export, &size].into_iter().chain(way))
            }
            Style::Explicit(framing) => self.resizes(export, framing, &[info::RESIZE], size, dice),
            Style::Unasked(framing) => self.resizes(export, framing, &[], size, dice),
            Style::Automatic(framing) => {
                let mut client = RawClient::connect(&self.way.socket)?;
                client.upgrade(framing)?;
                let asks: &[u16] = if framing == Framing::Simple { &[info::RESIZE] } else { &[] };
                if asks.is_empty() {
                    client.contexts(export, &["x-resize:automatic"])?;
                }
                client.learn(opt::GO, export, asks)?;
                let reply = client.write(size - 4096, &[0xa5; 4096])?;
                part(client, dice)?;
                Ok(said(&reply))
            }
            Style::Notified => {
                let mut client = RawClient::connect(&self.way.socket)?;
                client.upgrade(Framing::Structured)?;
                client.learn(opt::GO, export, &[info::RESIZE])?;
                client.send(Ask { command: cmd::RESIZE, flags: cmd_flag::NOTIFY, cookie: 9, ..Ask::default() }, &[])?;
                let first = client.next_size(9)?;
                let reply = client.ask(Ask { command: cmd::RESIZE, cookie: 1, offset: size, ..Ask::default() }, &[])?;
                part(client, dice)?;
                Ok(format!("from {first}: {}", said(&reply)))
            }
        }
    }

    fn resizes(
        &self,
        export: &str,
        framing: Framing,
        asks: &[u16],
        size: u64,
        dice: &mut Dice,
    ) -> Result<String, Trouble> {
        let mut client = RawClient::connect(&self.way.socket)?;
        client.upgrade(framing)?;
        let opened = client.learn(opt::GO, export, asks)?;
        let mut told = format!("from {}:", opened.size);
        for cookie in 0..=dice.below(4) {
            let offset = if cookie == 0 { size } else { (opened.size + dice.below(64) * GRAIN).min(64 * MIB) };
            let reply = client.ask(Ask { command: cmd::RESIZE, cookie, offset, ..Ask::default() }, &[])?;
            told += &format!(" {offset}: {}", said(&reply));
        }
        part(client, dice)?;
        Ok(told)
    }
}

/// With a goodbye, or without.
fn part(client: RawClient, dice: &mut Dice) -> Result<(), Trouble> {
    if dice.chance(70) { client.leave() } else { Ok(()) }
}

fn said(reply: &Reply) -> String {
    match reply.error {
        0 => format!("done {:?}", reply.sizes),
        error => format!("error {error} {}", reply.message),
    }
}

/// What the program said, whether it was of use or not.
fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<String, Trouble> {
    let output = Call::new(&binary()?.display().to_string()).args(words).run()?;
    Ok(format!("{} {}{}", output.status, output.stdout, output.stderr).replace('\n', " "))
}
