//! Server-sent events, out of the bytes of an answer (the HTML standard's `text/event-stream`).
//!
//! Owns what is incomplete between two reads, within a bound. Fields other than `id` and `data` say nothing here.

/// The longest event read, in bytes.
const LONGEST: usize = 1 << 20;

/// What was read, up to now.
#[derive(Debug, Default)]
pub(super) struct Stream {
    line: Vec<u8>,
    data: String,
    /// The last byte was a carriage return: a line feed after it ends nothing more.
    returned: bool,
    /// The last number that was told; it counts when its event is whole.
    number: Option<u64>,
    last: Option<u64>,
}

impl Stream {
    /// A stream whose reader has seen so far.
    pub(super) fn after(last: Option<u64>) -> Self {
        Self { number: last, last, ..Self::default() }
    }

    /// The number of the last event that came whole, or that there was before the first.
    pub(super) const fn last(&self) -> Option<u64> {
        self.last
    }

    /// Reads on; `each` is given the data of each event that is whole.
    ///
    /// # Errors
    /// A sentence: it is too long; or what `each` says.
    pub(super) fn read<E: From<String>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        for byte in bytes {
            let follows = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if follows => {}
                b'\r' | b'\n' => self.ended(&mut each)?,
                _ => self.line.push(*byte),
            }
            if self.line.len().saturating_add(self.data.len()) > LONGEST {
                return Err(E::from(format!("an event of more than {LONGEST} bytes")));
            }
        }
        Ok(())
    }

    /// A line is whole.
    fn ended<E>(&mut self, each: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            self.last = self.number;
            // Each line of data left its line feed; the last is no part of it.
            return data.strip_suffix('\n').map_or(Ok(()), each);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.number = value.parse().ok().or(self.number),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of it in pieces of these lengths, one after the other.
    fn read(bytes: &[u8], mut cuts: impl Iterator<Item = usize>) -> (Vec<String>, Option<u64>) {
        let (mut stream, mut all, mut rest) = (Stream::after(None), Vec::new(), bytes);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
            let each = |data: &str| -> Result<(), String> {
                all.push(data.to_owned());
                Ok(())
            };
            stream.read(piece, each).unwrap();
            rest = more;
        }
        (all, stream.last())
    }

    const STREAM: &str = "retry: 1000\nid: 3\n\n:\n\nid: 4\r\ndata: {\"a\":\"é\"}\r\n\r\nid: 5\rdata:x\rdata\rdata: y\r\r\
                          id: six\nevent: other\ndata: z\n\nid: 6\ndata: unfinished\n";

    #[test]
    fn events_are_read_as_the_standard_has_them() {
        let (events, last) = read(STREAM.as_bytes(), std::iter::empty());
        assert_eq!(events, ["{\"a\":\"é\"}", "x\n\ny", "z"]);
        assert_eq!(last, Some(5));
        assert_eq!(read(b"id: 7\n\n", std::iter::empty()), (Vec::new(), Some(7)));
    }

    #[test]
    fn an_event_without_end_is_not_kept() {
        let mut stream = Stream::after(Some(1));
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(stream.read(&long, |_| Ok::<_, String>(())).unwrap_err(), "an event of more than 1048576 bytes");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_bytes_are_cut(cuts in prop::collection::vec(1usize..9, 0..200)) {
            prop_assert_eq!(read(STREAM.as_bytes(), cuts.into_iter()), read(STREAM.as_bytes(), std::iter::empty()));
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            read(&bytes, std::iter::repeat(3));
        }
    }
}
