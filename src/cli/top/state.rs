//! What the screen stands for, and what a key does to it. Pure: no terminal, no host.
//!
//! Invariants: the selected question and the selected session are known by their ids, so that a list which changes never moves an answer
//! or a pause to another one; an answer goes out only after a second key (Enter), for the question it was begun for; a key pauses what is
//! shown running and resumes what is shown paused, whatever it became meanwhile.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::look::Look;
use crate::api::types::{ApprovalDetailDoc, ApprovalDoc, SessionDoc};
use crate::cli::text::brief;
use crate::model::{Effect, Status};

/// Longest reason that is taken, in characters.
const REASON_MAX: usize = 500;
/// Lines that a page key moves the story.
const PAGE: u16 = 10;

/// What the keys are for at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Watching,
    Help,
    /// A reason is written; Enter sends the answer.
    Answering {
        id: String,
        effect: Effect,
        reason: String,
    },
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Quit,
    /// Another question is selected: its story is wanted.
    Select,
    Answer {
        session: String,
        call: u64,
        effect: Effect,
        reason: String,
    },
    Pause {
        session: String,
    },
    Resume {
        session: String,
        /// It had a breach: whoever lets it go on may have to prove who they are.
        breached: bool,
    },
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct State {
    pub look: Look,
    pub mode: Mode,
    /// Id of the selected question.
    pub selected: Option<String>,
    /// Id of the selected session. None until one is there, and after that one has gone, until a key selects another.
    pub session: Option<String>,
    /// Of the selected question.
    pub story: Option<ApprovalDetailDoc>,
    /// First line of the story that is shown.
    pub scroll: u16,
    pub message: Option<String>,
    /// Why the last look failed.
    pub trouble: Option<String>,
}

impl State {
    /// Takes a new look in; true when the selected question is another one now.
    pub fn seen(&mut self, look: Look) -> bool {
        let none_yet = self.look.sessions.is_empty();
        self.look = look;
        self.trouble = None;
        if self.current_session().is_none() {
            // why not always the first: the key that was meant for the one that has gone would pause another.
            self.session = self.look.sessions.first().filter(|_| none_yet).map(|s| s.id.clone());
        }
        if let Mode::Answering { id, .. } = &self.mode
            && !self.look.approvals.iter().any(|a| a.id == *id)
        {
            self.message = Some(format!("{id} waits no more; nothing was sent"));
            self.mode = Mode::Watching;
        }
        if self.current().is_some() {
            return false;
        }
        self.select(self.look.approvals.first().map(|a| a.id.clone()))
    }

    /// The selected question, while it waits.
    pub fn current(&self) -> Option<&ApprovalDoc> {
        let id = self.selected.as_deref()?;
        self.look.approvals.iter().find(|a| a.id == id)
    }

    /// The selected session, while it is shown.
    pub fn current_session(&self) -> Option<&SessionDoc> {
        let id = self.session.as_deref()?;
        self.look.sessions.iter().find(|s| s.id == id)
    }

    /// Selects the next session, round and round.
    fn next_session(&mut self, by: isize) {
        let list = &self.look.sessions;
        let at = list.iter().position(|s| Some(&s.id) == self.session.as_ref());
        let n = isize::try_from(list.len()).unwrap_or(isize::MAX);
        let to = match at.and_then(|a| isize::try_from(a).ok()) {
            Some(at) if n > 0 => (at + by).rem_euclid(n),
            _ if by < 0 => n - 1,
            _ => 0,
        };
        self.session = usize::try_from(to).ok().and_then(|to| list.get(to)).map(|s| s.id.clone());
        self.message = None;
    }

    fn pause_or_resume(&mut self) -> Act {
        let Some(s) = self.current_session() else {
            let what = if self.look.sessions.is_empty() { "no session is live" } else { "Tab selects a session first" };
            self.message = Some(what.to_owned());
            return Act::Nothing;
        };
        let session = s.id.clone();
        match s.status {
            Status::Running => Act::Pause { session },
            Status::Paused => Act::Resume { session, breached: s.breach_count > 0 },
            other => {
                self.message = Some(format!("{} is {}: only what runs is paused", brief(&s.name, 60), other.as_str()));
                Act::Nothing
            }
        }
    }

    fn select(&mut self, id: Option<String>) -> bool {
        let other = self.selected != id;
        if other {
            self.selected = id;
            self.story = None;
            self.scroll = 0;
        }
        other
    }

    fn step(&mut self, by: isize) -> Act {
        let list = &self.look.approvals;
        let at = list.iter().position(|a| Some(&a.id) == self.selected.as_ref()).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(list.len().saturating_sub(1));
        let id = list.get(to).map(|a| a.id.clone());
        if self.select(id) { Act::Select } else { Act::Nothing }
    }

    pub fn key(&mut self, key: KeyEvent) -> Act {
        if key.kind == KeyEventKind::Release {
            return Act::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Act::Quit } else { Act::Nothing };
        }
        match std::mem::take(&mut self.mode) {
            Mode::Watching => self.watching(key.code),
            Mode::Help => Act::Nothing,
            Mode::Answering { id, effect, reason } => self.answering(key.code, id, effect, reason),
        }
    }

    fn watching(&mut self, code: KeyCode) -> Act {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Act::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Down | KeyCode::Char('j') => return self.step(1),
            KeyCode::Up | KeyCode::Char('k') => return self.step(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(PAGE),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::Char('y') => self.begin(Effect::Allow),
            KeyCode::Char('n') => self.begin(Effect::Deny),
            KeyCode::Tab => self.next_session(1),
            KeyCode::BackTab => self.next_session(-1),
            KeyCode::Char('p') => return self.pause_or_resume(),
            _ => {}
        }
        Act::Nothing
    }

    fn begin(&mut self, effect: Effect) {
        self.message = None;
        match (self.current().map(|a| a.id.clone()), &self.story) {
            (None, _) => self.message = Some("nothing waits for an answer".to_owned()),
            // why: nobody answers what was not shown.
            (Some(_), None) => self.message = Some("the question is still being fetched".to_owned()),
            (Some(id), Some(_)) => self.mode = Mode::Answering { id, effect, reason: String::new() },
        }
    }

    fn answering(&mut self, code: KeyCode, id: String, effect: Effect, mut reason: String) -> Act {
        match code {
            KeyCode::Esc => {
                self.message = Some("nothing was sent".to_owned());
                return Act::Nothing;
            }
            KeyCode::Enter => {
                let found = self.look.approvals.iter().find(|a| a.id == id);
                return found.map_or(Act::Nothing, |a| Act::Answer { session: a.session.clone(), call: a.call, effect, reason });
            }
            KeyCode::Backspace => drop(reason.pop()),
            KeyCode::Char(c) if !c.is_control() && reason.chars().count() < REASON_MAX => reason.push(c),
            _ => {}
        }
        self.mode = Mode::Answering { id, effect, reason };
        Act::Nothing
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::sample;
    use serde_json::json;

    pub fn approval(call: u64) -> ApprovalDoc {
        serde_json::from_value(json!({
            "id": format!("fix-1-aaaaa:{call}"), "session": "fix-1-aaaaa", "call": call, "state": "waiting",
            "requested_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T00:05:00.000Z",
            "tool": "Bash", "subject": format!("make step{call}"), "why": "rule Bash(make:*)",
        }))
        .unwrap()
    }

    pub fn detail(call: u64) -> ApprovalDetailDoc {
        let mut whole = serde_json::to_value(approval(call)).unwrap();
        let more = json!({ "agent": "claude", "cwd": "/p", "input": {"command": format!("make step{call}")}, "parse": "complete", "policies": [] });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn look(calls: &[u64]) -> Look {
        Look { approvals: calls.iter().map(|c| approval(*c)).collect(), ..Look::default() }
    }

    fn press(s: &mut State, code: KeyCode) -> Act {
        s.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn typed(s: &mut State, text: &str) {
        text.chars().for_each(|c| assert_eq!(press(s, KeyCode::Char(c)), Act::Nothing));
    }

    #[test]
    fn an_answer_needs_two_keys_and_goes_to_the_question_it_was_begun_for() {
        let mut s = State::default();
        assert!(s.seen(look(&[4, 6])));
        typed(&mut s, "y");
        assert_eq!(s.mode, Mode::Watching, "nobody answers what was not shown");
        s.story = Some(detail(4));
        typed(&mut s, "n");
        typed(&mut s, "not qy");
        press(&mut s, KeyCode::Backspace);
        // The list changes meanwhile: an older question comes in before it.
        assert!(!s.seen(look(&[2, 4, 6])));
        let sent = Act::Answer { session: "fix-1-aaaaa".into(), call: 4, effect: Effect::Deny, reason: "not q".into() };
        assert_eq!(press(&mut s, KeyCode::Enter), sent);
        assert_eq!(s.mode, Mode::Watching);
    }

    #[test]
    fn a_question_that_goes_away_takes_its_answer_with_it() {
        let mut s = State::default();
        s.seen(look(&[4]));
        s.story = Some(detail(4));
        typed(&mut s, "y");
        assert!(s.seen(look(&[6])), "the other one is selected");
        assert_eq!((s.mode.clone(), s.story.is_none()), (Mode::Watching, true));
        assert!(s.message.as_deref().is_some_and(|m| m.contains("fix-1-aaaaa:4 waits no more")));
        assert_eq!(press(&mut s, KeyCode::Enter), Act::Nothing);
        s.story = Some(detail(6));
        typed(&mut s, "y");
        press(&mut s, KeyCode::Esc);
        assert_eq!(press(&mut s, KeyCode::Enter), Act::Nothing, "Esc took it back");
    }

    #[test]
    fn keys_select_help_and_end() {
        let mut s = State::default();
        s.seen(look(&[4, 6]));
        assert_eq!(press(&mut s, KeyCode::Down), Act::Select);
        assert_eq!(press(&mut s, KeyCode::Down), Act::Nothing, "the last one stays");
        assert_eq!(s.selected.as_deref(), Some("fix-1-aaaaa:6"));
        assert_eq!(press(&mut s, KeyCode::Char('k')), Act::Select);
        typed(&mut s, "?");
        assert_eq!(s.mode, Mode::Help);
        assert_eq!((press(&mut s, KeyCode::Char('q')), s.mode.clone()), (Act::Nothing, Mode::Watching), "any key ends the help");
        assert_eq!(press(&mut s, KeyCode::Char('q')), Act::Quit);
        assert_eq!(s.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Act::Quit);
        let mut empty = State::default();
        empty.seen(Look::default());
        typed(&mut empty, "y");
        assert_eq!(empty.message.as_deref(), Some("nothing waits for an answer"));
    }

    #[test]
    fn a_pause_is_of_the_session_that_was_selected_and_of_what_was_shown() {
        let doc = |id: &str, status| SessionDoc { id: id.into(), name: id.into(), status, ..sample::session() };
        let look = |docs: &[SessionDoc]| Look { sessions: docs.to_vec(), ..Look::default() };
        let p = |s: &mut State| press(s, KeyCode::Char('p'));
        let mut s = State::default();
        assert_eq!((p(&mut s), s.message.as_deref()), (Act::Nothing, Some("no session is live")));
        let (a, b, c) = (doc("a", Status::Running), doc("b", Status::Paused), doc("c", Status::Starting));
        s.seen(look(&[a.clone(), b.clone(), c.clone()]));
        assert_eq!(p(&mut s), Act::Pause { session: "a".into() });
        press(&mut s, KeyCode::Tab);
        assert_eq!(p(&mut s), Act::Resume { session: "b".into(), breached: false });
        // A newer one comes in before it.
        s.seen(look(&[doc("new", Status::Running), a.clone(), SessionDoc { breach_count: 1, ..b }, c.clone()]));
        assert_eq!(p(&mut s), Act::Resume { session: "b".into(), breached: true });
        press(&mut s, KeyCode::Tab);
        assert_eq!(p(&mut s), Act::Nothing);
        assert_eq!(s.message.as_deref(), Some("c is starting: only what runs is paused"));
        press(&mut s, KeyCode::Tab);
        assert_eq!(s.session.as_deref(), Some("new"), "round and round");
        press(&mut s, KeyCode::BackTab);
        // It goes: the key that was meant for it acts on no other.
        s.seen(look(std::slice::from_ref(&a)));
        assert_eq!((p(&mut s), s.message.as_deref()), (Act::Nothing, Some("Tab selects a session first")));
        s.seen(look(&[a]));
        assert_eq!(p(&mut s), Act::Nothing);
        press(&mut s, KeyCode::BackTab);
        assert_eq!(p(&mut s), Act::Pause { session: "a".into() });
        // Within an answer it is a letter.
        s.seen(Look { approvals: vec![approval(4)], ..s.look.clone() });
        s.story = Some(detail(4));
        typed(&mut s, "yp");
        assert!(matches!(&s.mode, Mode::Answering { reason, .. } if reason == "p"));
    }
}
