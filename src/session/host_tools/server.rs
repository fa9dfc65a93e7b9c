//! Calls of the host's own tools that come through a server of the agent's (`beadle mcp`): of agents without a channel for them, and of
//! those that the host did not start.
//!
//! Invariants:
//! - for whom such a server speaks follows from its ancestry alone, as with hooks; there is no token that could be read or passed on;
//! - a call is served for an allowed call of that tool and input that is open, once: one that a hook asked about, else one that was
//!   judged here, under the channel `proxy`;
//! - what it did and that it was served are one append, and a call that comes again under its id gets the answer that it had: who asks
//!   again after the daemon was killed has it done once;
//! - an agent that has these tools over its own channel gets them there only.
//!
//! Called by `api::host_tools`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;

use super::{Act, Allowed, Done, HostToolAnswered, Open, ToolCall, input_hash, live, mcp};
use crate::agent::Output;
use crate::agent::hook::{Hook, HookAsked, HookEvent};
use crate::model::{Actor, Channel, Effect, Event, SessionId, Status};
use crate::session::command::Command;
use crate::session::hook::{Heard, Tell};
use crate::session::run::Runner;
use crate::session::{Error, Manager, failpoint};

/// Answers that are kept for who asks again, and how much of each.
const SERVED: usize = 256;
const SERVED_TEXT: usize = 4 << 10;
/// Before the ids that servers give their calls: no agent's own id meets them.
const BEFORE_IDS: &str = "mcp/";
/// What is told of a call that an earlier daemon served.
const DONE_BEFORE: &str = "done; the host was started anew before it could answer";
const REFUSED_BEFORE: &str = "not done; the host was started anew before it could say why";

/// What the model is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub text: String,
    /// Nothing was done.
    pub is_error: bool,
}

/// A call that was served.
#[derive(Debug)]
pub(super) struct Served {
    id: String,
    tool: String,
    answered: Answered,
}

impl Answered {
    fn refused(text: String) -> Self {
        Self { text, is_error: true }
    }
}

impl Allowed {
    /// Rebuilds from the log what was served.
    pub(super) fn replay_served(&mut self, h: &HostToolAnswered) {
        let Some(id) = h.id.clone() else { return };
        let text = if h.is_error { REFUSED_BEFORE } else { DONE_BEFORE };
        self.keep_served(id, &h.tool, Answered { text: text.to_owned(), is_error: h.is_error });
    }

    fn keep_served(&mut self, id: String, tool: &str, answered: Answered) {
        if self.served.len() >= SERVED {
            self.served.pop_front();
        }
        let answered = Answered { text: live::cut(&answered.text, SERVED_TEXT), ..answered };
        self.served.push_back(Served { id, tool: tool.to_owned(), answered });
    }

    fn served(&self, call: &ToolCall) -> Option<Answered> {
        let same = |s: &&Served| Some(&s.id) == call.call_id.as_ref() && s.tool == call.name;
        self.served.iter().find(same).map(|s| s.answered.clone())
    }

    /// An open call that was allowed with these words, and whether it was judged for this server.
    fn find_for_server(&self, call: &ToolCall) -> Option<(u64, bool)> {
        let (tool, input) = (mcp::full_name(&call.name), input_hash(&call.arguments));
        let fits = |o: &Open| {
            let of_this = match o.channel {
                Channel::Proxy => o.call_id == call.call_id,
                Channel::Hook => true,
                Channel::Driver => false,
            };
            of_this && o.tool == tool && o.input == input
        };
        self.open.iter().find(|(_, o)| fits(o)).map(|(seq, o)| (*seq, o.channel == Channel::Proxy))
    }
}

impl Manager {
    /// Whether a server that runs in this session has anything to offer.
    pub fn has_tool_server(&self, id: &SessionId) -> Result<(), Error> {
        let session = self.inner.store.session(id)?;
        let refused = |why: &str| Err(Error::Refused { what: format!("session {id}"), why: why.to_owned() });
        if !session.record.host_tools {
            return refused("was started without the host's own tools (`--no-host-tools`, `session.host_tools`, or an unsafe argument)");
        }
        let live = self.inner.live();
        let entry = live.get(id).ok_or_else(|| Error::Ended(id.clone()))?;
        match &entry.external {
            Some(e) if live.values().filter(|l| l.external.as_ref().is_some_and(|x| x.process == e.process)).count() > 1 => {
                refused("shares its process with other conversations, so a server of it cannot be told from theirs")
            }
            Some(_) => Ok(()),
            None if crate::agent::driver(entry.agent)?.starts_tool_server() => Ok(()),
            None => refused("has the host's own tools over its agent's own channel, and no other way to them"),
        }
    }

    /// A call of one of them; `None` where a person is asked, or the session is paused: the same call, sent again, goes on with it.
    /// At most `hold`.
    pub async fn host_tool(
        &self,
        id: &SessionId,
        call_id: String,
        name: String,
        arguments: Value,
        by: Actor,
        hold: Duration,
    ) -> Result<Option<Answered>, Error> {
        let until = Instant::now() + hold;
        self.has_tool_server(id)?;
        let call = ToolCall { name, arguments, call_id: Some(format!("{BEFORE_IDS}{call_id}")) };
        if !mcp::TOOLS.contains(&call.name.as_str()) {
            return Ok(Some(Answered::refused("there is no such tool".to_owned())));
        }
        let serve = async |call: ToolCall| self.command(id, |reply| Command::HostTool { call, reply }).await?;
        if let Some(done) = serve(call.clone()).await? {
            return Ok(Some(done));
        }
        let (mailbox, agent) = {
            let live = self.inner.live();
            let entry = live.get(id).ok_or_else(|| Error::Ended(id.clone()))?;
            (entry.mailbox.clone(), entry.agent)
        };
        let asked =
            HookAsked { call_id: call.call_id.clone(), tool: mcp::full_name(&call.name), input: call.arguments.clone(), sub_agent: None };
        let hook = Hook {
            agent_session_id: String::new(),
            cwd: self.inner.store.session(id)?.cwd,
            prompts: false,
            transcript: None,
            event: HookEvent::Asked(asked),
        };
        let tell = Tell { agent, hook, by, can_wait: true, channel: Channel::Proxy };
        let (reply, answer) = oneshot::channel();
        mailbox.send(Command::Hook { tell: Box::new(tell), reply }).await.map_err(|_| Error::Ended(id.clone()))?;
        let told = match tokio::time::timeout_at(until.into(), answer).await {
            // Asked about, or held back: both are on record, or come to nothing with this client.
            Err(_) => return Ok(None),
            // Ended, or without its shim for a while: the next request finds out which.
            Ok(Err(_)) => return Err(if *self.inner.shutdown.borrow() { Error::ShuttingDown } else { Error::Busy }),
            Ok(Ok(told)) => told,
        };
        let Some(Heard::Decided(told)) = told else {
            return Ok(Some(Answered::refused("the host gave no decision".to_owned())));
        };
        match told.effect() {
            Effect::Allow => {
                let arguments = told.input().cloned().unwrap_or(call.arguments);
                let done = serve(ToolCall { arguments, ..call }).await?;
                if done.is_none() && self.inner.store.session(id)?.status == Status::Paused {
                    // It is done when the session goes on.
                    return Ok(None);
                }
                Ok(Some(done.unwrap_or_else(|| Answered::refused("the call was allowed and is not open any more; call again".to_owned()))))
            }
            _ => Ok(Some(Answered::refused(format!("denied: {}", told.reason())))),
        }
    }
}

impl Runner {
    /// Serves a call that was allowed; `None` where none was with these words.
    pub(in crate::session) async fn serve(&mut self, call: ToolCall) -> Result<Option<Answered>, Error> {
        if let Some(a) = self.live.host_tools.served(&call) {
            return Ok(Some(a));
        }
        if self.finishing || self.ending.is_some() {
            // why: what an operator has ended does no more.
            return Err(Error::Ended(self.id.clone()));
        }
        if self.is_paused() {
            return Ok(None);
        }
        let Some((seq, judged_here)) = self.live.host_tools.find_for_server(&call) else { return Ok(None) };
        failpoint::hit("host_tool");
        let done = match Act::read(&call.name, &call.arguments) {
            Ok(act) => self.act(act).await.map_err(|e| format!("{e} [{}]", e.code())),
            Err(why) => Err(why),
        };
        self.live.host_tools.over(seq);
        let is_error = done.is_err();
        let done = done.unwrap_or_else(|why| Done { text: live::cut(&why, 1024), events: vec![], blob: None });
        self.pending.events.extend(done.events);
        self.pending.blobs.extend(done.blob);
        let answered = Answered { text: done.text, is_error };
        if let Some(id) = call.call_id.clone() {
            self.live.host_tools.keep_served(id, &call.name, answered.clone());
        }
        let id = call.call_id.clone();
        self.pending.events.push(HostToolAnswered { call: seq, tool: call.name, is_error, frame: 0, id }.into());
        if let (true, Some(call_id)) = (judged_here, call.call_id) {
            // why only of those: of a call that a hook asked about, a hook tells the end.
            let content = answered.text.clone();
            let out = Output::ToolResult { call_id, is_error, ran: !is_error, content, parent_call_id: None };
            let step = self.live.step(out, self.inner.prices.at(self.inner.clock.wall_ms()));
            self.pending.blobs.extend(step.blobs);
            for e in step.events {
                match e {
                    Event::MediationBreached(b) => self.breach(&b.what, b.detail, b.call).await,
                    e => self.pending.events.push(e),
                }
            }
            self.live.hooks.ended(seq);
        }
        self.commit().await;
        self.recorded()?;
        Ok(Some(answered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn open(call_id: &str, channel: Channel) -> Open {
        let input = input_hash(&json!({"text": "x"}));
        Open { call_id: Some(call_id.to_owned()), tool: "mcp__beadle__note".to_owned(), input, told: false, channel }
    }

    fn call(id: &str, text: &str) -> ToolCall {
        ToolCall { name: "note".into(), arguments: json!({ "text": text }), call_id: Some(id.to_owned()) }
    }

    #[test]
    fn a_call_of_the_gate_is_never_served_here_and_one_of_a_server_under_its_id_only() {
        let mut a = Allowed::default();
        a.open.insert(3, open("t", Channel::Driver));
        assert_eq!(a.find_for_server(&call("t", "x")), None);
        a.open.insert(5, open("mcp/1", Channel::Proxy));
        assert_eq!((a.find_for_server(&call("mcp/2", "x")), a.find_for_server(&call("mcp/1", "y"))), (None, None));
        assert_eq!(a.find_for_server(&call("mcp/1", "x")), Some((5, true)));
        a.over(5);
        a.open.insert(7, open("toolu_1", Channel::Hook));
        assert_eq!(a.find_for_server(&call("mcp/9", "x")), Some((7, false)), "what a hook asked about has the agent's id");
    }

    #[test]
    fn who_asks_again_gets_the_answer_that_it_had_and_few_are_kept() {
        let mut a = Allowed::default();
        for n in 0..=SERVED {
            a.keep_served(format!("mcp/{n}"), "note", Answered { text: n.to_string(), is_error: false });
        }
        assert_eq!((a.served.len(), a.served(&call("mcp/0", "x"))), (SERVED, None));
        assert_eq!(a.served(&call("mcp/1", "x")).map(|a| a.text), Some("1".to_owned()));
        let done = |tool: &str, id: Option<&str>| HostToolAnswered {
            call: 1,
            tool: tool.into(),
            is_error: false,
            frame: 0,
            id: id.map(str::to_owned),
        };
        a.replay_served(&done("note", None));
        a.replay_served(&done("report", Some("mcp/other")));
        assert_eq!(a.served(&call("mcp/other", "x")), None, "another tool");
        a.replay_served(&done("note", Some("mcp/old")));
        assert_eq!(a.served(&call("mcp/old", "x")), Some(Answered { text: DONE_BEFORE.to_owned(), is_error: false }));
    }
}
