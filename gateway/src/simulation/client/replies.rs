//! What a client makes of replies, and what it has the checks compare them with.

use nbd_gateway_proto::reply::{Body, Event, Expected};
use nbd_gateway_proto::{Cmd, Cookie, Piece};

use super::super::checker::End;
use super::super::disk::{SECTOR, writer_of};
use super::{Asked, Conversation, Flow};

impl Conversation {
    /// Takes all complete replies.
    pub(super) fn hear(&mut self) -> Flow {
        loop {
            let asked = &self.asked;
            let expected = |cookie: Cookie| {
                let header = asked.get(&cookie.0)?.header;
                Some(Expected { read: (header.command == Cmd::READ).then_some(header.length), extents: 64 })
            };
            match self.reader.next(&mut self.inbox, expected) {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return Flow::On,
                Err(bad) => {
                    self.scene.violated(format_args!(
                        "conversation {} got a reply that it has no request for: {bad}",
                        self.id
                    ));
                    return Flow::Over;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        let Event { cookie, done, body } = event;
        let Some(mut asked) = self.asked.remove(&cookie.0) else { return };
        let at = |offset: u64| usize::try_from(offset - asked.header.offset).unwrap();
        match &body {
            Body::Whole(payload) => {
                asked.data = payload.to_contiguous().to_vec();
                asked.received = asked.header.length;
            }
            Body::Piece(Piece::Data { offset, payload }) => {
                let bytes = payload.to_contiguous();
                let from = at(*offset);
                asked.data[from..from + bytes.len()].copy_from_slice(&bytes);
                asked.received += bytes.len() as u64;
            }
            Body::Piece(Piece::Hole { length, .. }) => asked.received += length,
            Body::Resize { size } => {
                self.scene.told(*size);
                self.size = *size;
            }
            Body::Error { .. } => asked.failed = true,
            Body::Status { extents, .. } => asked.data.extend(format!("{extents:?}").bytes()),
            Body::Nothing => {}
        }
        if !done {
            self.asked.insert(cookie.0, asked);
            return;
        }
        self.notified &= !asked.is_notify();
        let what = match &body {
            Body::Error { errno, message, .. } => format!("{errno} {message}"),
            Body::Resize { size } => format!("size {size}"),
            _ if asked.failed => "failed".to_owned(),
            _ => "done".to_owned(),
        };
        let step = self.scene.note(format_args!("conversation {}: {} {cookie}: {what}", self.id, asked.header.command));
        if !asked.is_notify() {
            let told = if let Body::Error { errno, .. } = &body { errno.to_string() } else { what };
            let data = asked.data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            let watch = if self.watch == Some(cookie.0) { "watch: " } else { "" };
            self.scene.record(cookie.0, format!("{watch}{} {told}, data {data:#x}", asked.header.command));
        }
        self.judge(step, &asked);
    }

    fn judge(&mut self, step: u64, asked: &Asked) {
        let end = if asked.failed { End::Error } else { End::Success };
        if let Some(operation) = asked.operation {
            self.scene.ended(operation, end);
        }
        match asked.header.command {
            Cmd::FLUSH if asked.failed => self.knowledge.flush_failed = step,
            Cmd::FLUSH => self.scene.flushed(asked.begun, self.knowledge),
            Cmd::READ if !asked.failed => {
                if asked.received != asked.header.length {
                    self.scene.violated(format_args!(
                        "a READ of {} bytes was answered with {}",
                        asked.header.length, asked.received
                    ));
                }
                let first = (asked.header.offset / SECTOR) as usize;
                for (sector, bytes) in (first..).zip(asked.data.chunks(SECTOR as usize)) {
                    self.scene.read(asked.begun, sector, writer_of(bytes, sector));
                }
            }
            _ => {}
        }
    }
}
