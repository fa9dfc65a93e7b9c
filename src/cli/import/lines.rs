//! Lines of any length in bounded memory: one over the cap is counted to its end and handed on as too long; what is longer than one
//! request may be is shortened text by text.

use std::io::{self, BufRead};

use serde_json::Value;

/// Longest line that is read as a whole, in bytes: the cap of a line everywhere in the host.
pub const LINE_BYTES_MAX: usize = 64 << 20;
/// Longest document that is sent on whole: below the limits of a text and of a request.
pub const SENT_BYTES_MAX: usize = 8 << 20;
/// The least that is left of a text.
const TEXT_BYTES_MIN: usize = 1 << 10;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its end; `torn` when the file ends before the line does.
    Whole { bytes: Vec<u8>, torn: bool },
    /// So many bytes, over the cap.
    TooLong(u64),
}

/// The next line; `None` at the end.
pub fn next(from: &mut impl BufRead, max: usize) -> io::Result<Option<Line>> {
    let (mut bytes, mut len, mut torn) = (Vec::new(), 0u64, true);
    loop {
        let piece = match from.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            piece => piece?,
        };
        if piece.is_empty() {
            break;
        }
        let end = piece.iter().position(|b| *b == b'\n');
        let part = &piece[..end.unwrap_or(piece.len())];
        len += part.len() as u64;
        if len <= max as u64 {
            bytes.extend_from_slice(part);
        } else {
            bytes = Vec::new();
        }
        let used = part.len() + usize::from(end.is_some());
        from.consume(used);
        if end.is_some() {
            torn = false;
            break;
        }
    }
    Ok(match (len, torn) {
        (0, true) => None,
        (len, _) if len > max as u64 => Some(Line::TooLong(len)),
        _ => Some(Line::Whole { bytes, torn }),
    })
}

/// Cuts the longest texts of a document, each to its beginning and a word on what is not there, until the whole has at most `max` bytes.
/// True where it has. Keys stay as they are.
pub fn fit(v: &mut Value, max: usize) -> bool {
    let len = |v: &Value| serde_json::to_vec(v).map_or(usize::MAX, |b| b.len());
    let mut keep = max / 2;
    loop {
        if len(v) <= max {
            return true;
        }
        if keep < TEXT_BYTES_MIN {
            return false;
        }
        cut(v, keep);
        keep /= 2;
    }
}

fn cut(v: &mut Value, keep: usize) {
    match v {
        Value::String(s) if s.len() > keep => {
            let (all, mut at) = (s.len(), s.floor_char_boundary(keep));
            // why: a text that was cut to twice as much ends with what was said then.
            let told = s.rfind(CUT).filter(|i| s[*i..].len() < 80);
            let all = told.and_then(|i| s[i + CUT.len()..].split(' ').next()?.parse().ok()).unwrap_or(all);
            at = told.map_or(at, |i| at.min(i));
            s.truncate(at);
            s.push_str(&format!("{CUT}{all} bytes)"));
        }
        Value::Array(all) => all.iter_mut().for_each(|v| cut(v, keep)),
        Value::Object(all) => all.values_mut().for_each(|v| cut(v, keep)),
        _ => {}
    }
}

const CUT: &str = "... (cut by the import; it had ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_document_is_shortened_text_by_text_until_it_fits() {
        let mut v = serde_json::json!({ "a": "x".repeat(50_000), "b": ["\u{e9}".repeat(6_000), 5], "c": "short" });
        assert!(fit(&mut v, 10_000) && serde_json::to_vec(&v).unwrap().len() <= 10_000);
        assert_eq!((v["c"].as_str(), v["b"][1].as_i64()), (Some("short"), Some(5)));
        for (text, had) in [(&v["a"], 50_000), (&v["b"][0], 12_000)] {
            assert!(text.as_str().unwrap().ends_with(&format!("(cut by the import; it had {had} bytes)")), "{text}");
        }
        let whole = serde_json::json!({ "a": "x" });
        let mut same = whole.clone();
        assert!(fit(&mut same, 100) && same == whole);
        assert!(!fit(&mut serde_json::json!(vec![1; 10_000]), 5_000), "numbers cannot be cut");
    }
    use proptest::prelude::*;
    use std::io::BufReader;

    fn all(text: &[u8], buffer: usize, max: usize) -> Vec<Line> {
        let mut from = BufReader::with_capacity(buffer, text);
        std::iter::from_fn(|| next(&mut from, max).unwrap()).collect()
    }

    #[test]
    fn a_long_line_takes_no_other_with_it() {
        let whole = |t: &str, torn| Line::Whole { bytes: t.as_bytes().to_vec(), torn };
        let got = all(b"ab\n\nabcdefgh\ncd\nef", 3, 4);
        assert_eq!(got, [whole("ab", false), whole("", false), Line::TooLong(8), whole("cd", false), whole("ef", true)]);
        assert!(all(b"", 3, 4).is_empty());
    }

    proptest! {
        #[test]
        fn the_buffer_makes_no_difference(text in proptest::collection::vec(0u8..4, 0..60), buffer in 1usize..9) {
            let text: Vec<u8> = text.into_iter().map(|b| if b == 0 { b'\n' } else { b'a' + b }).collect();
            prop_assert_eq!(all(&text, buffer, 5), all(&text, 64, 5));
            let lines = all(&text, buffer, 100);
            let mut joined: Vec<u8> = Vec::new();
            for l in &lines {
                let Line::Whole { bytes, torn } = l else { unreachable!() };
                joined.extend(bytes);
                if !torn { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, text);
        }
    }
}
