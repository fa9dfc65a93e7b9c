//! Checks of single arguments: what is wrong is said before anything is sent.

use crate::model::Status;

/// Longest id, prefix or name in bytes.
const NAME_MAX: usize = 200;

/// A session's id, a beginning of it, or a name.
pub fn session_id(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; give the id or name shown by `beadle ls`".to_owned());
    }
    if text.len() > NAME_MAX {
        return Err(format!("it has {} bytes, over the limit of {NAME_MAX}; give the id or name shown by `beadle ls`", text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("it has the control character {c:?}; give the id or name shown by `beadle ls`")),
        None => Ok(text.to_owned()),
    }
}

/// `KEY=VALUE`: key 1 to 64 of a-z A-Z 0-9 - _ . /, value at most 256 bytes.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || key.len() > 64 || !key.chars().all(fits) {
        return Err("the key must be 1 to 64 of a-z A-Z 0-9 - _ . /".to_owned());
    }
    if value.len() > 256 || value.chars().any(char::is_control) {
        return Err("the value must be at most 256 bytes without control characters".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `NAME` (value of the caller) or `NAME=VALUE`.
pub fn environment(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err("expected NAME or NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// A status word.
pub fn status(text: &str) -> Result<Status, String> {
    use Status::{Ended, Paused, Queued, Running, Starting, Stopping};
    let all = [Queued, Starting, Running, Paused, Stopping, Ended];
    let names = || all.map(Status::as_str).join(", ");
    all.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_ids_are_refused_before_anything_is_sent() {
        assert!(session_id("").is_err() && session_id(&"x".repeat(10_000_000)).is_err() && session_id("a\x1b").is_err());
        assert_eq!(session_id("fix it"), Ok("fix it".to_owned()));
    }

    #[test]
    fn labels_and_variables_have_their_form() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err() && label("=b").is_err() && label("a b=c").is_err() && label("a=\n").is_err());
        assert_eq!(environment("A"), Ok(("A".to_owned(), None)));
        assert_eq!(environment("A="), Ok(("A".to_owned(), Some(String::new()))));
        assert!(environment("=x").is_err());
    }

    #[test]
    fn statuses_are_words_of_the_model() {
        assert_eq!(status("running"), Ok(Status::Running));
        assert_eq!(status("x").unwrap_err(), "expected one of queued, starting, running, paused, stopping, ended");
    }
}
