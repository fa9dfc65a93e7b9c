//! `[context.NAME]`: providers of context beside prompts. The operator's file has them, and a project's that is trusted.

use std::collections::BTreeMap;

use toml::de::DeTable;

use super::Error;
use super::value::{At, Source};
use crate::model::{
    CONTEXT_BYTES, CONTEXT_HITS, CONTEXT_PROVIDERS_MAX, CONTEXT_TIMEOUT_MS, ContextAt, ContextProvider, ContextSource, MEMORY_HITS_MAX,
    MemoryTier,
};

const EVERY: &[&str] = &["kind", "at", "max_bytes", "required", "default"];
const MEMORY: &[&str] = &["tier", "tag", "limit"];
const FILES: &[&str] = &["paths"];
const COMMAND: &[&str] = &["command", "timeout_ms"];
/// Most items of a list; what a provider may have is checked after that.
const LIST_MAX: usize = 1_000;

/// A provider as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    pub provider: ContextProvider,
    /// Every session gets it that does not say otherwise; else those that name it.
    pub default: bool,
}

/// Names of the providers of a file.
pub(super) fn mentioned(top: &DeTable<'_>) -> Vec<String> {
    let all = top.get("context").and_then(|v| v.get_ref().as_table()).into_iter().flatten();
    all.map(|(name, _)| format!("context.{}", name.get_ref())).collect()
}

/// Adds those of a trusted project to the operator's, as many as a session can have; gives the rest. The operator's come first, so a name
/// that sessions are started with means what it meant.
pub(super) fn layer(all: &mut BTreeMap<String, ContextEntry>, added: BTreeMap<String, ContextEntry>) -> Vec<String> {
    let mut rest = Vec::new();
    for (name, entry) in added {
        if all.len() < CONTEXT_PROVIDERS_MAX {
            all.entry(name).or_insert(entry);
        } else if !all.contains_key(&name) {
            rest.push(format!("context.{name}"));
        }
    }
    rest
}

/// Reads the providers of one file. Errors name the place and what was expected.
pub(super) fn read(source: &Source<'_>, top: &DeTable<'_>) -> Result<BTreeMap<String, ContextEntry>, Error> {
    let mut out = BTreeMap::new();
    let Some(value) = top.get("context") else { return Ok(out) };
    let whole = At { source, value };
    for (name, value) in whole.table("context")? {
        let name: &str = name.get_ref();
        out.insert(name.to_owned(), entry(At { source, value }, name)?);
    }
    if out.len() > CONTEXT_PROVIDERS_MAX {
        return Err(whole.wrong("context", format!("at most {CONTEXT_PROVIDERS_MAX} providers, not {}", out.len())));
    }
    Ok(out)
}

fn entry(at: At<'_, '_>, name: &str) -> Result<ContextEntry, Error> {
    let whole = format!("context.{name}");
    let of = |key: &str| format!("{whole}.{key}");
    let kind = match at.table(&whole)?.get("kind") {
        Some(value) => At { source: at.source, value }.word(&of("kind"), &ContextSource::WORDS)?,
        None => return Err(at.wrong(&of("kind"), format!("one of {}", ContextSource::WORDS.join(", ")))),
    };
    let more = match kind {
        "memory" => MEMORY,
        "files" => FILES,
        _ => COMMAND,
    };
    let (mut tier, mut tag, mut limit) = (None, None, CONTEXT_HITS);
    let (mut paths, mut command, mut timeout_ms) = (vec![], vec![], CONTEXT_TIMEOUT_MS.2);
    let (mut when, mut max_bytes, mut required, mut default) = (vec![ContextAt::Prompt], CONTEXT_BYTES, false, true);
    for (key, value) in at.fields(&whole, &[EVERY, more].concat())? {
        let full = of(key);
        match key {
            "at" => {
                let items = value.items(&full, 2)?;
                let words = items.iter().map(|i| i.word(&full, &ContextAt::WORDS)).collect::<Result<Vec<_>, _>>()?;
                when = words.into_iter().filter_map(ContextAt::parse).collect();
                when.sort();
                when.dedup();
            }
            "max_bytes" => max_bytes = value.number(&full, 1, crate::model::CONTEXT_BYTES_MAX)?,
            "required" => required = value.flag(&full)?,
            "default" => default = value.flag(&full)?,
            "tier" => tier = MemoryTier::parse(value.word(&full, &MemoryTier::ALL.map(MemoryTier::as_str))?),
            "tag" => tag = Some(value.text(&full)?.to_owned()),
            "limit" => limit = usize::try_from(value.number(&full, 1, MEMORY_HITS_MAX as u64)?).unwrap_or(CONTEXT_HITS),
            "paths" => paths = value.texts(&full, LIST_MAX)?,
            "command" => command = value.texts(&full, LIST_MAX)?,
            "timeout_ms" => timeout_ms = value.number(&full, CONTEXT_TIMEOUT_MS.0, CONTEXT_TIMEOUT_MS.1)?,
            _ => {}
        }
    }
    let source = match kind {
        "memory" => ContextSource::Memory { tier, tag, limit },
        "files" => ContextSource::Files { paths },
        _ => ContextSource::Command { command, timeout_ms },
    };
    let provider = ContextProvider { name: name.to_owned(), source, at: when, max_bytes, required };
    provider.check().map_err(|e| at.wrong(&whole, format!("something else: {e}")))?;
    Ok(ContextEntry { provider, default })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(text: &str) -> Result<BTreeMap<String, ContextEntry>, String> {
        let source = Source::new(Path::new("/c"), text);
        let top = source.parse().map_err(|e| e.to_string())?;
        read(&source, &top).map_err(|e| e.to_string())
    }

    #[test]
    fn providers_are_read_with_what_holds_where_nothing_is_said() {
        let all = of("[context.notes]\nkind = \"memory\"\ntier = \"long-term\"\n[context.docs]\nkind = \"files\"\npaths = [\"a.md\"]\n\
             at = [\"prompt\", \"start\"]\nmax_bytes = 7\nrequired = true\ndefault = false\n\
             [context.git]\nkind = \"command\"\ncommand = [\"git\", \"status\"]\n")
        .unwrap();
        let notes = &all["notes"];
        assert_eq!(
            (notes.default, notes.provider.max_bytes, notes.provider.at.as_slice()),
            (true, CONTEXT_BYTES, &[ContextAt::Prompt][..])
        );
        assert_eq!(notes.provider.source, ContextSource::Memory { tier: Some(MemoryTier::LongTerm), tag: None, limit: CONTEXT_HITS });
        let docs = &all["docs"];
        assert!(!docs.default && docs.provider.required && docs.provider.max_bytes == 7);
        assert_eq!(docs.provider.at, [ContextAt::Start, ContextAt::Prompt]);
        let command = vec!["git".to_owned(), "status".to_owned()];
        assert_eq!(all["git"].provider.source, ContextSource::Command { command, timeout_ms: 5_000 });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[context.a]\n", "context.a.kind"),
            ("[context.a]\nkind = \"web\"\n", "memory, files, command"),
            ("[context.a]\nkind = \"files\"\npaths = [\"x\"]\ncommand = [\"x\"]\n", "unknown key context.a.command"),
            ("[context.a]\nkind = \"files\"\n", "1 to 32 paths"),
            ("[context.a]\nkind = \"files\"\npaths = [\"../x\"]\n", "below the session's folder"),
            ("[context.a]\nkind = \"command\"\ncommand = [\"./x\"]\n", "absolute path"),
            ("[context.a]\nkind = \"memory\"\nat = [\"never\"]\n", "start, prompt"),
            ("[context.a]\nkind = \"memory\"\nmax_bytes = 0\n", "from 1 to 65536"),
            ("[context.\"a b\"]\nkind = \"memory\"\n", "no name of a context provider"),
            ("context = 1\n", "expected a table"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
