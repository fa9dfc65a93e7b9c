//! The optional moments of policies: their questions, and what their answers may be.
//!
//! Called by `host` through [`Ask`], and by `load` for the shapes.

use std::sync::Arc;

use serde_json::Value;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower};

use super::super::kv::{Round, Source};
use super::super::limits::{MAX_CONTEXT, MAX_FLAG, MAX_INPUT, MAX_LABEL, MAX_LABELS, MAX_REASON, MAX_RULE, MAX_WORDS};
use super::super::state::State;
use super::exported::{judge_attempt, judge_prompt, judge_result, judge_session};
use super::{Ask, Exports, at, of_call, of_round, of_session, seed, types, within, within_any};
use crate::model;
use crate::model::Moment;
use crate::model::moment::{
    AttemptSeen, NewPrompt, PromptAnswer, ResultAnswer, SessionAnswer, SessionStart, Tightened, ToolResult, Verdict, same_shape,
};

/// Longest name of a setting, in bytes.
const MAX_SETTING: usize = 128;

type SessionParams<'a> = (&'a types::Session, &'a judge_session::Start);
type PromptParams<'a> = (&'a types::Session, &'a judge_prompt::Prompt);
type ResultParams<'a> = (&'a types::Session, &'a types::Call, &'a judge_result::ToolResult);
type AttemptParams<'a> = (&'a types::Session, &'a judge_attempt::Attempt);

/// Whether the moments that are there have the shapes of the contract.
pub(super) fn check(exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
    for (moment, index) in Moment::ALL.into_iter().zip(exports.moments) {
        let Some(index) = index else { continue };
        match moment {
            Moment::JudgeSession => shape::<SessionParams<'_>, (judge_session::Answer,)>(store, instance, index)?,
            Moment::JudgePrompt => shape::<PromptParams<'_>, (judge_prompt::Answer,)>(store, instance, index)?,
            Moment::JudgeResult => shape::<ResultParams<'_>, (judge_result::Answer,)>(store, instance, index)?,
            Moment::JudgeAttempt => shape::<AttemptParams<'_>, (judge_attempt::Verdict,)>(store, instance, index)?,
        }
    }
    Ok(())
}

fn shape<P, R>(store: &mut Store<State>, instance: &Instance, index: ComponentExportIndex) -> wasmtime::Result<()>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    instance.get_typed_func::<P, R>(store, index).map(drop)
}

/// Calls a moment's function. These are few beside tool calls, so the types are compared anew in each instance.
fn judge<P, R>(moment: Moment, exports: &Exports, store: &mut Store<State>, instance: &Instance, params: P) -> wasmtime::Result<R>
where
    P: ComponentNamedList + Lower,
    R: 'static,
    (R,): ComponentNamedList + Lift,
{
    let Some(index) = exports.moment(moment) else { wasmtime::bail!("the export `{}` is gone", moment.as_str()) };
    let f = instance.get_typed_func::<P, (R,)>(&mut *store, index)?;
    Ok(f.call(store, params)?.0)
}

/// A session that is about to start.
#[derive(Clone)]
pub struct SessionQuestion {
    session: types::Session,
    start: judge_session::Start,
    round: Option<Arc<Round>>,
}

impl SessionQuestion {
    /// Gives policies their state of this session.
    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }

    pub fn new(session: &model::Session, start: &SessionStart, at_ms: i64) -> Self {
        let s = start.clone();
        let start = judge_session::Start {
            program: s.program,
            args: s.args,
            unsafe_args: s.unsafe_args,
            env_names: s.env_names,
            write_root: s.write_root,
            model: s.model,
            prompt: s.prompt,
            keep_open: s.keep_open,
            role: s.role,
            at_ms: at(at_ms),
        };
        Self { session: of_session(session), start, round: None }
    }
}

impl Ask for SessionQuestion {
    type Answer = SessionAnswer;

    fn at_ms(&self) -> u64 {
        self.start.at_ms
    }

    fn state(&self) -> Source {
        of_round(self.round.as_ref())
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.start.at_ms, "judge-session")
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<SessionAnswer, String>> {
        Ok(to_session(judge(Moment::JudgeSession, exports, store, instance, (&self.session, &self.start))?))
    }
}

fn to_session(a: judge_session::Answer) -> Result<SessionAnswer, String> {
    within_any("a reason", a.refuse.as_ref(), MAX_REASON)?;
    for (what, n) in [("tightened settings", a.tighten.len()), ("labels", a.labels.len())] {
        if n > MAX_LABELS {
            return Err(format!("{n} {what}; the limit is {MAX_LABELS}"));
        }
    }
    let mut tighten = Vec::with_capacity(a.tighten.len());
    for t in a.tighten {
        within("the name of a setting", &t.setting, MAX_SETTING)?;
        within("the value of a setting", &t.value, MAX_RULE)?;
        let value = serde_json::from_str(&t.value).map_err(|e| format!("a value of the setting {:?} that is not JSON: {e}", t.setting))?;
        tighten.push(Tightened { setting: t.setting, value });
    }
    for (key, value) in &a.labels {
        within("the key of a label", key, MAX_LABEL)?;
        within("the value of a label", value, MAX_LABEL * 4)?;
        if key.is_empty() || key.contains('=') || key.chars().chain(value.chars()).any(char::is_control) {
            return Err(format!("a label {key:?} that is empty, or has `=` in its key or a control character"));
        }
    }
    Ok(SessionAnswer { refuse: a.refuse, tighten, labels: a.labels })
}

/// A prompt that is about to be given.
#[derive(Clone)]
pub struct PromptQuestion {
    session: types::Session,
    prompt: judge_prompt::Prompt,
    round: Option<Arc<Round>>,
}

impl PromptQuestion {
    /// Gives policies their state of this session.
    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }

    pub fn new(session: &model::Session, prompt: &NewPrompt, at_ms: i64) -> Self {
        let p = prompt.clone();
        let prompt = judge_prompt::Prompt { text: p.text, number: p.number, role: p.role, at_ms: at(at_ms) };
        Self { session: of_session(session), prompt, round: None }
    }
}

impl Ask for PromptQuestion {
    type Answer = PromptAnswer;

    fn at_ms(&self) -> u64 {
        self.prompt.at_ms
    }

    fn state(&self) -> Source {
        of_round(self.round.as_ref())
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.prompt.at_ms, "judge-prompt")
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<PromptAnswer, String>> {
        let a: judge_prompt::Answer = judge(Moment::JudgePrompt, exports, store, instance, (&self.session, &self.prompt))?;
        let checked =
            within_any("a reason", a.refuse.as_ref(), MAX_REASON).and_then(|()| within_any("a context", a.context.as_ref(), MAX_CONTEXT));
        Ok(checked.map(|()| PromptAnswer { refuse: a.refuse, context: a.context.filter(|c| !c.is_empty()) }))
    }
}

/// A tool's result that the model is about to see.
#[derive(Clone)]
pub struct ResultQuestion {
    session: types::Session,
    call: types::Call,
    result: judge_result::ToolResult,
    output: Value,
    round: Option<Arc<Round>>,
}

impl ResultQuestion {
    /// Gives policies their state of this session.
    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }

    pub fn new(session: &model::Session, call: &model::Call, result: &ToolResult, at_ms: i64) -> Self {
        let told = judge_result::ToolResult {
            output: result.output.to_string(),
            is_error: result.is_error,
            duration_ms: result.duration_ms,
            replaceable: result.replaceable,
            at_ms: at(at_ms),
        };
        Self { session: of_session(session), call: of_call(call, at_ms), result: told, output: result.output.clone(), round: None }
    }

    fn to_answer(&self, a: judge_result::Answer) -> Result<ResultAnswer, String> {
        within_any("a flag", a.flag.as_ref(), MAX_FLAG)?;
        let replace = match a.replace {
            None => None,
            Some(text) => {
                within("a replaced result", &text, MAX_INPUT)?;
                let v = serde_json::from_str(&text).map_err(|e| format!("a replaced result that is not JSON: {e}"))?;
                if !same_shape(&self.output, &v) {
                    return Err("a replaced result that has not the shape of the tool's own".to_owned());
                }
                Some(v).filter(|v| *v != self.output)
            }
        };
        Ok(ResultAnswer { replace, flag: a.flag.filter(|f| !f.is_empty()) })
    }
}

impl Ask for ResultQuestion {
    type Answer = ResultAnswer;

    fn at_ms(&self) -> u64 {
        self.result.at_ms
    }

    fn state(&self) -> Source {
        of_round(self.round.as_ref())
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.result.at_ms, "judge-result")
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<ResultAnswer, String>> {
        let params = (&self.session, &self.call, &self.result);
        Ok(self.to_answer(judge(Moment::JudgeResult, exports, store, instance, params)?))
    }
}

/// An attempt with which the agent is done.
#[derive(Clone)]
pub struct AttemptQuestion {
    session: types::Session,
    attempt: judge_attempt::Attempt,
    round: Option<Arc<Round>>,
}

impl AttemptQuestion {
    /// Gives policies their state of this session.
    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }

    pub fn new(session: &model::Session, attempt: &AttemptSeen, at_ms: i64) -> Self {
        let a = attempt.clone();
        let attempt = judge_attempt::Attempt {
            number: a.number,
            round: a.round,
            succeeded: a.succeeded,
            exit_code: a.exit_code,
            signal: a.signal,
            last_words: a.last_words,
            duration_ms: a.duration_ms,
            can_continue: a.can_continue,
            at_ms: at(at_ms),
        };
        Self { session: of_session(session), attempt, round: None }
    }
}

impl Ask for AttemptQuestion {
    type Answer = Verdict;

    fn at_ms(&self) -> u64 {
        self.attempt.at_ms
    }

    fn state(&self) -> Source {
        of_round(self.round.as_ref())
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.attempt.at_ms, "judge-attempt")
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<Verdict, String>> {
        let v: judge_attempt::Verdict = judge(Moment::JudgeAttempt, exports, store, instance, (&self.session, &self.attempt))?;
        Ok(match v {
            judge_attempt::Verdict::Accept => Ok(Verdict::Accept),
            judge_attempt::Verdict::Escalate(text) => within("feedback", &text, MAX_WORDS).map(|()| Verdict::Escalate(text)),
            judge_attempt::Verdict::Error(text) => within("a reason", &text, MAX_REASON).map(|()| Verdict::Error(text)),
        })
    }
}
