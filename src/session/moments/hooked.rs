//! The moments of sessions that the host did not start: what an agent shows through its hooks, and waits for the answer to.
//!
//! Invariants: what a policy forbids is on record before the agent is told; a session that a policy refused runs no call and takes no
//! prompt, because its process is not the host's to end. An agent whose hook fails goes on, so this promises less than the gate.
//!
//! Called by `hook` and `external`.

use super::judge_prompt;
use crate::agent::{Asked, Output, ShownResult};
use crate::model::moment::{NewPrompt, ToolResult};
use crate::model::{Actor, Moment, PromptSubmitted, Refusal, Shown};
use crate::policy::moments::removed;
use crate::session::hook::Heard;
use crate::session::run::{Ending, Runner};
use crate::session::{live, mask};

/// Why a refused session goes no further.
fn refusal(by: &Refusal) -> String {
    format!("policy {} refuses this session: {}", by.policy, by.reason)
}

impl Runner {
    /// Why no further call and no prompt of this session is let through, where that is so.
    pub(in crate::session) fn goes_no_further(&self) -> Option<String> {
        if self.ending == Some(Ending::Breach) {
            return Some("this session has a breach on record; end it and begin a new one".to_owned());
        }
        self.live.moments.refused.as_ref().map(refusal)
    }

    /// A prompt of the agent's own user, which the agent holds until it is answered.
    pub(in crate::session) async fn hooked_prompt(&mut self, text: String, by: Actor) -> Option<Heard> {
        if let Some(why) = self.goes_no_further() {
            return Some(Heard::Refused(why));
        }
        let prompt = NewPrompt { text: text.clone(), number: self.live.prompts + 1, role: by.role.clone() };
        let (events, ruling) = judge_prompt(&self.inner, &self.chain_now(), self.driver, &self.session, prompt).await;
        self.pending.events.extend(events);
        let context = match ruling {
            Ok(context) => context,
            Err(r) => return Some(Heard::Refused(format!("policy {} refuses this prompt: {}", r.policy, r.reason))),
        };
        self.live.prompts += 1;
        let (prompt, blob) = live::excerpt(mask::text(&text).into_owned().into_bytes());
        self.pending.events.push(PromptSubmitted { prompt, by }.into());
        self.pending.blobs.extend(blob);
        (!context.is_empty()).then_some(Heard::Context(context))
    }

    /// A result that the agent holds until it is answered: what the log holds of it, and what the agent is told.
    pub(in crate::session) async fn hooked_result(&mut self, shown: ShownResult, said: Output) -> (Output, Option<Heard>) {
        let Output::ToolResult { call_id, is_error, ran, content, parent_call_id } = said else { return (said, None) };
        let report =
            |content| Output::ToolResult { call_id: call_id.clone(), is_error, ran, content, parent_call_id: parent_call_id.clone() };
        if !ran || !self.chain.borrow().takes_part(Moment::JudgeResult) {
            return (report(content), None);
        }
        let asked = Asked {
            request_id: String::new(),
            call_id: Some(call_id.clone()),
            tool: shown.tool,
            input: shown.input,
            parent_call_id: None,
            sub_agent: shown.sub_agent,
        };
        let call = self.call_of(&asked);
        let result = ToolResult { output: shown.output, is_error, duration_ms: shown.duration_ms, replaceable: !is_error };
        let Some((judged, new)) = self.judge_result(&call_id, &call, &result).await else { return (report(content), None) };
        let how = judged.shown;
        self.pending.events.push(judged.into());
        let gone = new.as_ref().map(|n| removed(&result.output, n)).unwrap_or_default();
        // why the new text: it is what the model has, or what the log may hold.
        let content = new.as_ref().map_or(content, |n| self.driver.hook_text(n));
        let heard = match (how, new) {
            (Shown::Replaced | Shown::Withheld, Some(new)) => Some(Heard::Instead(new)),
            (Shown::Stopped, _) => {
                let detail = format!("call id {}: the agent lets nobody replace or hold back this result", live::cut(&call_id, 128));
                // why of no call: it ran as it was decided.
                self.breach("a result that must not be shown", detail, None).await;
                None
            }
            _ => None,
        };
        self.live.moments.judged(&call_id, gone, None);
        (report(content), heard)
    }
}
