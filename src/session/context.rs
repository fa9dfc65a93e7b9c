//! Context providers of a session: asked beside a prompt, after the policies let it pass; what they give goes the way of a policy's context.
//!
//! Invariants:
//! - what is given is in the log with, or before, the frame that carries it: the text in `prompt_judged` under its provider's name, who gave
//!   it and how much in `context_added`; secrets are masked before anything is cut or given;
//! - each provider has a cap, and all of them with the policies another ([`CONTEXT_MAX`]); one that fails adds nothing and stops nothing,
//!   unless it is `required`;
//! - providers come from the operator: his configuration, a project's that he trusts, or his word on a live session;
//! - an agent that cannot tell context from its user's words is given none.
//!
//! The prompt, and whatever else its session is told, waits for the slowest provider (`timeout_ms`; where only hooks hold the agent,
//! [`HOOKED_WITHIN`]). Called by `moments`, `start` and `external` (which a session gets), `api` (live changes).

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{Error, Inner, Manager, live, mask};
use crate::agent::{self, Driver};
use crate::config::Config;
use crate::model::moment::NewPrompt;
use crate::model::{
    Actor, ContextAdded, ContextAt, ContextError, ContextProvider, ContextProviderAdded, ContextProviderRemoved, ContextSource, Event,
    MEMORY_QUERY_MAX, Mediation, PromptContext, Refusal, Session, SessionContext, SessionId, Status,
};
use crate::policy::Chain;
use crate::policy::moments::CONTEXT_MAX;

mod command;
mod files;
mod secret;

pub(super) use command::{left, sweep};

/// How long a command may take in a session that only hooks hold: the agent waits at its hook, which is not patient.
const HOOKED_WITHIN: Duration = Duration::from_millis(2_500);
/// How long looking may take, of files with what policies say of them, and of memory; in a session that only hooks hold no longer than that.
const LOOKED_WITHIN: Duration = Duration::from_secs(5);
/// Stands where the rest was over the cap.
const CUT: &str = "\n[cut]";
/// Longest reason in bytes, and most files that are named as left out.
const WHY_MAX: usize = 512;
/// Longest word that is left out where a text was cut.
const WORD_MAX: usize = 4096;
const LEFT_OUT_MAX: usize = 32;

/// What one provider found.
#[derive(Debug, Default, PartialEq)]
struct Piece {
    text: String,
    /// There was more.
    cut: bool,
    left_out: Vec<String>,
    /// Something of it belongs on the log by itself.
    event: Option<Event>,
}

/// What all of them gave.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub events: Vec<Event>,
    pub context: Vec<PromptContext>,
    pub refused: Option<Refusal>,
}

/// Whether any provider is asked beside a prompt of this number.
pub(super) fn is_due(session: &Session, number: u64) -> bool {
    session.context.iter().any(|c| c.due(number == 1).is_some())
}

/// The providers that a new session gets: those it names, else all that are for every session.
pub(super) fn chosen(config: &Config, names: Option<&[String]>, driver: &dyn Driver) -> Result<Vec<ContextProvider>, ContextError> {
    let Some(names) = names else {
        let all = config.context.values().filter(|e| e.default && driver.takes_context());
        return all.map(|e| sayable(&e.provider).map(|()| e.provider.clone())).collect();
    };
    if !names.is_empty() && !driver.takes_context() {
        return Err(ContextError::NotTaken { agent: driver.name().to_owned() });
    }
    let mut out: Vec<ContextProvider> = Vec::new();
    for name in names {
        let provider = configured(config, name)?;
        sayable(&provider)?;
        if !out.contains(&provider) {
            out.push(provider);
        }
    }
    Ok(out)
}

/// The same of a session that workers elsewhere run: none, and nobody is to think otherwise.
pub(super) fn chosen_elsewhere(names: Option<&[String]>) -> Result<Vec<ContextProvider>, ContextError> {
    if names.is_none_or(<[String]>::is_empty) { Ok(vec![]) } else { Err(ContextError::Elsewhere) }
}

/// Whether it can stand in the log as it is: from there it is asked later, so a secret in it would become its mask.
fn sayable(provider: &ContextProvider) -> Result<(), ContextError> {
    let said = serde_json::json!(provider.source);
    if mask::value(&said) == said {
        return Ok(());
    }
    let (name, found) = (provider.name.clone(), "something with a secret in it, which is kept in no log".to_owned());
    Err(ContextError::Setting { name, key: provider.source.kind(), found, expected: "it to be read from where it is kept".to_owned() })
}

fn configured(config: &Config, name: &str) -> Result<ContextProvider, ContextError> {
    let unknown = || {
        let names: Vec<&str> = config.context.keys().map(String::as_str).collect();
        let known = match names.is_empty() {
            true => "write one into `[context.NAME]` of the configuration".to_owned(),
            false => format!("there are {}", names.join(", ")),
        };
        ContextError::Unknown { name: live::cut(name, 80), known }
    };
    config.context.get(name).map(|e| e.provider.clone()).ok_or_else(unknown)
}

/// The events that give a new session its providers.
pub(super) fn added(providers: &[ContextProvider], by: &Actor) -> Vec<Event> {
    providers.iter().map(|p| ContextProviderAdded { provider: p.clone(), by: by.clone() }.into()).collect()
}

/// Asks every provider that is due, all at once; `room` bytes are left for them.
pub(super) async fn gather(inner: &Arc<Inner>, chain: &Chain, session: &Session, prompt: &NewPrompt, room: usize) -> Gathered {
    let due: Vec<(&SessionContext, ContextAt)> =
        session.context.iter().filter_map(|c| c.due(prompt.number == 1).map(|at| (c, at))).collect();
    let found = join_all(due.iter().map(|(c, _)| timed(inner, chain, session, &c.provider, &prompt.text))).await;
    let mut out = Gathered::default();
    let mut room = room.min(CONTEXT_MAX);
    for ((c, at), (found, duration_ms)) in due.into_iter().zip(found) {
        let (p, kind) = (&c.provider, c.provider.source.kind());
        let (provider, kind_name) = (p.name.clone(), kind.to_owned());
        let mut event =
            ContextAdded { provider, kind: kind_name, at: Some(at), prompt: prompt.number, duration_ms, ..ContextAdded::default() };
        match found {
            Ok(piece) => {
                out.events.extend(piece.event);
                event.left_out = piece.left_out;
                let max = usize::try_from(p.max_bytes).unwrap_or(usize::MAX).min(room);
                let (text, cut) = capped(&clean(&piece.text), max);
                event.truncated = cut || piece.cut;
                if !text.is_empty() {
                    room -= text.len();
                    event.bytes = text.len() as u64;
                    event.digest = Some(blake3::hash(text.as_bytes()).to_hex().to_string());
                    event.position = Some(out.context.len() as u64);
                    out.context.push(PromptContext { policy: format!("context {} ({kind})", p.name), text });
                }
            }
            Err(why) => {
                let reason = live::cut(&mask::text(&why), WHY_MAX);
                if p.required && out.refused.is_none() {
                    out.refused = Some(Refusal { policy: format!("context {}", p.name), reason: reason.clone() });
                }
                event.failed = Some(reason);
            }
        }
        out.events.push(event.into());
    }
    if out.refused.is_some() {
        // why: nothing of it was given.
        out.context.clear();
        out.events.retain(|e| !matches!(e, Event::ContextAdded(a) if a.failed.is_none()));
    }
    out
}

async fn timed(
    inner: &Arc<Inner>,
    chain: &Chain,
    session: &Session,
    provider: &ContextProvider,
    words: &str,
) -> (Result<Piece, String>, u64) {
    let begun = Instant::now();
    // why somewhat more: what is masked away leaves room, and no secret is to be cut in two.
    let most = usize::try_from(provider.max_bytes).unwrap_or(usize::MAX).saturating_add(files::SLACK);
    let hooked = session.mediation == Mediation::Hooks;
    let within = |most: Duration| if hooked { most.min(HOOKED_WITHIN) } else { most };
    let found = match &provider.source {
        ContextSource::Memory { tier, tag, limit } => {
            looked(within(LOOKED_WITHIN), memory(inner, session, words, *tier, tag.clone(), *limit)).await
        }
        ContextSource::Files { paths } => looked(within(LOOKED_WITHIN), files::read(inner, chain, session, paths.clone(), most)).await,
        ContextSource::Command { command, timeout_ms } => {
            let within = within(Duration::from_millis(*timeout_ms));
            command::run(inner, command::Job { session: &session.id, name: &provider.name, command, cwd: &session.cwd, within, most }).await
        }
    };
    (found, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Not for ever: a folder may lie where nothing answers. What hangs there keeps its thread, and nobody else.
async fn looked(within: Duration, looking: impl Future<Output = Result<Piece, String>>) -> Result<Piece, String> {
    let over = |_| Err(format!("looking did not end within {} ms", within.as_millis()));
    tokio::time::timeout(within, looking).await.unwrap_or_else(over)
}

/// What is kept and has any of the prompt's words, in the session's namespace.
async fn memory(
    inner: &Arc<Inner>,
    session: &Session,
    words: &str,
    tier: Option<crate::model::MemoryTier>,
    tag: Option<String>,
    limit: usize,
) -> Result<Piece, String> {
    let mut end = words.len().min(MEMORY_QUERY_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    let manager = Manager { inner: Arc::clone(inner) };
    let (event, found) = manager.recalled(session, &words[..end], tier, tag, limit).await.map_err(|e| e.to_string())?;
    let text: Vec<String> = found.iter().map(|h| format!("- {}", h.memory.text)).collect();
    Ok(Piece { text: text.join("\n"), event: Some(event.into()), ..Piece::default() })
}

/// Without secrets, and without characters that are none of a text.
fn clean(text: &str) -> String {
    let plain: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    mask::text(&plain).trim_end().to_owned()
}

/// At most `max` bytes, whole characters, and whether something is missing.
fn capped(text: &str, max: usize) -> (String, bool) {
    if text.len() <= max {
        return (text.to_owned(), false);
    }
    let Some(mut end) = max.checked_sub(CUT.len()) else { return (String::new(), true) };
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (format!("{}{CUT}", &text[..end]), true)
}

/// The text without its last word, where that may be the beginning of a longer one; of a longer word without its end.
fn to_a_word(text: &mut String) {
    let mut near = text.len().saturating_sub(WORD_MAX);
    while !text.is_char_boundary(near) {
        near -= 1;
    }
    let end = text[near..].rfind(char::is_whitespace).map_or(near, |at| near + at);
    text.truncate(end);
}

impl Manager {
    /// A provider as the configuration of the session's folder has it.
    pub fn configured_context(&self, session: &Session, name: &str) -> Result<ContextProvider, Error> {
        Ok(configured(&self.inner.config_of(std::path::Path::new(&session.cwd)), name)?)
    }

    /// Gives a live session a provider, from its next prompt on; returns once that is durable.
    pub async fn add_context(&self, id: &SessionId, provider: ContextProvider, by: Actor) -> Result<Session, Error> {
        provider.check()?;
        sayable(&provider)?;
        let session = self.inner.store.session(id)?;
        let (s, name) = (id.to_string(), provider.name.clone());
        if session.status == Status::Ended {
            return Err(Error::Ended(id.clone()));
        }
        if session.status == Status::Queued {
            let why = "is not given now: the session waits for its turn; queue it with --context, or add it when it runs".to_owned();
            return Err(Error::Refused { what: format!("context provider {}", live::cut(&name, 80)), why });
        }
        let driver = agent::driver(&session.agent)?;
        if !driver.takes_context() {
            return Err(ContextError::NotTaken { agent: driver.name().to_owned() }.into());
        }
        if session.context.iter().any(|c| c.provider.name == name) {
            return Err(ContextError::There { session: s, name }.into());
        }
        if session.context.len() >= crate::model::CONTEXT_PROVIDERS_MAX {
            return Err(ContextError::Full { session: s }.into());
        }
        self.record(id, vec![ContextProviderAdded { provider, by }.into()]).await
    }

    /// Takes one away, from the next prompt on.
    pub async fn remove_context(&self, id: &SessionId, name: &str, by: Actor) -> Result<Session, Error> {
        let session = self.inner.store.session(id)?;
        if !session.context.iter().any(|c| c.provider.name == name) {
            return Err(ContextError::NotThere { session: id.to_string(), name: live::cut(name, 80) }.into());
        }
        self.record(id, vec![ContextProviderRemoved { name: name.to_owned(), by }.into()]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_masked_before_anything_is_cut() {
        let token = format!("ghp_{}", "a1B2".repeat(9));
        let text = clean(&format!("one {token}\u{1b}[2J two\u{0}\n\n"));
        assert_eq!(text, "one [secret masked][2J two");
        // Wherever the cap falls, no part of it is left.
        for max in 0..60 {
            let (out, _) = capped(&clean(&format!("key {token} end")), max);
            assert!(!out.contains("a1B2") && out.len() <= max, "{max}: {out}");
        }
        let mut cut = format!("key {}", &token[..20]);
        to_a_word(&mut cut);
        assert_eq!(cut, "key");
        // Of one word that is longer than any secret its beginning is left.
        let mut long = "é".repeat(WORD_MAX);
        to_a_word(&mut long);
        assert_eq!(long.len(), WORD_MAX);
    }

    #[tokio::test]
    async fn what_hangs_is_not_waited_for() {
        let found = looked(Duration::from_millis(10), std::future::pending()).await;
        assert_eq!(found, Err("looking did not end within 10 ms".to_owned()));
        assert_eq!(looked(LOOKED_WITHIN, async { Ok(Piece::default()) }).await, Ok(Piece::default()));
    }

    #[test]
    fn where_workers_run_it_nobody_is_left_to_think_that_providers_are_asked() {
        assert_eq!((chosen_elsewhere(None), chosen_elsewhere(Some(&[]))), (Ok(vec![]), Ok(vec![])));
        assert_eq!(chosen_elsewhere(Some(&["a".to_owned()])), Err(ContextError::Elsewhere));
    }

    #[test]
    fn a_secret_in_a_provider_is_refused_and_not_masked_in_it() {
        let of = |word: &str| ContextProvider {
            name: "a".into(),
            source: ContextSource::Command { command: vec!["curl".into(), word.into()], timeout_ms: 500 },
            at: vec![ContextAt::Prompt],
            max_bytes: 1,
            required: false,
        };
        assert_eq!(sayable(&of("https://example.org")), Ok(()));
        let said = sayable(&of(&format!("ghp_{}", "a1B2".repeat(9)))).unwrap_err().to_string();
        assert!(said.contains("context provider a") && !said.contains("a1B2"), "{said}");
    }

    proptest! {
        #[test]
        fn a_cap_holds_and_says_so(text in "\\PC{0,40}", max in 0usize..60) {
            let (out, cut) = capped(&text, max);
            prop_assert!(out.len() <= max && cut == (text.len() > max));
            prop_assert!(cut || out == text);
        }
    }
}
