//! The configuration, read and compiled once. Called by `lib`.

use beadle_plugin::Effect;
use policy_kit::config::{Keys, parse};

use crate::place::{Folder, Place};
use crate::standard::{EXCEPTIONS, STANDARD};

/// Most folders of one list.
const FOLDERS: usize = 256;
/// Most places of one list.
const PLACES: usize = 1_024;

/// The compiled policy.
#[derive(Debug)]
pub struct Paths {
    pub(crate) write: Vec<Folder>,
    pub(crate) read: Option<Vec<Folder>>,
    pub(crate) secrets: Vec<Place>,
    pub(crate) except: Vec<Place>,
    pub(crate) on_outside: Effect,
    pub(crate) on_secret: Effect,
    pub(crate) on_uncertain: Effect,
    /// A read of a whole tree counts as uncertain.
    pub(crate) trees: bool,
}

impl Paths {
    /// Compiles a configuration (JSON, see the crate's documentation). The error is for the operator.
    pub fn read(config: &str) -> Result<Self, String> {
        let map = parse(config)?;
        let known = ["write", "read", "secrets", "except", "standard_secrets", "on_outside", "on_secret", "on_uncertain", "recursive"];
        let keys = Keys::of(&map, &known)?;
        let standard = keys.flag("standard_secrets", true)?;
        let places = |key: &str, own: &[&str]| {
            let mut out = Vec::new();
            for text in own.iter().filter(|_| standard) {
                out.push(Place::parse(text).map_err(|e| format!("the standard list: {text}: {e}"))?);
            }
            for (at, text) in keys.list(key, PLACES)?.unwrap_or_default() {
                out.push(Place::parse(text).map_err(|e| format!("{at}: {e}, got {text:?}"))?);
            }
            Ok::<_, String>(out)
        };
        let folders = |key: &str| {
            let Some(list) = keys.list(key, FOLDERS)? else { return Ok(None) };
            let one = |(at, text): (String, &str)| Folder::parse(text).map_err(|e| format!("{at}: {e}, got {text:?}"));
            list.into_iter().map(one).collect::<Result<Vec<_>, String>>().map(Some)
        };
        Ok(Self {
            write: folders("write")?.unwrap_or_else(|| vec![Folder::WriteRoot]),
            read: folders("read")?,
            secrets: places("secrets", STANDARD)?,
            except: places("except", EXCEPTIONS)?,
            on_outside: keys.effect("on_outside", Effect::Deny)?,
            on_secret: keys.effect("on_secret", Effect::Deny)?,
            on_uncertain: keys.effect("on_uncertain", Effect::Ask)?,
            trees: keys.word("recursive", &["ask", "ignore"])? == "ask",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_lists_compile_and_can_be_turned_off() {
        let p = Paths::read("{}").expect("the defaults");
        assert_eq!((p.secrets.len(), p.except.len(), p.write.len()), (STANDARD.len(), EXCEPTIONS.len(), 1));
        assert!(p.read.is_none() && p.trees);
        let p = Paths::read(r#"{"standard_secrets": false, "secrets": ["x"], "write": []}"#).expect("a config");
        assert_eq!((p.secrets.len(), p.except.len(), p.write.len()), (1, 0, 0));
    }

    #[test]
    fn errors_say_where_and_what() {
        for (config, says) in [
            (r#"{"writes": []}"#, "unknown key \"writes\""),
            (r#"{"write": ["tmp"]}"#, "write[0]: expected"),
            (r#"{"write": ["/a/../b"]}"#, "write[0]"),
            (r#"{"secrets": ["a/../b"]}"#, "secrets[0]"),
            (r#"{"secrets": ["[ab]"]}"#, "secrets[0]"),
            (r#"{"except": [""]}"#, "except[0]"),
            (r#"{"on_outside": "allow"}"#, "on_outside: expected \"ask\" or \"deny\""),
            (r#"{"recursive": "no"}"#, "recursive"),
            ("[]", "an object"),
        ] {
            let e = Paths::read(config).expect_err(config);
            assert!(e.contains(says), "{config}: {e}");
        }
    }
}
