//! Server-sent events from bytes, in pieces of any size.

use super::super::types::ANSWER_MAX;

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub id: Option<String>,
    pub event: String,
    pub data: String,
}

/// Reads a stream; holds at most [`ANSWER_MAX`] bytes of an unfinished message.
#[derive(Debug, Default)]
pub struct SseReader {
    buffer: Vec<u8>,
    /// Start of what was not looked at.
    scanned: usize,
    current: Message,
    has_data: bool,
}

impl SseReader {
    /// Takes a piece; false when the message grows over the limit.
    pub fn push(&mut self, piece: &[u8]) -> bool {
        self.buffer.extend_from_slice(piece);
        self.buffer.len() + self.current.data.len() <= ANSWER_MAX
    }

    /// The next whole message; comments and messages without data are skipped.
    pub fn message(&mut self) -> Option<Message> {
        loop {
            let Some(end) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') else {
                self.scanned = self.buffer.len();
                return None;
            };
            let end = self.scanned + end;
            let mut line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..=end);
            self.scanned = 0;
            if line.ends_with('\r') {
                line.pop();
            }
            if line.is_empty() {
                let done = std::mem::take(&mut self.current);
                if std::mem::take(&mut self.has_data) {
                    return Some(done);
                }
            } else {
                self.field(&line);
            }
        }
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.current.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.current.event),
            "data" => {
                if self.has_data {
                    self.current.data.push('\n');
                }
                self.has_data = true;
                self.current.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\n\nid: 7\nevent: event\ndata: {\"a\":1}\n\nid: 8\r\nevent: event\r\ndata: x\r\ndata:y\r\n\r\nevent: empty\n\ndata: no id\n\nid: 9\ndata: cut";

    fn read(pieces: &[&[u8]]) -> Vec<(Option<String>, String, String)> {
        let mut r = SseReader::default();
        let mut out = Vec::new();
        for p in pieces {
            assert!(r.push(p));
            while let Some(m) = r.message() {
                out.push((m.id, m.event, m.data));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn messages_do_not_depend_on_the_pieces(cut in 0usize..STREAM.len(), cut2 in 0usize..STREAM.len()) {
            let (a, b) = (cut.min(cut2), cut.max(cut2));
            let s = STREAM.as_bytes();
            let whole = read(&[s]);
            let text = |s: &str| s.to_owned();
            prop_assert_eq!(&whole, &vec![
                (Some(text("7")), text("event"), text("{\"a\":1}")),
                (Some(text("8")), text("event"), text("x\ny")),
                (None, text(""), text("no id")),
            ]);
            prop_assert_eq!(read(&[&s[..a], &s[a..b], &s[b..]]), whole);
        }
    }
}
