//! The whole story of one approval: what a person needs to see before saying yes or no.
//!
//! Invariants: everything is bounded; it is read from the log and, for a file that would be overwritten, from that file as it is now;
//! what an agent said is data for showing. Called by `api` through [`Manager::approval_detail`].

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use super::always::{Always, plan};
use super::diff;
use crate::model::{Approval, ApprovalRequested, ApprovalState, Call, Event};
use crate::session::{Error, Manager, mask};

/// Events looked back through for the agent's last words.
const LOOK_BACK: u64 = 200;
/// Largest file that is compared with what would be written, in bytes.
const FILE_MAX: u64 = 256 << 10;
/// Most edits of one call that are shown.
const EDITS_MAX: usize = 50;

/// One approval with all that belongs to it.
#[derive(Debug, Clone)]
pub struct ApprovalDetail {
    pub approval: Approval,
    /// As recorded: known secrets are masked in it.
    pub call: Call,
    /// The policies' answers and the rewrite.
    pub asked: ApprovalRequested,
    /// The agent's last words before the question.
    pub words: Option<String>,
    /// The agent's own description of this call.
    pub description: Option<String>,
    /// Unified, for calls that change files.
    pub diff: Option<String>,
    /// Something was left out of it.
    pub diff_cut: bool,
    /// While it waits: the rules that an answer with `always` would add, or why there are none.
    pub always: Option<Result<Vec<String>, String>>,
}

impl Manager {
    /// Everything about one approval. `session` is an id, a unique prefix or a name.
    pub async fn approval_detail(&self, session: &str, call: u64) -> Result<ApprovalDetail, Error> {
        let approval = self.approval(session, call)?;
        let (call, asked) = self.recorded(&approval)?;
        let words = self.words(&approval, call.parent_call_id.as_deref())?;
        let input = asked.updated_input.as_ref().unwrap_or(&call.input);
        let description = input.get("description").and_then(Value::as_str).map(|d| super::super::live::cut(d, 1024));
        let (diff, diff_cut) = changes(&call, input).map_or((None, false), |(text, cut)| (Some(mask::text(&text).into_owned()), cut));
        let mut always = None;
        if approval.state == ApprovalState::Waiting {
            let session = self.inner.store.session(&approval.session)?;
            let planned = plan(&self.inner, &session, &call, asked.updated_input.as_ref(), &Always::default()).await;
            always = Some(planned.map(|p| p.rules));
        }
        Ok(ApprovalDetail { approval, call, asked, words, description, diff, diff_cut, always })
    }

    /// The call and the question as the log has them.
    pub(super) fn recorded(&self, a: &Approval) -> Result<(Call, ApprovalRequested), Error> {
        let one = |seq: u64| Ok::<_, Error>(self.inner.store.events(&a.session, seq, 1)?.pop().map(|e| e.envelope.event));
        match (one(a.call)?, one(a.asked)?) {
            (Some(Event::ToolRequested(r)), Some(Event::ApprovalRequested(asked))) => Ok((r.call, asked)),
            _ => Err(Error::NothingWaits { session: a.session.clone(), call: a.call }),
        }
    }

    fn words(&self, a: &Approval, parent: Option<&str>) -> Result<Option<String>, Error> {
        let from = a.asked.saturating_sub(LOOK_BACK).max(1);
        let events = self.inner.store.events(&a.session, from, usize::try_from(a.asked - from).unwrap_or(0))?;
        Ok(events.into_iter().rev().find_map(|e| match e.envelope.event {
            Event::AgentReplied(r) if r.parent_call_id.as_deref() == parent => Some(r.text),
            _ => None,
        }))
    }
}

/// What a call would change, as one text of diffs; `None` for calls that change no file by themselves.
fn changes(call: &Call, input: &Value) -> Option<(String, bool)> {
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
    if let Some(patch) = text(input, "patch").or_else(|| text(input, "patch_text")) {
        return Some(bounded(&patch));
    }
    let path = call.paths.first()?;
    let head = format!("--- {}\n", path.absolute);
    if let Some(edits) = input.get("edits").and_then(Value::as_array) {
        let mut out = head;
        let mut cut = edits.len() > EDITS_MAX;
        for e in edits.iter().take(EDITS_MAX) {
            let (d, c) = diff::unified(&text(e, "old_string").unwrap_or_default(), &text(e, "new_string").unwrap_or_default());
            out.push_str(&d);
            cut |= c;
        }
        let (out, more) = bounded(&out);
        return Some((out, cut || more));
    }
    let (old, new) = match (text(input, "old_string"), text(input, "new_string"), text(input, "content"), text(input, "new_source")) {
        (Some(old), Some(new), ..) => (old, new),
        (_, _, Some(new), _) => match file(Path::new(&path.absolute)) {
            Ok(old) => (old, new),
            Err(why) => {
                let (d, cut) = diff::unified("", &new);
                return Some((format!("--- {} ({why})\n{d}", path.absolute), cut));
            }
        },
        (_, _, _, Some(new)) => (String::new(), new),
        _ => return None,
    };
    let (d, cut) = diff::unified(&old, &new);
    Some((format!("{head}{d}"), cut))
}

/// A file as it is now; the error says why it is not compared.
fn file(path: &Path) -> Result<String, &'static str> {
    // why NONBLOCK: a FIFO in place of the file must not hold us.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let f = opened.map_err(|e| if e.kind() == std::io::ErrorKind::NotFound { "new file" } else { "cannot be read" })?;
    let meta = f.metadata().map_err(|_| "cannot be read")?;
    if !meta.is_file() || meta.len() > FILE_MAX {
        return Err("not compared: not a regular file of at most 256 KiB");
    }
    let mut bytes = Vec::new();
    f.take(FILE_MAX).read_to_end(&mut bytes).map_err(|_| "cannot be read")?;
    String::from_utf8(bytes).map_err(|_| "not compared: not text")
}

fn bounded(text: &str) -> (String, bool) {
    let mut out = String::new();
    for (n, line) in text.lines().enumerate() {
        if n >= diff::LINES_MAX || out.len() + line.len() >= diff::BYTES_MAX {
            return (out, true);
        }
        out.push_str(line);
        out.push('\n');
    }
    (out, false)
}
