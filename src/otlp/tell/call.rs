//! Tool calls: found again when their result comes, or when their session ends without one.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::*;
use crate::model::ToolEnded;

/// A call as it was asked.
pub(super) struct Call {
    pub seq: u64,
    pub at: i64,
    pub attempt: u32,
    pub tool: String,
    kind: Option<String>,
    call_id: Option<String>,
    parent_call_id: Option<String>,
    input: serde_json::Value,
}

/// How a call came out.
pub(super) enum Ended<'r> {
    With(&'r ToolEnded),
    Never,
}

/// Of a result, only whose it is: its output may be long.
#[derive(Deserialize)]
struct Whose {
    #[serde(default)]
    call: Option<u64>,
    #[serde(default)]
    call_id: Option<String>,
    #[serde(default, rename = "output")]
    _output: IgnoredAny,
}

impl Call {
    fn of(p: &Past) -> Option<Self> {
        let (seq, at, attempt) = (p.seq, p.at, p.attempt);
        Some(match p.event()? {
            Event::ToolRequested(r) => {
                let kind = serde_json::to_value(r.call.kind).ok().and_then(|v| Some(v.as_str()?.to_owned()));
                let c = r.call;
                Self { seq, at, attempt, tool: c.tool, kind, call_id: c.call_id, parent_call_id: c.parent_call_id, input: c.input }
            }
            Event::ToolReported(r) => Self {
                seq,
                at,
                attempt,
                tool: r.tool,
                kind: None,
                call_id: Some(r.call_id),
                parent_call_id: r.parent_call_id,
                input: r.input,
            },
            _ => return None,
        })
    }

    pub fn span_id(&self, session: &str) -> Vec<u8> {
        match &self.call_id {
            Some(id) => ids::call(session, self.attempt, id),
            None => ids::event(session, self.seq),
        }
    }
}

impl Teller<'_> {
    /// The call that an event names by its number.
    pub(super) fn call(&self, seq: u64) -> Result<Option<Call>> {
        Ok(self.log.event(&self.e.session, seq)?.as_ref().and_then(Call::of))
    }

    /// The call that a result is of: by number, or the newest with that id.
    fn call_of(&self, r: &ToolEnded) -> Result<Option<Call>> {
        if let Some(seq) = r.call {
            return self.call(seq);
        }
        let Some(id) = &r.call_id else { return Ok(None) };
        let mut found = None;
        self.log.back(&self.e.session, (0, self.e.seq), &["tool_reported", "tool_requested"], &mut |p| {
            found = Call::of(&p).filter(|c| c.call_id.as_ref() == Some(id));
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    pub(super) fn tool_ended(&mut self, r: &ToolEnded) -> Result<()> {
        let Some(call) = self.call_of(r)? else {
            let mut a = self.common().with(names::OPERATION, names::EXECUTE_TOOL).with(names::START_UNKNOWN, true);
            a.maybe(names::TOOL_CALL_ID, r.call_id.as_deref());
            let took = i64::try_from(r.duration_ms.unwrap_or(0)).unwrap_or(0);
            let parent = self.parent(self.e.attempt, None);
            let mut s = self.own(names::EXECUTE_TOOL.to_owned(), parent, self.e.at.saturating_sub(took), a);
            if r.is_error {
                failed(&mut s, "tool_error", "");
            }
            self.out.spans.push(s);
            return Ok(());
        };
        let (mut effect, mut ended_before) = (None, false);
        self.log.back(&self.e.session, (call.seq, self.e.seq), &["tool_decided", "tool_ended"], &mut |p| {
            if p.kind == "tool_ended" {
                // why looked for: of two results of one call the first is its end, the second a breach.
                ended_before |= serde_json::from_slice::<Whose>(&p.body)
                    .is_ok_and(|w| w.call == Some(call.seq) || (w.call.is_none() && w.call_id.is_some() && w.call_id == call.call_id));
                return Ok(!ended_before);
            }
            effect = effect.or(match p.event() {
                Some(Event::ToolDecided(d)) if d.call == call.seq => Some(d.effect),
                _ => None,
            });
            Ok(true)
        })?;
        if !ended_before {
            self.tool(&call, effect, &Ended::With(r));
        }
        Ok(())
    }

    fn tool(&mut self, call: &Call, effect: Option<Effect>, ended: &Ended<'_>) {
        let mut a = self.common().with(names::OPERATION, names::EXECUTE_TOOL).with(names::TOOL_NAME, call.tool.as_str());
        // What the agent itself carries out, as all agents here do.
        a.add(names::TOOL_TYPE, "function");
        a.maybe(names::TOOL_CALL_ID, call.call_id.as_deref());
        a.add(names::CALL, call.seq);
        a.maybe(names::TOOL_KIND, call.kind.as_deref());
        a.maybe(names::EFFECT, effect.map(Effect::as_str));
        let input = self.content.then(|| call.input.to_string());
        a.content(self.content, names::TOOL_ARGUMENTS, input.as_deref());
        let parent = self.parent(call.attempt, call.parent_call_id.as_deref());
        let own = (ids::trace(&self.e.session), call.span_id(&self.e.session), parent);
        let mut error = (effect == Some(Effect::Deny)).then_some("denied");
        match ended {
            Ended::With(r) => {
                a.content(self.content, names::TOOL_RESULT, Some(&r.output.text));
                error = error.or(r.is_error.then_some("tool_error"));
            }
            Ended::Never => a.add(names::UNFINISHED, true),
        }
        let mut s = span(own, format!("{} {}", names::EXECUTE_TOOL, call.tool), (nanos(call.at), nanos(self.e.at)), a);
        if let Some(kind) = error {
            failed(&mut s, kind, "");
        }
        if matches!(ended, Ended::With(_)) {
            self.duration(names::EXECUTE_TOOL, Some((names::TOOL_NAME, call.tool.as_str())), &s, error);
        }
        self.out.spans.push(s);
    }

    /// Calls whose result never came, told with the end of their session, oldest first.
    pub(super) fn unfinished(&mut self) -> Result<()> {
        if self.session.as_ref().is_some_and(|s| s.calls == 0 && s.record.writer.is_none()) {
            return Ok(());
        }
        let (mut numbers, mut by_id) = (HashSet::new(), HashSet::new());
        let mut effects = BTreeMap::new();
        let mut open = Vec::new();
        let kinds = ["tool_decided", "tool_ended", "tool_reported", "tool_requested"];
        self.log.back(&self.e.session, (0, self.e.seq), &kinds, &mut |p| {
            match p.kind.as_str() {
                "tool_ended" => {
                    if let Ok(w) = serde_json::from_slice::<Whose>(&p.body) {
                        numbers.extend(w.call);
                        by_id.extend(w.call_id);
                    }
                }
                "tool_decided" => {
                    if let Some(Event::ToolDecided(d)) = p.event() {
                        effects.entry(d.call).or_insert(d.effect);
                    }
                }
                _ if numbers.contains(&p.seq) => {}
                _ => open.extend(Call::of(&p).filter(|c| c.call_id.as_ref().is_none_or(|id| !by_id.contains(id)))),
            }
            Ok(open.len() < UNFINISHED_MAX)
        })?;
        for call in open.iter().rev() {
            self.tool(call, effects.get(&call.seq).copied(), &Ended::Never);
        }
        Ok(())
    }
}
