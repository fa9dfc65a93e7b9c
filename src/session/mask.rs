//! Well-known secret forms are replaced before anything is appended: what is not in the log cannot leak from it.
//!
//! Values of secrets that the operator granted to plugins are replaced the same way, from when they are first read.
//!
//! A pattern is a prefix that its vendor documents, an alphabet and a least length. False positives cost a few masked
//! characters; the judged input itself is never changed, only its record.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use serde_json::Value;

use zeroize::Zeroizing;

use crate::model::Event;
use crate::store::forms;

/// What stands in a secret's place.
pub const MARK: &str = "[secret masked]";

/// Granted secrets that are known at one time; the oldest are forgotten first.
const KNOWN_MAX: usize = 1024;

static KNOWN: RwLock<Known> = RwLock::new(Known { values: VecDeque::new(), forms: Vec::new() });
static ANY: AtomicBool = AtomicBool::new(false);

/// Values of granted secrets.
struct Known {
    /// The oldest first.
    values: VecDeque<Zeroizing<String>>,
    /// In all forms in which they can stand in a text, the longest first: of a shorter one inside it the rest of the longer would stay.
    forms: Vec<Zeroizing<String>>,
}

impl Known {
    fn add(&mut self, value: &str) {
        if self.values.iter().any(|v| v.as_str() == value) {
            return;
        }
        self.values.push_back(Zeroizing::new(value.to_owned()));
        if self.values.len() > KNOWN_MAX {
            self.values.pop_front();
            // why all anew: a form may be of two secrets.
            self.forms = self.values.iter().flat_map(|v| forms(v)).map(Zeroizing::new).collect();
        } else {
            self.forms.extend(forms(value).into_iter().map(Zeroizing::new));
        }
        self.forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.forms.dedup();
    }
}

/// From now on this value is masked in everything that is recorded. Values under 8 bytes are not taken.
pub fn know(value: &str) {
    if value.len() < 8 {
        return;
    }
    KNOWN.write().unwrap_or_else(PoisonError::into_inner).add(value);
    ANY.store(true, Ordering::Release);
}

/// The text without granted secrets.
fn without_known(s: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(s);
    if ANY.load(Ordering::Acquire) {
        for k in KNOWN.read().unwrap_or_else(PoisonError::into_inner).forms.iter().filter(|k| k.len() <= s.len()) {
            if out.contains(k.as_str()) {
                out = Cow::Owned(out.replace(k.as_str(), MARK));
            }
        }
    }
    out
}

struct Form {
    prefix: &'static str,
    /// Characters after the prefix that make it a secret.
    least: usize,
    extra: &'static [u8],
}

const FORMS: &[Form] = &[
    Form { prefix: "sk-ant-", least: 20, extra: b"-_" },
    Form { prefix: "sk-proj-", least: 20, extra: b"-_" },
    Form { prefix: "sk_live_", least: 16, extra: b"" },
    Form { prefix: "rk_live_", least: 16, extra: b"" },
    Form { prefix: "ghp_", least: 36, extra: b"" },
    Form { prefix: "gho_", least: 36, extra: b"" },
    Form { prefix: "ghs_", least: 36, extra: b"" },
    Form { prefix: "ghu_", least: 36, extra: b"" },
    Form { prefix: "github_pat_", least: 40, extra: b"_" },
    Form { prefix: "glpat-", least: 20, extra: b"-_" },
    Form { prefix: "xoxb-", least: 20, extra: b"-" },
    Form { prefix: "xoxp-", least: 20, extra: b"-" },
    Form { prefix: "npm_", least: 36, extra: b"" },
    Form { prefix: "AKIA", least: 16, extra: b"" },
    Form { prefix: "ASIA", least: 16, extra: b"" },
    Form { prefix: "AIza", least: 35, extra: b"-_" },
];
const PEM: &str = "-----BEGIN ";
const PEM_END: &str = "PRIVATE KEY-----";
/// The furthest from its beginning at which the name of a key may end.
const PEM_WITHIN: usize = 64;

/// The text without secrets; borrowed when there is none.
pub fn text(s: &str) -> Cow<'_, str> {
    match without_known(s) {
        Cow::Borrowed(s) => without_forms(s),
        Cow::Owned(s) => Cow::Owned(without_forms(&s).into_owned()),
    }
}

fn without_forms(s: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    while at < s.len() {
        if let Some(end) = secret_at(s, at) {
            out.push_str(&s[kept..at]);
            out.push_str(MARK);
            kept = end;
            at = end;
        } else {
            at += s[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    if kept == 0 && out.is_empty() {
        return Cow::Borrowed(s);
    }
    out.push_str(&s[kept..]);
    Cow::Owned(out)
}

fn secret_at(s: &str, at: usize) -> Option<usize> {
    let bytes = s.as_bytes();
    // why: nearly every byte fails here, so the scan stays cheap.
    if !matches!(bytes[at], b's' | b'r' | b'g' | b'x' | b'n' | b'A' | b'-') {
        return None;
    }
    if s[at..].starts_with(PEM) {
        // why only near: of a text that is full of beginnings each would be looked for to the text's end.
        let near = &bytes[at..bytes.len().min(at + PEM_WITHIN - 1 + PEM_END.len())];
        let head = near.windows(PEM_END.len()).position(|w| w == PEM_END.as_bytes())? + at + PEM_END.len();
        let end = s[head..].find(PEM_END).map_or(s.len(), |e| head + e + PEM_END.len());
        return Some(end);
    }
    if at > 0 && bytes[at - 1].is_ascii_alphanumeric() {
        return None;
    }
    let f = FORMS.iter().find(|f| s[at..].starts_with(f.prefix))?;
    let from = at + f.prefix.len();
    let n = bytes[from..].iter().take_while(|b| b.is_ascii_alphanumeric() || f.extra.contains(b)).count();
    (n >= f.least).then_some(from + n)
}

/// The event without secrets in any of its strings.
pub fn event(e: Event) -> Event {
    let kind = e.kind().to_owned();
    let mut body = e.body();
    if !walk(&mut body) {
        return e;
    }
    // why: only texts changed, so the shape still fits; if it did not, the kind would be kept with the masked body.
    let bytes = body.to_string();
    Event::from_parts(&kind, bytes.as_bytes()).unwrap_or(Event::Unknown(crate::model::UnknownEvent { kind, body }))
}

fn walk(v: &mut Value) -> bool {
    match v {
        Value::String(s) => match text(s) {
            Cow::Borrowed(_) => false,
            Cow::Owned(o) => {
                *s = o;
                true
            }
        },
        Value::Array(a) => a.iter_mut().fold(false, |hit, v| walk(v) | hit),
        Value::Object(o) => o.values_mut().fold(false, |hit, v| walk(v) | hit),
        _ => false,
    }
}

/// A value without secrets, as an event would hold it.
pub fn value(v: &Value) -> Value {
    let mut v = v.clone();
    walk(&mut v);
    v
}

/// Whether something was left out of it.
pub fn is_in(v: &Value) -> bool {
    match v {
        Value::String(s) => s.contains(MARK),
        Value::Array(a) => a.iter().any(is_in),
        Value::Object(o) => o.values().any(is_in),
        _ => false,
    }
}

/// The same for raw bytes that are text; other bytes stay.
pub fn bytes(b: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(b) {
        Ok(s) => match text(&s) {
            Cow::Borrowed(_) => s.into_bytes(),
            Cow::Owned(o) => o.into_bytes(),
        },
        // why in parts: one odd byte must not let everything else pass.
        Err(e) => e.as_bytes().utf8_chunks().flat_map(|c| [text(c.valid()).as_bytes(), c.invalid()].concat()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Note;
    use proptest::prelude::*;

    #[test]
    fn secrets_go_and_look_alikes_stay() {
        let key = format!("sk-ant-{}", "a1".repeat(20));
        assert_eq!(text(&format!("export K={key};ls")), format!("export K={MARK};ls"));
        assert_eq!(text("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest"), format!("{MARK}\nrest"));
        for plain in ["task-antics", "sk-ant-short", "AKIAfoo", "ghp_", "x", "", "ä-ö"] {
            assert_eq!(text(plain), plain);
        }
        let odd = [b"\xff".as_slice(), key.as_bytes(), b" \xfe\xff"].concat();
        assert_eq!(bytes(odd), [b"\xff".as_slice(), MARK.as_bytes(), b" \xfe\xff"].concat());
        assert_eq!(event(Note { text: key }.into()), Note { text: MARK.into() }.into());
    }

    #[test]
    fn a_granted_secret_goes_in_whatever_form_it_stands() {
        let secret = "\"zk\u{e9}-mask-7\\\"";
        know(secret);
        let line = serde_json::json!({ "k": secret }).to_string();
        assert_eq!(text(secret), MARK);
        assert_eq!(text(&line), format!("{{\"k\":\"{MARK}\"}}"), "nothing of its escapes is left");
        assert_eq!(text(&line.replace('\u{e9}', "\\u00e9")), format!("{{\"k\":\"{MARK}\"}}"));
        let twice = serde_json::json!([line]).to_string();
        assert!(text(&twice).contains(MARK) && !text(&twice).contains("mask-7"));
    }

    #[test]
    fn a_secret_inside_another_takes_nothing_of_it_away_and_the_oldest_go_whole() {
        know("inner-mask-8");
        know("outer-inner-mask-8-rest");
        assert_eq!(text("a outer-inner-mask-8-rest b inner-mask-8"), format!("a {MARK} b {MARK}"));
        let mut known = Known { values: VecDeque::new(), forms: Vec::new() };
        for n in 0..=KNOWN_MAX {
            known.add(&format!("secret/{n:08}"));
        }
        let holds = |form: &str| known.forms.iter().any(|f| f.as_str() == form);
        assert!(known.values.len() == KNOWN_MAX && !holds("secret/00000000") && !holds("secret\\/00000000"));
        assert!(holds("secret/00000001") && holds("secret\\/00000001") && known.forms.is_sorted_by_key(|f| usize::MAX - f.len()));
    }

    #[test]
    fn a_hostile_text_takes_no_more_than_its_length_in_work() {
        // Looked through to its end for each of them, this would take hours.
        let begun = std::time::Instant::now();
        for word in [PEM, "-----BEGIN RSA ", "sk-ant-", "ghp_", "AKIA ", "-"] {
            let long = word.repeat((4 << 20) / word.len());
            let masked = text(&long);
            assert!(masked.len() <= long.len() && (word != PEM || masked == long));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn the_name_of_a_key_ends_near_its_beginning() {
        let key = |name: usize| format!("{PEM}{}{PEM_END}\nabc\n-----END {PEM_END}", "X".repeat(name));
        let most = PEM_WITHIN - 1 - PEM.len();
        assert_eq!(text(&key(most)), MARK);
        assert_eq!(text(&key(most + 1)), key(most + 1));
        assert_eq!(text(PEM), PEM, "the text ends there");
    }

    proptest! {
        #[test]
        fn never_panics_and_is_idempotent(s in "\\PC{0,80}|(sk-ant-|ghp_|AKIA|-----BEGIN )[a-zA-Z0-9 -]{0,60}") {
            let once = text(&s).into_owned();
            prop_assert_eq!(text(&once).into_owned(), once.clone());
        }
    }
}
