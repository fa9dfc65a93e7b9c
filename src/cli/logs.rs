//! `beadle logs`: what the agent wrote. Octets as they are, except on a terminal, where nothing in them may act.

use tokio::sync::mpsc;

use super::args::LogsArgs;
use super::exit::Exit;
use super::text::safe_lines;
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{LOGS_MAX, LogStream, LogsQuery, WAIT_MAX_MS};

/// Pieces that wait for the screen.
const PIECES: usize = 16;
/// How long one stream is waited for before the other is looked at.
const FEED_WAIT_MS: u64 = 100;

/// Prints from the start or the tail; with `-f` until the session ends.
pub async fn logs(cx: &mut Context, args: LogsArgs) -> Outcome {
    let client = cx.client()?;
    let doc = client.session(&args.session).await?;
    let stream = if args.err { LogStream::Err } else { LogStream::Out };
    // why by number: each attempt has a log of its own, and the next one begins at 0.
    let mut attempt = args.attempt.or(Some(doc.attempt).filter(|n| args.follow && *n > 0));
    let mut wanted = LogsQuery { stream, attempt, tail: args.tail, limit: Some(LOGS_MAX), ..LogsQuery::default() };
    let mut screen = (cx.printer.on_terminal() && !args.raw).then(Screen::default);
    let mut missed_told = args.tail.is_some();
    loop {
        let chunk = client.logs(&doc.id, &wanted).await?;
        let from = wanted.offset.unwrap_or(0);
        if !missed_told && chunk.offset > from {
            let gone = chunk.offset - from;
            let which = if from == 0 { "the first" } else { "the next" };
            cx.printer.note(&format!("{which} {gone} bytes were rotated away"))?;
        }
        // why only at first: a tail begins where it does.
        missed_told = false;
        match &mut screen {
            None => cx.printer.octets(&chunk.bytes)?,
            Some(screen) => cx.printer.octets(screen.show(&chunk.bytes).as_bytes())?,
        }
        let follows = args.follow && args.attempt.is_none();
        if chunk.ended
            && follows
            && let Some(next) = next_attempt(&client, &doc.id, attempt).await
        {
            attempt = Some(next);
            wanted = LogsQuery { stream, attempt, offset: Some(0), limit: Some(LOGS_MAX), ..LogsQuery::default() };
            continue;
        }
        if chunk.ended || (!args.follow && chunk.bytes.is_empty()) {
            return Ok(Exit::Done);
        }
        wanted = LogsQuery { stream, attempt, offset: Some(chunk.next), limit: Some(LOGS_MAX), ..LogsQuery::default() };
        if args.follow && chunk.bytes.is_empty() {
            wanted.wait_ms = Some(WAIT_MAX_MS);
        }
    }
}

/// The attempt after one whose log has ended, where it has begun.
async fn next_attempt(client: &Client, id: &str, attempt: Option<u32>) -> Option<u32> {
    let (at, doc) = (attempt?, client.session(id).await.ok()?);
    (doc.attempt > at).then_some(at + 1)
}

/// Both streams of a session as safe text, until they have ended; read by a task of its own that waits for its reader.
pub fn feed(client: Client, id: String) -> mpsc::Receiver<String> {
    let (pieces, reader) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let first = client.session(&id).await.ok().map(|s| s.attempt).filter(|n| *n > 0);
        let stream = |s| (s, 0, Screen::default(), false, first);
        let mut streams = [stream(LogStream::Out), stream(LogStream::Err)];
        while streams.iter().any(|s| !s.3) {
            for (stream, offset, screen, ended, attempt) in streams.iter_mut().filter(|s| !s.3) {
                let wanted = LogsQuery {
                    stream: *stream,
                    attempt: *attempt,
                    offset: Some(*offset),
                    limit: Some(LOGS_MAX),
                    wait_ms: Some(FEED_WAIT_MS),
                    ..LogsQuery::default()
                };
                // why the end: the events of the session tell what is wrong with the link.
                let Ok(chunk) = client.logs(&id, &wanted).await else { return };
                (*offset, *ended) = (chunk.next, chunk.ended);
                let text = screen.show(&chunk.bytes);
                if !text.is_empty() && pieces.send(text).await.is_err() {
                    return;
                }
                if *ended && let Some(next) = next_attempt(&client, &id, *attempt).await {
                    (*offset, *ended, *attempt) = (0, false, Some(next));
                }
            }
        }
    });
    reader
}

/// Octets to safe text, in pieces that may cut a character.
#[derive(Debug, Default)]
pub struct Screen {
    rest: Vec<u8>,
}

impl Screen {
    /// The text of this piece; an unfinished character waits for the next one.
    pub fn show(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        if let Some(cut) = unfinished(&bytes) {
            self.rest = bytes.split_off(cut);
        }
        safe_lines(&String::from_utf8_lossy(&bytes))
    }
}

/// Where a character begins that the last bytes leave unfinished, also behind invalid octets.
fn unfinished(bytes: &[u8]) -> Option<usize> {
    (1..=3.min(bytes.len())).map(|n| bytes.len() - n).find(|start| {
        let e = std::str::from_utf8(&bytes[*start..]).err();
        e.is_some_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_may_cut_a_character_and_nothing_acts() {
        let mut s = Screen::default();
        let euro = "€".as_bytes();
        assert_eq!(
            [s.show(&[b'\xff', euro[0]]), s.show(&euro[1..2]), s.show(&euro[2..]), s.show(b"\x1b[2J\n")],
            ["\u{fffd}", "", "€", "\\x1b[2J\n"]
        );
    }

    proptest! {
        #[test]
        fn text_does_not_depend_on_the_pieces(text in any::<String>(), cut in 0usize..100) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut s = Screen::default();
            let pieces = s.show(&bytes[..cut]) + &s.show(&bytes[cut..]);
            prop_assert_eq!(pieces, safe_lines(&text));
        }
    }
}
