//! Results: judged before the model sees them where the agent shows them first, else when they are reported.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::failed;
use crate::agent::{Asked, Output, ShownResult};
use crate::config::Unreplaceable;
use crate::model::moment::ToolResult;
use crate::model::{Call, Moment, ResultJudged, Shown};
use crate::policy::call as calls;
use crate::policy::moments::{removed, withheld};
use crate::policy::paths::RealPaths;
use crate::session::failpoint;
use crate::session::live::{Question, cut};
use crate::session::plugins::watchdog;
use crate::session::run::{Ending, Runner};
use crate::store::Frame;

impl Runner {
    /// The agent shows a result and waits for the answer.
    pub(in crate::session) async fn shown(&mut self, s: ShownResult) {
        if !self.live.moments.results {
            return self.breach("hook_callback", "the host registered no hooks".to_owned(), None).await;
        }
        let asked = Asked {
            request_id: s.request_id.clone(),
            call_id: Some(s.call_id.clone()),
            tool: s.tool.clone(),
            input: s.input.clone(),
            parent_call_id: None,
            sub_agent: s.sub_agent.clone(),
        };
        match self.live.question(&asked) {
            Question::New => {}
            Question::Repeat => return,
            Question::Forged => {
                let detail = format!("request {} came again with other content", cut(&s.request_id, 128));
                return self.breach("request id reused", detail, None).await;
            }
        }
        failpoint::hit("shown");
        let call = self.call_of(&asked);
        let result = ToolResult { output: s.output, is_error: s.is_error, duration_ms: s.duration_ms, replaceable: !s.is_error };
        let Some((judged, new)) = self.judge_result(&s.call_id, &call, &result).await else {
            // why: the policies of an adopted session may judge results no more.
            self.live.moments.judged(&s.call_id, vec![], None);
            return self.answer_result(&s.request_id, None);
        };
        let told = matches!(judged.shown, Shown::Replaced | Shown::Withheld);
        let gone = new.as_ref().filter(|_| told).map(|n| removed(&result.output, n)).unwrap_or_default();
        let instead = new.as_ref().filter(|_| !told).and_then(Value::as_str).map(str::to_owned);
        self.live.moments.judged(&s.call_id, gone, instead);
        if judged.shown == Shown::Stopped {
            self.pending.events.push(judged.into());
            return self.stopped_for_result().await;
        }
        let frame = Some(self.live.last_frame + 1);
        self.pending.events.push(ResultJudged { frame, ..judged }.into());
        self.answer_result(&s.request_id, new.as_ref().filter(|_| told));
    }

    /// The agent reports a result. What was judged before is compared with it; what was not is judged now, too late to be replaced.
    /// The log gets what comes out of here.
    pub(in crate::session) async fn reported_result(&mut self, out: Output) -> Output {
        let Output::ToolResult { call_id, is_error, ran, content, parent_call_id } = out else { return out };
        let as_it_is =
            |content| Output::ToolResult { call_id: call_id.clone(), is_error, ran, content, parent_call_id: parent_call_id.clone() };
        if let Some(j) = self.live.moments.reported(&call_id) {
            if j.removed.iter().any(|line| content.contains(line)) {
                let detail = format!("call id {}: the agent shows what a policy replaced", cut(&call_id, 128));
                let call = self.live.account.call_of(&call_id);
                self.breach("a replaced result was shown", detail, call).await;
            }
            return as_it_is(j.instead.unwrap_or(content));
        }
        if !ran || !self.chain.borrow().takes_part(Moment::JudgeResult) {
            return as_it_is(content);
        }
        let (tool, input) = self.live.words.call(&call_id).unwrap_or_default();
        let asked = Asked {
            request_id: String::new(),
            call_id: Some(call_id.clone()),
            tool,
            input,
            parent_call_id: parent_call_id.clone(),
            sub_agent: None,
        };
        let call = self.call_of(&asked);
        let result = ToolResult { output: Value::String(content.clone()), is_error, duration_ms: None, replaceable: false };
        let Some((judged, new)) = self.judge_result(&call_id, &call, &result).await else { return as_it_is(content) };
        let stop = judged.shown == Shown::Stopped;
        self.pending.events.push(judged.into());
        if stop {
            self.stopped_for_result().await;
        }
        as_it_is(new.as_ref().and_then(Value::as_str).map_or(content, str::to_owned))
    }

    /// What the policies make of a result, and what stands in its place.
    pub(super) async fn judge_result(&mut self, call_id: &str, call: &Call, result: &ToolResult) -> Option<(ResultJudged, Option<Value>)> {
        let chain = self.chain_now();
        if !chain.takes_part(Moment::JudgeResult) {
            return None;
        }
        let ruling = chain.judge_result(&self.session, call, result, self.inner.clock.wall_ms()).await;
        // why not where it was too large to be shown to them: that is no fault of theirs.
        if !ruling.unseen {
            watchdog::heard(&self.inner, &ruling.answers);
        }
        let seq = self.live.account.call_of(call_id);
        self.pending.events.extend(failed(ruling.failures, seq));
        let (new, because, shown) = match (ruling.withheld, ruling.replaced) {
            (Some(by), _) => {
                let notice = format!("[withheld by the session host: {}: {}]", by.policy, cut(&by.reason, 256));
                (Some(withheld(&result.output, &notice)), Some(by), Shown::Withheld)
            }
            (None, Some((new, by))) => (Some(new), Some(by), Shown::Replaced),
            (None, None) => (None, None, Shown::Whole),
        };
        let shown = match (shown, result.replaceable, self.config.unreplaceable) {
            (Shown::Whole, ..) | (_, true, _) => shown,
            (_, false, Unreplaceable::Stop) => Shown::Stopped,
            (_, false, Unreplaceable::Tell) => Shown::Passed,
        };
        let judged = ResultJudged {
            call: seq,
            call_id: cut(call_id, 256),
            tool: cut(&call.tool, 256),
            is_error: result.is_error,
            shown,
            because,
            flags: ruling.flags,
            bytes: result.output.to_string().len() as u64,
            answers: ruling.answers,
            frame: None,
        };
        Some((judged, new))
    }

    fn answer_result(&mut self, request_id: &str, new: Option<&Value>) {
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes: self.driver.result_answer(request_id, new) });
    }

    /// Ends the agent, which still holds the result back, or has just shown it.
    async fn stopped_for_result(&mut self) {
        if self.external.is_some() {
            let what = "a result that must not be shown";
            return self.breach(what, "a policy replaces it, and the agent showed it already".to_owned(), None).await;
        }
        if self.ending.is_none() {
            self.end(Ending::Fault, "a result that must not be shown").await;
        }
    }

    /// The record of a call whose result is judged; one whose input cannot be recorded is judged without it.
    pub(super) fn call_of(&self, asked: &Asked) -> Arc<Call> {
        Arc::new(self.record(asked, &asked.input).unwrap_or_else(|_| {
            let small = Asked { input: Value::Object(Map::new()), ..asked.clone() };
            calls::build(&self.call_input(&small, &small.input), &RealPaths)
        }))
    }
}
