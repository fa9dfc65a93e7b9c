//! Starting the next attempt of a plan.
//!
//! Invariants: of one attempt at most one agent is ever told anything: one that was started and is not on record is adopted (of a plain
//! command the run is taken as it is, even where it has ended meanwhile); its conversation's id follows from plan and number, so that an
//! adopted one is known; the prompt with what is handed on is in the log, and policies judge it like any other, once: a start that has to
//! be tried again asks neither them nor context providers anew. Whom they refuse it ends, a required provider that fails like a policy.
//!
//! Called by `ladder`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use super::kept::{FILE, Kept};
use super::restart::Given;
use super::{Asked, Climb, Step};
use crate::agent::{self, Driver};
use crate::model::moment::NewPrompt;
use crate::model::{
    Actor, AttemptScheduled, AttemptStarted, AttemptsPlanned, Event, MediationLowered, Moment, PromptSubmitted, RESTART, SessionId,
};
use crate::process::{self, Adopted, LaunchSpec, Shim, ShimEvents, ShimHandle, default_limits};
use crate::session::run::{CLOSE_INPUT, Runner, send, told};
use crate::session::start::{required_of, resolve};
use crate::session::witness::Witnesses;
use crate::session::{Error, Inner, attest, failpoint, instructions, live, mask, moments, relaunch};
use crate::store::{Batch, Frame};

/// The kept plan, if it is the one that the log names.
pub(super) fn kept(inner: &Inner, id: &SessionId, plan: &AttemptsPlanned) -> Result<Kept, String> {
    let dir = inner.run_dir(id, 1);
    let bytes = relaunch::read_file(&dir, FILE, plan.digest.as_deref().unwrap_or_default())?;
    serde_json::from_slice(&bytes).map_err(|e| format!("the plan in {} cannot be understood ({e})", dir.display()))
}

/// What the next one is told.
fn prompt(text: &str, next: &AttemptScheduled) -> String {
    let Some(feedback) = &next.feedback else { return text.to_owned() };
    format!("{text}\n\nThis is attempt {}. The attempt before it was not accepted:\n{feedback}", next.attempt)
}

/// A UUID that follows from the plan and the attempt's number.
fn conversation(salt: &str, attempt: u32) -> String {
    let digest = blake3::hash(format!("{salt} attempt {attempt}").as_bytes());
    let mut b = [0u8; 16];
    b.copy_from_slice(&digest.as_bytes()[..16]);
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// The agent that an earlier daemon started for this attempt and did not live to record.
async fn left(dir: &Path, id: &SessionId, speaks: bool) -> Result<Option<(ShimHandle, ShimEvents)>, Error> {
    if !dir.exists() {
        return Ok(None);
    }
    match Shim::adopt(dir, id.as_str()).await? {
        Adopted::Live(handle, events, _) => return Ok(Some((handle, events))),
        // why taken as it is: it had all that it gets, and may have done its work.
        Adopted::Ended(_) if !speaks => return Ok(Some(ShimHandle::gone(dir))),
        Adopted::Lost { .. } if !speaks && process::was_tried(dir) => return Ok(Some(ShimHandle::gone(dir))),
        Adopted::Ended(_) | Adopted::Lost { .. } => {}
    }
    std::fs::remove_dir_all(dir)
        .map_err(|e| Error::Refused { what: dir.display().to_string(), why: format!("cannot be cleared ({e})") })?;
    Ok(None)
}

impl Runner {
    /// Between two attempts: starts the next one when its time has come.
    pub(super) async fn wait(&mut self) -> Step {
        let Some(next) = self.live.ladder.next.clone() else { return Step::Away(Some("no attempt is scheduled".to_owned())) };
        if self.session.is_held() || self.next_attempt_at().is_none_or(|at| at > Instant::now()) {
            return Step::On;
        }
        // why before: what would pass a limit of turns is not begun. Whoever looks at the limits next ends the session.
        if next.why != RESTART && self.session.prompt.is_some() && self.over_turns().is_some() {
            return Step::On;
        }
        match self.again(&next).await {
            Ok(()) => Step::On,
            Err(e @ (Error::Store(_) | Error::Process(process::Error::Unreachable { .. }))) => {
                // why: what was begun stands in the attempt's folder, and is found there at the next try.
                tracing::error!(session = %self.id, code = e.code(), error = %e, "the next attempt cannot be started yet; trying again");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                self.recorded_meanwhile();
                Step::On
            }
            Err(e) => Step::Away(Some(format!("attempt {} could not be started ({}): {e}", next.attempt, e.code()))),
        }
    }

    /// An append that failed may have survived: what stands in the log holds.
    fn recorded_meanwhile(&mut self) {
        let Ok(session) = self.inner.store.session(&self.id) else { return };
        if session.attempt > self.session.attempt {
            let dir = self.inner.run_dir(&self.id, session.attempt);
            self.session = session;
            (self.shim, self.shim_events) = ShimHandle::gone(&dir);
            self.live.ladder.begin(self.inner.clock.wall_ms());
            self.live.new_try();
            self.begin_again();
        }
    }

    async fn again(&mut self, next: &AttemptScheduled) -> Result<(), Error> {
        let refused = |why: String| Error::Refused { what: "a further attempt".to_owned(), why: format!("is not started: {why}") };
        let plan = self.live.ladder.plan.clone().ok_or_else(|| refused("there is no plan".to_owned()))?;
        let kept = kept(&self.inner, &self.id, &plan).map_err(refused)?;
        let tier = kept.tiers.get(next.tier as usize).ok_or_else(|| refused("the plan has no such tier".to_owned()))?;
        let driver = agent::driver(&tier.agent)?;
        let cwd = PathBuf::from(&kept.cwd);
        let mut recipe = kept.recipe(tier, &self.inner);
        let mut events: Vec<Event> = Vec::new();
        let anew = next.why == RESTART;
        recipe.agent_session_id = conversation(&kept.salt, next.attempt);
        let given = match anew {
            true => self.given(driver, next, &kept, &recipe.agent_session_id).await,
            false => Given { prompt: kept.prompt.as_ref().map(|p| prompt(p, next)), ..Given::default() },
        };
        recipe.goes_on = given.record.is_some();
        events.extend(given.notes);
        let text = given.prompt;
        let chain = self.chain_now();
        if let Some(text) = &text {
            let before = self.climb.asked.take().filter(|a| a.prompt == *text && a.generation == chain.generation);
            let asked = match before {
                Some(asked) => asked,
                None => {
                    let new = NewPrompt { text: text.clone(), number: 1, role: Actor::host().role };
                    let (judged, ruling) = moments::judge_prompt(&self.inner, &chain, driver, &self.session, new).await;
                    match ruling {
                        Ok(context) => Asked { prompt: text.clone(), generation: chain.generation, events: judged, context },
                        Err(r) => {
                            self.pending.events.extend([events, judged].concat());
                            self.commit().await;
                            return Err(Error::PromptRefused { session: self.id.clone(), policy: r.policy, reason: r.reason });
                        }
                    }
                }
            };
            events.extend(asked.events.clone());
            recipe.context = [given.context, asked.context.clone()].concat();
            self.climb.asked = Some(asked);
        }
        recipe.host_tools = self.session.record.host_tools;
        recipe.prompt.clone_from(&text);
        recipe.instructions = instructions::read(&cwd).text;
        recipe.results = driver.shows_results() && chain.takes_part(Moment::JudgeResult);
        if !driver.speaks() {
            recipe.env.insert("BEADLE_ATTEMPT".into(), next.attempt.to_string().into());
            if let Some(feedback) = &next.feedback {
                let name = if anew { "BEADLE_RESTART" } else { "BEADLE_FEEDBACK" };
                recipe.env.insert(name.into(), feedback.replace('\0', " ").into());
            }
        }
        let mut launch = driver.launch(&recipe)?;
        // why its own: the record holds what was said before, which is nobody's here.
        launch.transcript = given.record.or(launch.transcript);
        let keeps_input = self.session.keep_open;
        required_of(driver, &tier.unsafe_args, &launch, self.config.require_mediation)?;
        let program = resolve(&launch, &cwd)?;
        if launch.mediation < self.session.mediation {
            let reason = format!("tier {} works with the agent {}", live::cut(&tier.name, 100), driver.name());
            events.push(MediationLowered { to: launch.mediation, reason }.into());
        }
        if !driver.speaks() && launch.keep_stdin && !keeps_input {
            // why: nothing tells when a plain command has had enough; its input ends with the prompt.
            launch.frames.push(CLOSE_INPUT.to_vec());
        }
        let dir = self.inner.run_dir(&self.id, next.attempt);
        let shim = match left(&dir, &self.id, driver.speaks()).await? {
            Some(shim) => shim,
            None => self.launch(driver, tier, &program, &launch, dir, &kept).await?,
        };
        failpoint::hit("tried");
        let many = kept.tiers.len() > 1;
        let mut argv = vec![program.display().to_string()];
        argv.extend(launch.args.iter().map(|a| live::cut(&a.to_string_lossy(), 2048)));
        events.extend(launch.transcript.clone().map(Event::from));
        events.push(
            AttemptStarted {
                argv,
                pid: shim.0.agent().pid,
                shim_pid: shim.0.shim().pid,
                agent: many.then(|| tier.agent.clone()),
                tier: many.then(|| tier.name.clone()),
                model: tier.model.clone(),
                warm: Some(recipe.goes_on),
                why: Some(next.why.clone()),
                ..AttemptStarted::default()
            }
            .into(),
        );
        let mut blobs = Vec::new();
        if let Some(text) = text {
            let (prompt, blob) = live::excerpt(mask::text(&text).into_owned().into_bytes());
            events.push(PromptSubmitted { prompt, by: Actor::host() }.into());
            blobs.extend(blob);
        }
        let frames: Vec<Frame> = (1u64..).zip(launch.frames.iter().cloned()).map(|(no, bytes)| Frame { no, bytes }).collect();
        let batch = Batch {
            session: self.id.clone(),
            expected: Some(self.session.last_seq),
            attempt: next.attempt,
            at: self.inner.clock.wall_ms(),
            events: events.into_iter().map(mask::event).collect(),
            cursor: Some(0),
            frames: frames.clone(),
            blobs,
            taken: None,
        };
        let ticket = tokio::task::block_in_place(|| self.inner.store.append(batch));
        self.session = (*ticket.await?.session).clone();
        self.driver = driver;
        (self.shim, self.shim_events) = shim;
        self.live.ladder.begin(self.inner.clock.wall_ms());
        self.live.new_try();
        self.begin_again();
        self.live.last_frame = frames.len() as u64;
        self.live.prompts = u64::from(recipe.prompt.is_some());
        self.live.moments.results = recipe.results;
        if let Some(named) = &launch.transcript {
            self.live.parking.named(named);
        }
        self.witnesses = Witnesses::new(launch.transcript.as_ref(), &self.session);
        self.climb = Climb::default();
        if let Some(entry) = self.inner.live().get_mut(&self.id) {
            entry.agent = driver.name();
        }
        // why only now: what is not on record is told nothing.
        for f in &frames {
            send(&self.shim, f).await;
        }
        Ok(())
    }

    async fn launch(
        &self,
        driver: &dyn Driver,
        tier: &super::kept::Tier,
        program: &Path,
        launch: &agent::Launch,
        run_dir: PathBuf,
        kept: &Kept,
    ) -> Result<(ShimHandle, ShimEvents), Error> {
        let inner: &Arc<Inner> = &self.inner;
        let search = launch.env.get(std::ffi::OsStr::new("PATH")).cloned();
        let must = self.config.require_attested;
        let checked = attest::check(inner, &tier.agent, program, search, !tier.unsafe_args.is_empty(), must).await?;
        let spec = LaunchSpec {
            args: launch.args.clone(),
            env: launch.env.clone().into_iter().collect(),
            umask: kept.umask,
            gated: driver.speaks(),
            keep_stdin: launch.keep_stdin,
            limits: default_limits(driver.speaks()),
            ..LaunchSpec::new(run_dir, self.id.as_str(), program, &kept.cwd)
        };
        let shim = Shim::launch(&inner.shim_bin, &spec).await?;
        if !attest::runs(checked.as_ref(), shim.0.agent().pid) {
            told(&self.id, shim.0.kill().await);
            let why = "the file was replaced between its check and its start".to_owned();
            return Err(Error::NotAttested { agent: tier.agent.clone(), program: program.display().to_string(), why });
        }
        Ok(shim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conversation_follows_from_plan_and_number() {
        let one = conversation("s", 2);
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'));
        assert_eq!(one, conversation("s", 2));
        assert!(one != conversation("s", 3) && one != conversation("t", 2));
    }

    #[test]
    fn feedback_stands_in_the_prompt_in_the_open() {
        let mut next = AttemptScheduled { attempt: 2, tier: 1, not_before: 0, why: "escalate".into(), feedback: None };
        assert_eq!(prompt("do it", &next), "do it");
        next.feedback = Some("test 3 fails".into());
        let text = prompt("do it", &next);
        assert!(text.starts_with("do it\n") && text.ends_with("not accepted:\ntest 3 fails"));
    }
}
