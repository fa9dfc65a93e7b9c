//! Texts as events keep them: cut at a character, and the whole as a blob where it is longer.
//!
//! Called by everyone in `session`.

use super::EXCERPT;
use crate::model::Excerpt;

/// The beginning of `bytes` as text, and the whole as a blob where that is longer.
pub fn excerpt(bytes: Vec<u8>) -> (Excerpt, Option<Vec<u8>>) {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT)]).into_owned();
    if bytes.len() <= EXCERPT && std::str::from_utf8(&bytes).is_ok() {
        return (Excerpt { text, bytes: len, blob: None }, None);
    }
    let digest = blake3::hash(&bytes).to_hex().to_string();
    (Excerpt { text, bytes: len, blob: Some(digest) }, Some(bytes))
}

/// At most `max` bytes of `s`, cut at a character, with a mark when something is missing.
pub fn cut(s: &str, max: usize) -> String {
    if s.len() <= max {
        return s.to_owned();
    }
    let mut end = max;
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &s[..end])
}
