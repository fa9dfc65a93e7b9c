//! Parking: a session whose only open question nobody answers is put away, and its agent started anew at the answer.
//!
//! | stage | what holds | left by |
//! | --- | --- | --- |
//! | running | calls are held before the gate; what a person must answer waits there | `tool_deferred`: the agent is told to end its turn |
//! | deferring | the agent is on its way out; answers are recorded | its own clean end after naming the call: `session_paused` |
//! | paused | nothing runs; the approval waits in the queue | its decision, whoever gives it: `session_resumed` |
//! | resuming | the agent is being started anew ([`relaunch`]) | `attempt_started` |
//! | expecting | the gate must ask about the call first | `tool_answered`: it is told what was decided |
//!
//! Invariants:
//! - holding a call decides nothing: whatever it is passed on with, the gate asks, and only there consent is given;
//! - a decision made while a call was held or deferred is told once, for the same tool, id and input; a second question is a new call,
//!   and one about a call of an earlier attempt is denied: it may have run;
//! - an agent that was resumed and does anything before asking about its call, other than refusing it with an error of its own, is ended,
//!   and what it asked stays unanswered;
//! - deferred is only a call that comes back whole: the last of its message, all others done, and nothing else alive in the session.
//!
//! Called by `run` (the stages), `gate` (answers), `live` (the fold) and `recovery`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::gate::input_hash;
use super::live::{Question, Waiting};
use super::relaunch::{self, Kept};
use super::run::{Ending, Runner, told};
use super::{Error, failpoint, finish, live};
use crate::agent::{self, Asked};
use crate::config::Unattended;
use crate::model::{By, Effect, Event, Note, Outcome, SessionEnded, SessionPaused, ToolAnswered, ToolDecided, ToolDeferred};
use crate::policy::Judged;
use crate::process::{self, ExitRecord, Inbox, MAX_CHUNK, Stream, read_log};
use crate::store::Frame;
use crate::whole::apart;

pub mod stage;

pub use stage::Parking;
use stage::{ASK_WITHIN, Stage};

/// Longest time between two looks whether a waiting session can be put away.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Most bytes of output that a new daemon reads again.
const READ_AGAIN: u64 = 32 << 20;
/// Events of a relaunch that may stand behind what its task knows.
const LOOK_BACK: usize = 16;

/// What an agent said from its start up to an offset, where that is still all there.
fn output(run_dir: &Path, upto: u64) -> Option<Vec<u8>> {
    let mut said = Vec::new();
    while (said.len() as u64) < upto {
        let left = usize::try_from(upto).ok()? - said.len();
        let chunk = read_log(run_dir, Stream::Out, said.len() as u64, left.min(MAX_CHUNK)).ok()?;
        if chunk.bytes.is_empty() || chunk.offset != said.len() as u64 {
            return None;
        }
        said.extend(chunk.bytes);
    }
    Some(said)
}

/// The failpoint of what an append tells the agent beside decisions.
pub(super) fn told_by(event: &Event) -> Option<&'static str> {
    match event {
        Event::ToolDeferred(_) => Some("deferred"),
        Event::ToolAnswered(_) => Some("answered"),
        Event::HostToolAnswered(_) => Some("host_tool_answered"),
        _ => None,
    }
}

impl Runner {
    /// A call before its gate: it waits here where a person must answer, and is passed on to the gate otherwise.
    pub(super) async fn held(&mut self, asked: Asked) {
        match self.live.question(&asked) {
            Question::New => {}
            Question::Repeat => return,
            Question::Forged => {
                let detail = format!("request {} came again with other content", live::cut(&asked.request_id, 128));
                return self.breach("request id reused", detail, None).await;
            }
        }
        if !self.live.parking.holds {
            return self.breach("hook callback", "the host registered no hooks".to_owned(), None).await;
        }
        let begun = std::time::Instant::now();
        if let Some((call, judged)) = self.waits_here(&asked).await {
            let seq = self.next_seq();
            // why passed on when the words differ: the gate finds it too, and that is where it is denied.
            if self.live.changed(seq, &asked).is_none() {
                self.inner.metrics.judged(&judged.answers, begun.elapsed());
                self.ask(&asked, call, judged, Some(input_hash(&asked.input)));
                let after = self.inner.config.park_after_ms.map(Duration::from_millis);
                self.live.parking.park_at = after.map(|a| Instant::now() + a);
                return;
            }
        }
        self.pass(&asked.request_id);
    }

    async fn waits_here(&mut self, asked: &Asked) -> Option<(Arc<crate::model::Call>, Judged)> {
        let known = asked.call_id.as_deref().is_some_and(|id| self.live.parking.of_earlier(&self.live.account, id));
        if asked.sub_agent.is_some() || self.input_closed || self.ending.is_some() || known || self.live.parking.stage != Stage::Running {
            return None;
        }
        let alone = self.config.unattended == Unattended::Deny && !self.can_ask();
        if alone || self.live.waiting.len() as u64 >= self.config.waiting_asks {
            return None;
        }
        let call = Arc::new(self.record(asked, &asked.input).ok()?);
        let mark = self.states.get().map_or(0, |s| s.mark());
        let judged = self.judge(asked, &call).await;
        if judged.effect != Effect::Ask {
            // why: the gate asks again, and that answer is the one on record.
            self.states.get().inspect(|s| s.take_back(mark));
            return None;
        }
        Some((call, judged))
    }

    fn pass(&mut self, request_id: &str) {
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes: self.driver.answer(request_id, agent::Answer::Pass) });
    }

    /// A held call was decided, which is on record with this append: it goes on to its gate, unless the agent is on its way out.
    pub(super) fn held_decided(&mut self, w: &Waiting, decided: &ToolDecided) {
        self.live.parking.decided(decided, w);
        if self.live.parking.stage == Stage::Running && !self.input_closed && decided.by != By::Withdrawn {
            self.pass(&w.request_id);
        }
    }

    /// The gate asks: true when that was about a decision on record, or about nothing that it may ask now.
    pub(super) async fn reasked(&mut self, asked: &Asked) -> bool {
        let Some(id) = asked.call_id.as_deref() else { return false };
        let parking = &self.live.parking;
        let expected = parking.expected();
        // why the fitting one first: ids may repeat.
        let fits = |d: &stage::Decided| d.tool == asked.tool && d.input == input_hash(&asked.input);
        let of_id = || parking.decided.iter().filter(|(_, d)| d.call_id == id);
        let found = of_id().find(|(_, d)| fits(d)).or_else(|| of_id().next()).map(|(call, d)| (*call, d.clone()));
        if expected.is_some() && self.ending.is_some() {
            return true;
        }
        let Some((call, d)) = found.filter(|(call, _)| expected.is_none_or(|e| e == *call)) else {
            if expected.is_some() {
                self.not_asked_again(&format!("it asked about {} under id {id}", live::cut(&asked.tool, 128))).await;
                return true;
            }
            if !parking.of_earlier(&self.live.account, id) {
                return false;
            }
            let why = "a call of this id was asked about before the agent was started anew, and may have run then";
            self.refuse(asked, why.to_owned(), std::time::Instant::now());
            return true;
        };
        if !fits(&d) {
            let detail = format!("call {call} was decided as {} and is now {} with another input", d.tool, live::cut(&asked.tool, 128));
            if expected.is_some() {
                self.not_asked_again(&detail).await;
            } else {
                self.breach("input changed", detail, Some(call)).await;
            }
            return true;
        }
        failpoint::hit("reasked");
        let no = self.live.next_frame();
        let told = match d.effect {
            Effect::Allow => agent::Answer::Allow { input: d.updated_input.as_ref().unwrap_or(&asked.input) },
            _ => agent::Answer::Deny { reason: &d.reason },
        };
        self.pending.frames.push(Frame { no, bytes: self.driver.answer(&asked.request_id, told) });
        if d.effect == Effect::Allow {
            self.live.untaken.insert(no, call);
        }
        self.pending.events.push(ToolAnswered { call, request_id: asked.request_id.clone(), frame: no }.into());
        self.live.parking.answered(call);
        self.live.host_tools.told(call);
        true
    }

    /// The agent was resumed and answers its call with an error of its own (the file changed meanwhile, say): nothing is left to ask.
    pub(super) fn refused(&mut self, call: u64) {
        let text = format!("the agent was started anew at call {call} and refused it itself, with an error; it did not run");
        self.pending.events.push(Note { text }.into());
        self.live.parking.answered(call);
    }

    /// The agent was resumed and goes another way: it is ended, with nothing answered.
    pub(super) async fn not_asked_again(&mut self, what: &str) {
        if self.ending.is_none() {
            let call = self.live.parking.expected().unwrap_or_default();
            self.fault(format!("the agent was started anew to go on at call {call} and did not ask about it: {what}; it was ended")).await;
        }
    }

    /// When the session's own clock strikes: put it away if that is sound, or give an agent up that does not leave or come back.
    pub(super) async fn parking_due(&mut self, now: Instant) {
        if self.live.parking.due().is_none_or(|t| t > now) {
            return;
        }
        match self.live.parking.stage {
            Stage::Running => self.park(now).await,
            Stage::Expecting { .. } => self.not_asked_again(&format!("it said nothing for {} s", ASK_WITHIN.as_secs())).await,
            _ => told(&self.id, self.shim.stop(Duration::from_millis(self.config.grace_ms)).await),
        }
        if self.live.parking.due().is_some_and(|t| t <= now) {
            self.live.parking.give_up = None;
        }
    }

    /// A daemon that takes the session up reads again what an earlier one had read, up to where it stood: which calls of the model are open
    /// is not in the log. Where that is too much, nothing is known, and the session waits with its agent.
    pub(super) fn catch_up(&mut self, upto: u64) {
        let now = Instant::now();
        self.live.parking.arm(now);
        let held = self.live.waiting.values().any(|w| w.asked.held.is_some());
        if !held || self.live.parking.stage != Stage::Running || upto == 0 || upto > READ_AGAIN {
            return;
        }
        let dir = self.inner.run_dir(&self.id, self.session.attempt);
        let Some(said) = tokio::task::block_in_place(|| output(&dir, upto)) else { return };
        for line in said.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            for out in apart(|| self.driver.read(&mut self.read_state, line)).unwrap_or_default() {
                self.live.parking.said(&out);
            }
        }
        self.live.parking.park_at = self.inner.config.park_after_ms.map(|ms| now + Duration::from_millis(ms));
    }

    /// Tells the agent to defer its call, where it would come back whole.
    async fn park(&mut self, now: Instant) {
        let Some((call, w)) = self.live.waiting.first_key_value().filter(|(_, w)| w.asked.held.is_some()) else {
            self.live.parking.park_at = None;
            return;
        };
        let (call, request_id, call_id) = (*call, w.request_id.clone(), w.call.call_id.clone().unwrap_or_default());
        let tool = w.call.tool.clone();
        let after = Duration::from_millis(self.inner.config.park_after_ms.unwrap_or_default());
        self.live.parking.park_at = Some(now + after.clamp(Duration::from_millis(100), LOOK_AGAIN));
        if let Err(why) = self.can_leave(&call_id, &tool).await {
            tracing::debug!(session = %self.id, call, why, "the session waits and is not put away");
            return;
        }
        failpoint::hit("deferring");
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes: self.driver.answer(&request_id, agent::Answer::Defer) });
        self.pending.events.push(ToolDeferred { call, frame: no }.into());
        self.live.parking.deferring(call, call_id);
        self.live.parking.arm(now);
        self.commit().await;
    }

    /// Whether the agent can be ended now and nothing of it is lost; the error says what would be.
    async fn can_leave(&self, call_id: &str, tool: &str) -> Result<(), String> {
        let p = &self.live.parking;
        if self.ending.is_some() || self.input_closed || self.live.waiting.len() != 1 {
            return Err("it is ending, or waits for more than one answer".to_owned());
        }
        if self.live.prompts != self.live.turns + 1 {
            return Err("a further prompt waits".to_owned());
        }
        if !self.driver.resumes_at(tool) {
            return Err(format!("{tool} does not come back"));
        }
        if self.read_state.in_message() || !p.comes_back(call_id) {
            return Err("other calls of the message are open, or a sub-agent was started".to_owned());
        }
        if let Some(row) = self.live.account.rows().find(|r| self.driver.lingers(&r.tool)) {
            return Err(format!("{} may go on inside the agent", row.tool));
        }
        Kept::read(&self.inner.run_dir(&self.id, 1), p.kept.as_deref().unwrap_or_default())?;
        let own = [self.shim.shim().pid, self.shim.agent().pid];
        let all = self.shim.processes().await.map_err(|e| e.to_string())?;
        match all.iter().find(|i| !own.contains(&i.id.pid)) {
            Some(other) => Err(format!("process {} ({}) runs in the session", other.id.pid, other.comm)),
            None if all.is_empty() => Err("its processes cannot be seen".to_owned()),
            None => Ok(()),
        }
    }

    /// The agent has ended: true when that was its being put away, and the session is paused now.
    pub(super) async fn left(&mut self, record: &ExitRecord) -> bool {
        if self.live.parking.compacting().is_some() {
            return self.left_to_compact(record).await;
        }
        if self.live.parking.deferring_at().is_none() {
            if self.refused_record(record).await || self.climbs(record).await {
                return true;
            }
            if let Some(call) = self.live.parking.expected() {
                self.why.get_or_insert(format!("the agent was started anew to go on at call {call} and ended before it asked about it"));
            }
            return false;
        }
        // why: its last words name the call.
        self.drain().await;
        let Some(call) = self.live.parking.deferring_at() else { return false };
        if self.ending.is_some() || self.is_usurped {
            return false;
        }
        if !self.live.parking.confirmed() || record.code != Some(0) {
            let why = "the agent was told to put call {} off until it is answered, and did not end as one that can be started anew";
            self.why = Some(why.replace("{}", &call.to_string()));
            return false;
        }
        failpoint::hit("left");
        self.consult_last().await;
        let reason = format!("call {call} waits for its answer; the agent was ended and is started anew at it");
        self.pending.events.push(finish::attempt_ended(Outcome::Exited, record, Some(reason.clone())).into());
        self.pending.events.push(SessionPaused { reason, call: Some(call), ..SessionPaused::default() }.into());
        self.commit().await;
        // why ignore: without it the shim goes by itself after its linger.
        let _ = self.shim.ack_exit().await;
        self.put_away(Some(call));
        failpoint::hit("paused");
        true
    }

    pub(super) fn put_away(&mut self, call: Option<u64>) {
        self.without_agent(Stage::Paused { call }, true);
    }

    /// While there is no agent: starts it anew once its call is decided. `Some` when the session is to end, with the reason where it is not
    /// an operator's.
    pub(super) async fn away(&mut self) -> Option<Option<String>> {
        let (Stage::Paused { call } | Stage::Resuming { call }) = self.live.parking.stage else { return None };
        if self.ending.is_some() {
            return Some(None);
        }
        if call.is_some_and(|c| self.live.waiting.contains_key(&c)) {
            return None;
        }
        match self.come_back(call).await {
            Ok(()) => None,
            Err(e @ (Error::Store(_) | Error::Process(process::Error::Unreachable { .. }))) => {
                // why: what was begun stands in the log or in the attempt's folder, and is found there at the next try.
                tracing::error!(session = %self.id, code = e.code(), error = %e, "the session cannot be resumed yet; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.look_again();
                None
            }
            Err(e) => Some(Some(format!("the agent could not be started anew ({}): {e}", e.code()))),
        }
    }

    /// An append that failed may have survived: what stands in the log holds.
    fn look_again(&mut self) {
        let Ok(session) = self.inner.store.session(&self.id) else { return };
        let Ok(newer) = self.inner.store.events(&self.id, self.session.last_seq + 1, LOOK_BACK) else { return };
        for e in &newer {
            self.live.parking.replay(&e.envelope, &self.live.waiting);
        }
        self.session = session;
        if !self.live.parking.away() {
            // Its agent runs; the task finds it by the attempt's folder, as after a broken link.
            self.begin_again();
        }
    }

    /// An attempt began: its output, frames and ids begin again.
    pub(super) fn begin_again(&mut self) {
        self.inbox = Inbox::open(&self.inner.run_dir(&self.id, self.session.attempt), 0);
        // why: what a shim that was taken over has said already it does not tell again.
        self.inbox.heard(self.shim.first_status().out_bytes);
        self.live.begin_attempt(self.session.last_seq);
        (self.pending.taken, self.linger) = (None, None);
        self.live.parking.arm(Instant::now());
        (self.input_closed, self.unreadable, self.close_at, self.read_state) = (false, false, None, agent::ReadState::default());
        if let Some(entry) = self.inner.live().get_mut(&self.id) {
            entry.shim = self.shim.clone();
        }
    }

    async fn come_back(&mut self, call: Option<u64>) -> Result<(), Error> {
        let p = &self.live.parking;
        let refused = |why: String| Error::Refused { what: "a relaunch".to_owned(), why };
        let kept = Kept::read(&self.inner.run_dir(&self.id, 1), p.kept.as_deref().unwrap_or_default()).map_err(refused)?;
        let args: Vec<_> = kept.args.iter().map(Into::into).collect();
        let conversation = p.conversation.clone();
        let callbacks = agent::Callbacks { hold: p.holds, results: self.live.moments.results, tools: self.has_host_tools() };
        let resume = self.driver.resume(&args, &conversation, p.model.as_deref(), callbacks);
        let mut resume = resume.ok_or_else(|| refused(format!("is not known for {}", self.driver.name())))?;
        if call.is_none() {
            resume.frames.extend(self.prompts_again());
        }
        if matches!(p.stage, Stage::Paused { .. }) {
            failpoint::hit("resuming");
            self.session = relaunch::announce(&self.inner, &self.session, &conversation, call, &resume).await?;
            self.live.parking.stage = Stage::Resuming { call };
            failpoint::hit("resumed");
        }
        let (session, shim) = relaunch::start(&self.inner, &self.session, self.driver, &kept, &resume.args).await?;
        self.session = session;
        (self.shim, self.shim_events) = shim;
        self.begin_again();
        self.live.last_frame = resume.frames.len() as u64;
        // why the store too: an earlier daemon may have announced more than is known here.
        if let Ok((attempt, no)) = self.inner.store.newest_frame(&self.id)
            && attempt == self.session.attempt
        {
            self.live.last_frame = self.live.last_frame.max(no);
        }
        Ok(())
    }

    /// The end of a session whose agent was put away.
    pub(super) async fn finish_away(mut self, reason: Option<String>) {
        self.take_log_back();
        finish::forget(&self.inner.run_dir(&self.id, 1));
        super::recovery::end_rest(&self.inner, &self.session).await;
        self.resolve_all(By::Withdrawn, "the session ended before the answer", false);
        let outcome = match self.ending {
            Some(Ending::Kill) => Outcome::Killed,
            Some(Ending::Stop) => Outcome::Stopped,
            Some(Ending::Breach) => Outcome::Breach,
            Some(Ending::Budget) => Outcome::Budget,
            Some(Ending::Fault) | None => Outcome::Failed,
        };
        self.pending.events.push(SessionEnded { outcome, reason: reason.or(self.why.take()), report: None }.into());
        self.commit().await;
        self.inner.forget(&self.id);
    }
}
