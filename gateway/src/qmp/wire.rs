//! QMP as it comes and goes: one JSON object a line (qemu's qmp-spec). Knows no socket and no clock, and never holds more
//! than one line of bounded length.

use bytes::{Buf, BytesMut};
use serde_json::{Value, json};

/// The longest line that is taken, in bytes: a description of every node of a large qemu is far below it.
pub(crate) const LONGEST: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    /// The first: qemu serves this client now.
    Greeting,
    /// A command was carried out, or not.
    Answer {
        /// Which; none if qemu could not read the command.
        id: Option<u64>,
        /// What came of it.
        outcome: Result<Value, Fault>,
    },
    /// Something happened by itself.
    Event(String),
}

/// An error that qemu answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `GenericError`, `CommandNotFound` and so on.
    pub class: String,
    pub desc: String,
}

/// Why a stream cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// No line ends where the longest would.
    #[error("a line of more than {LONGEST} bytes")]
    TooLong,
    /// Not JSON, or JSON that QMP does not have.
    #[error("a line that is no QMP message")]
    NotQmp,
}

/// Takes bytes, gives messages.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of a line.
    searched: usize,
}

impl Decoder {
    /// Where received bytes are to be appended.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        self.buffer.reserve(8192);
        &mut self.buffer
    }

    /// The next whole message, if there is one.
    pub(crate) fn poll_message(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = fresh.iter().position(|byte| *byte == b'\n').map(|at| self.searched + at) else {
                self.searched = self.buffer.len();
                return if self.searched > LONGEST { Err(WireError::TooLong) } else { Ok(None) };
            };
            if end > LONGEST {
                return Err(WireError::TooLong);
            }
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            self.searched = 0;
            // What a line held is not kept for the next.
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            if !line.trim_ascii().is_empty() {
                return read(&line).map(Some);
            }
        }
    }
}

fn read(line: &[u8]) -> Result<Message, WireError> {
    let Ok(Value::Object(mut map)) = serde_json::from_slice(line) else { return Err(WireError::NotQmp) };
    let id = map.get("id").and_then(Value::as_u64);
    if map.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(Value::String(name)) = map.remove("event") {
        return Ok(Message::Event(name));
    }
    if let Some(value) = map.remove("return") {
        return Ok(Message::Answer { id, outcome: Ok(value) });
    }
    let text = |error: &Value, key| error.get(key).and_then(Value::as_str).map(str::to_owned);
    let fault =
        map.get("error").and_then(|error| Some(Fault { class: text(error, "class")?, desc: text(error, "desc")? }));
    fault.map(|fault| Message::Answer { id, outcome: Err(fault) }).ok_or(WireError::NotQmp)
}

/// A command as a line.
pub(crate) fn command(name: &str, arguments: &Value, id: u64) -> String {
    let mut command = json!({ "execute": name, "id": id });
    if let (Value::Object(map), false) = (&mut command, arguments.is_null()) {
        map.insert("arguments".to_owned(), arguments.clone());
    }
    format!("{command}\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(chunks: impl Iterator<Item = Vec<u8>>) -> (Vec<Message>, Option<WireError>) {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.room().extend_from_slice(&chunk);
            loop {
                match decoder.poll_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(unreadable) => return (messages, Some(unreadable)),
                }
            }
        }
        (messages, None)
    }

    const TALK: &str = concat!(
        "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n",
        "{\"return\": {}, \"id\": 1}\r\n\r\n",
        "{\"timestamp\": {\"seconds\": 1}, \"event\": \"BLOCK_EXPORT_DELETED\", \"data\": {\"id\": \"e0\"}}\r\n",
        "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"export 'e0' still in use\"}}\r\n",
    );

    #[test]
    fn a_talk_is_read_the_same_wherever_it_is_cut() {
        let fault = Fault { class: "GenericError".to_owned(), desc: "export 'e0' still in use".to_owned() };
        let messages = vec![
            Message::Greeting,
            Message::Answer { id: Some(1), outcome: Ok(json!({})) },
            Message::Event("BLOCK_EXPORT_DELETED".to_owned()),
            Message::Answer { id: Some(2), outcome: Err(fault) },
        ];
        for cut in 0..=TALK.len() {
            let (head, tail) = TALK.as_bytes().split_at(cut);
            assert_eq!(all([head.to_vec(), tail.to_vec()].into_iter()), (messages.clone(), None), "cut at {cut}");
        }
        assert_eq!(all(TALK.bytes().map(|byte| vec![byte])), (messages, None));
    }

    #[test]
    fn a_line_without_an_end_is_given_up_at_its_bound() {
        let (messages, unreadable) = all(core::iter::repeat_with(|| vec![b'x'; 8192]).take(LONGEST / 8192 + 1));
        assert_eq!((messages, unreadable), (Vec::new(), Some(WireError::TooLong)));
    }

    #[test]
    fn what_is_no_message_is_told_apart_from_silence() {
        for line in ["[]", "{}", "{\"event\": 1}", "{\"error\": {\"class\": \"x\"}}", "\u{7f}", "{\"return\""] {
            assert_eq!(all([format!("{line}\n").into_bytes()].into_iter()).1, Some(WireError::NotQmp), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_in_messages_or_an_error(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..32),
        ) {
            let whole: Vec<u8> = pieces.concat();
            prop_assert_eq!(all(pieces.into_iter()), all([whole].into_iter()));
        }

        #[test]
        fn a_command_is_one_line_whatever_its_texts_hold(node in ".*", id in any::<u64>()) {
            let line = command("block_resize", &json!({ "node-name": node }), id);
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["arguments"]["node-name"].as_str(), Some(node.as_str()));
            prop_assert_eq!(value["id"].as_u64(), Some(id));
        }
    }
}
