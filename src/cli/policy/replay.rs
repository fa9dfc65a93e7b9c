//! `beadle policy replay`: what would be decided now on calls that were recorded, told as the difference.
//!
//! The logs are read from the daemon; the chain is put together and asked here, so that sessions that run are not held up. The exit is 0
//! when nothing would be decided otherwise, 1 when something would.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::args::ReplayArgs;
use super::super::exit::{Exit, UsageError};
use super::super::printer::Tone;
use super::super::replay::{line, summary};
use super::super::text::safe;
use super::super::{Context, Outcome};
use super::{Scratch, coded};
use crate::api::client::Client;
use crate::api::types::{EventDoc, EventsQuery, PAGE_MAX, SessionDoc, SessionsQuery};
use crate::config::{Config, Entry, Origin, Plugin as Source};
use crate::model::{Effect, Envelope, Event, Grants, Mode, OnFailure, REPLAY_LIMITS, Replay};
use crate::plugin::{Host, HostOptions, Limits, LoadSpec, MAX_COMPONENT};
use crate::policy::replay::{Reader, compare, judge};
use crate::policy::{Chain, Chains, RuntimeRule};

/// Deadline of a component that is tried as one policy more, in milliseconds.
const DEADLINE_MS: u64 = 100;

/// A component that is tried.
struct With {
    file: PathBuf,
    plugin: String,
}

/// Chains by folder and run-time rules: the same for many sessions, and what is loaded stays loaded.
struct Maker {
    chains: Chains,
    with: Option<With>,
    made: HashMap<(String, Vec<String>), Arc<Chain>>,
}

pub async fn replay(cx: &mut Context, args: ReplayArgs) -> Outcome {
    let scratch = Scratch::of(cx, None, args.config.as_deref())?;
    let client = cx.client()?;
    let trust: BTreeMap<PathBuf, String> = client.trusted().await?.items.into_iter().map(|t| (t.dir.into(), t.digest)).collect();
    let plugins = Host::new(HostOptions::default()).map_err(|e| coded(e.code(), &e))?;
    let with = args.with.as_deref().map(|f| look(&plugins, f)).transpose()?;
    let chains = Chains::new(scratch.folders.clone(), plugins, trust);
    let mut maker = Maker { chains, with, made: HashMap::new() };
    let since = args.since.as_deref().map(ms).transpose()?;
    let mut out = Replay::default();
    for session in sessions(&client, &args).await? {
        let chain = maker.chain(cx, &client, &session).await?;
        let before = out.changes.len();
        one(&client, &session, &chain, since, &mut out).await?;
        for change in &out.changes[before..] {
            if cx.printer.json() {
                cx.printer.document(change)?;
            } else {
                cx.printer.line(&line(change))?;
            }
        }
        // Told already; what is counted stays.
        out.changes.clear();
    }
    if cx.printer.json() {
        cx.printer.document(&serde_json::json!({
            "judged": out.judged, "skipped": out.skipped, "changed": out.changed, "loosened": out.loosened,
        }))?;
    } else {
        cx.printer.notice(Tone::Plain, &summary(&out, out.changed))?;
        cx.printer.notice(Tone::Plain, REPLAY_LIMITS)?;
    }
    Ok(if out.changed == 0 { Exit::Done } else { Exit::No })
}

fn look(plugins: &Host, file: &Path) -> anyhow::Result<With> {
    let shown = safe(&file.to_string_lossy());
    let file = file.canonicalize().map_err(|e| UsageError(format!("--with {shown}: {e}; give a component, a .wasm file")))?;
    let bytes = std::fs::metadata(&file).ok().filter(|m| m.is_file()).map_or(u64::MAX, |m| m.len());
    if bytes > MAX_COMPONENT as u64 {
        return Err(UsageError(format!("--with {shown}: it is no regular file of at most {MAX_COMPONENT} bytes")).into());
    }
    let wasm = std::fs::read(&file).map_err(|e| UsageError(format!("--with {shown}: {e}")))?.into();
    let spec = LoadSpec { name: "tried".to_owned(), wasm, config: "{}".to_owned(), limits: Limits::default(), grants: Grants::default() };
    let plugin =
        tokio::task::block_in_place(|| plugins.load(spec)).map_err(|e| UsageError(format!("--with {shown}: {e} [{}]", e.code())))?;
    Ok(With { file, plugin: plugin.describe().name.clone() })
}

async fn sessions(client: &Client, args: &ReplayArgs) -> anyhow::Result<Vec<SessionDoc>> {
    let mut out = Vec::new();
    if !args.sessions.is_empty() {
        for id in &args.sessions {
            out.push(client.session(id).await?);
        }
        return Ok(out);
    }
    let wanted = args.limit as usize;
    let mut cursor = None;
    while out.len() < wanted {
        let limit = Some((wanted - out.len()).min(PAGE_MAX));
        let page = client.sessions(&SessionsQuery { limit, cursor, ..SessionsQuery::default() }).await?;
        out.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(out)
}

impl Maker {
    async fn chain(&mut self, cx: &mut Context, client: &Client, session: &SessionDoc) -> anyhow::Result<Arc<Chain>> {
        let cwd = Path::new(&session.cwd);
        let mut config = self.chains.config(Some(cwd))?.config;
        let two_person = config.needs_two(&session.labels);
        let rules = client.rules(Some(&session.id)).await?.items;
        let counts = |e: Effect| !(two_person && e == Effect::Allow);
        let rules: Vec<RuntimeRule> =
            rules.into_iter().filter(|r| counts(r.effect)).map(|r| RuntimeRule { effect: r.effect, rule: r.rule }).collect();
        let key = (session.cwd.clone(), rules.iter().map(|r| format!("{} {}", r.effect.as_str(), r.rule)).collect());
        if let Some(chain) = self.made.get(&key) {
            return Ok(chain.clone());
        }
        if let Some(with) = &self.with {
            put(with, &self.chains, &mut config);
        }
        let (chain, events) = self.chains.chain_of(&config, &rules).await;
        for e in events {
            if let Event::PluginFailed(f) = e {
                cx.printer.notice(Tone::Plain, &format!("policy {} fails: {}", safe(&f.policy), safe(&f.detail)))?;
            }
        }
        self.made.insert(key, chain.clone());
        Ok(chain)
    }
}

/// Puts the component in the place of the installed plugin of its name, wherever that is asked; else behind all policies.
fn put(with: &With, chains: &Chains, config: &mut Config) {
    let file = Source::File(with.file.clone());
    let mut lock = chains.installed().unwrap_or_default();
    let found = lock.plugins.iter().position(|p| p.plugin == with.plugin).map(|i| lock.plugins.remove(i));
    let entry = |name: &str, mode, on_failure, deadline_ms, given: serde_json::Value, grants| Entry {
        name: name.to_owned(),
        plugin: file.clone(),
        mode,
        on_failure,
        deadline_ms,
        config: given,
        grants,
        origin: Origin::Embedded,
        tighten_only: false,
    };
    let Some(p) = found else {
        config.policies.push(entry(&with.plugin, Mode::Enforce, OnFailure::Deny, DEADLINE_MS, serde_json::json!({}), Grants::default()));
        return;
    };
    let source = Source::Installed(p.name.clone());
    let mut named = false;
    for e in config.policies.iter_mut().filter(|e| e.plugin == source) {
        named |= !e.tighten_only;
        e.plugin = file.clone();
    }
    if p.enabled && !named {
        let given = serde_json::from_str(&p.config).unwrap_or_default();
        config.policies.push(entry(&p.name, p.mode, p.on_failure, p.deadline_ms, given, p.grants));
    }
    if !p.enabled {
        config.policies.retain(|e| e.plugin != file);
    }
    // why: else it would be asked beside the one that is tried.
    chains.set_installed(lock);
}

async fn one(client: &Client, session: &SessionDoc, chain: &Chain, since: Option<i64>, out: &mut Replay) -> anyhow::Result<()> {
    let mut reader = Reader::default();
    let mut from = 1;
    loop {
        let wanted = EventsQuery { from: Some(from), limit: Some(PAGE_MAX), ..EventsQuery::default() };
        let page = client.events(&session.id, &wanted).await?.items;
        let Some(last) = page.last() else { break };
        from = last.seq + 1;
        for doc in &page {
            let Some(recorded) = reader.read(&envelope(doc)?) else { continue };
            if since.is_some_and(|s| recorded.at < s) {
                continue;
            }
            let would = judge(chain, &recorded).await;
            out.take(compare(&recorded, &recorded.was, &would), usize::MAX);
        }
    }
    out.skipped += reader.skipped();
    Ok(())
}

fn envelope(doc: &EventDoc) -> anyhow::Result<Envelope> {
    Ok(Envelope { session: doc.session.parse()?, seq: doc.seq, at: ms(&doc.at)?, attempt: doc.attempt, event: doc.event()? })
}

fn ms(at: &str) -> anyhow::Result<i64> {
    Ok(chrono::DateTime::parse_from_rfc3339(at)?.timestamp_millis())
}
