//! What a client does: a random request, a pause, or its end.

use std::time::Duration;

use nbd_gateway_proto::request::RequestHeader;
use nbd_gateway_proto::resize::{ResizeRequest, Wish};
use nbd_gateway_proto::{Cmd, CmdFlags, Cookie, ExportFlags, Features, Framing};
use tokio::time::Instant;

use super::super::checker::Change;
use super::super::disk::{SECTOR, bytes_of};
use super::{Asked, Conversation, Flow, LONGEST};

impl Conversation {
    /// Takes a random action.
    pub(super) fn act(&mut self, paused: &mut Option<Instant>) -> Flow {
        let sectors = self.size / SECTOR;
        let length = self.random.between(1, LONGEST).min(sectors);
        let from = self.random.below(sectors - length + 1);
        let has = |flag| self.agreed.flags.has(flag);
        let fua = CmdFlags::NONE.with_if(CmdFlags::FUA, has(ExportFlags::SEND_FUA) && self.random.clone().percent(15));
        let features = self.agreed.resize.map(|info| info.features);
        let can = |wish: Wish| features.is_some_and(|features| features.has(wish.needs()));
        match self.random.below(100) {
            0..36 => self.change(Cmd::WRITE, fua, from, length),
            36..62 => {
                let goes_on = self.scene.reads_ahead() && self.random.clone().percent(70);
                let from = if goes_on && self.read_to + length <= sectors { self.read_to } else { from };
                self.read_to = from + length;
                self.ask(Cmd::READ, CmdFlags::NONE, from, length, None, &[]);
            }
            62..72 if has(ExportFlags::SEND_FLUSH) => self.ask(Cmd::FLUSH, CmdFlags::NONE, 0, 0, None, &[]),
            72..76 if has(ExportFlags::SEND_WRITE_ZEROES) => self.change(Cmd::WRITE_ZEROES, fua, from, length),
            76..78 if has(ExportFlags::SEND_TRIM) => self.change(Cmd::TRIM, fua, from, length),
            78..80 if self.agreed.contexts.iter().any(|(name, _)| name == "base:allocation") => {
                self.ask(Cmd::BLOCK_STATUS, CmdFlags::NONE, from, length, None, &[]);
            }
            80..83 => {
                // Past the end: it grows the export or is refused.
                let from = sectors - self.random.below(3).min(sectors) + self.random.below(6);
                self.change(Cmd::WRITE, fua, from, length);
            }
            83..87 if can(Wish::Size { size: 0 }) => {
                let size = (self.random.between(sectors / 2, sectors + 24).max(1)) * SECTOR;
                let shrinks = features.is_some_and(|features| features.has(Features::SHRINK));
                if size >= self.size || shrinks {
                    self.resize(Wish::Size { size });
                }
            }
            87..89 if can(Wish::Query) => self.resize(Wish::Query),
            89..92 if can(Wish::Notify { interval: Duration::ZERO, most: 0 }) && !self.notified => {
                self.notified = true;
                let interval = Duration::from_millis(self.random.pick(&[0, 1, 500]));
                self.resize(Wish::Notify { interval, most: self.random.clone().pick(&[0, 0, 3]) });
            }
            92..94 => {
                self.note("reads nothing for a while");
                *paused = Some(Instant::now() + Duration::from_millis(self.random.below(6_000)));
            }
            94..96 => return self.leave(),
            _ => {}
        }
        Flow::On
    }

    /// Closes the connection within the bytes that are left to send.
    fn leave(&mut self) -> Flow {
        if !self.out.is_empty() {
            let some = self.random.below(self.out.len() as u64 + 1) as usize;
            let _ = self.stream.try_write(&self.out[..some]);
        }
        self.note("closes");
        Flow::Over
    }

    pub(super) fn change(&mut self, command: Cmd, flags: CmdFlags, from: u64, length: u64) {
        let (first, after) = (from as usize, (from + length) as usize);
        let change = match command {
            Cmd::WRITE => Change::Write,
            Cmd::WRITE_ZEROES => Change::Zero,
            _ => Change::Trim,
        };
        let operation = self.scene.begin(change, first, after, flags.has(CmdFlags::FUA));
        let payload: Vec<u8> = match command {
            Cmd::WRITE => (first..after).flat_map(|sector| bytes_of(operation, sector)).collect(),
            _ => Vec::new(),
        };
        self.ask(command, flags, from, length, Some(operation), &payload);
    }

    pub(super) fn resize(&mut self, wish: Wish) {
        self.cookie += 1;
        let header = ResizeRequest { wish, durable: false }.header(Cookie(self.cookie), self.agreed.framing);
        let operation = match wish {
            Wish::Size { size } => Some(self.scene.begin(Change::Resize, (size / SECTOR) as usize, usize::MAX, false)),
            Wish::Query | Wish::Notify { .. } => None,
        };
        self.send(header, operation, &[]);
    }

    pub(super) fn ask(
        &mut self,
        command: Cmd,
        flags: CmdFlags,
        from: u64,
        length: u64,
        operation: Option<u64>,
        payload: &[u8],
    ) {
        self.cookie += 1;
        let payload_len = command == Cmd::WRITE && self.agreed.framing == Framing::Extended;
        let flags = flags.with_if(CmdFlags::PAYLOAD_LEN, payload_len);
        let (offset, length) = (from * SECTOR, length * SECTOR);
        let header = RequestHeader { flags, command, cookie: Cookie(self.cookie), offset, length };
        self.send(header, operation, payload);
    }

    fn send(&mut self, header: RequestHeader, operation: Option<u64>, payload: &[u8]) {
        header.put(self.agreed.framing, &mut self.out);
        self.out.extend_from_slice(payload);
        let RequestHeader { command, flags, offset, length, cookie } = header;
        let number = operation.map(|number| format!(" is {number}")).unwrap_or_default();
        let begun = self.scene.note(format_args!(
            "conversation {}: {command} {offset}+{length} flags {flags} cookie {cookie}{number}",
            self.id
        ));
        let data = if command == Cmd::READ { vec![0; length as usize] } else { Vec::new() };
        if command != Cmd::DISC {
            self.asked.insert(cookie.0, Asked { header, begun, operation, data, received: 0, failed: false });
        }
        // If the client leaves, what stays in the queue is cut at a random byte.
        let most = if self.random.percent(80) { self.out.len() } else { self.out.len() / 2 };
        if let Ok(written) = self.stream.try_write(&self.out[..most]) {
            self.out.drain(..written);
        }
    }
}
