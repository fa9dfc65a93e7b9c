//! Tasks of a session: added and changed by people and programs, and the agent's own list as far as its calls show it.
//!
//! Invariants: every change is an event with the whole task, so the list is a fold of the log; changes of one host go one after the other,
//! so no id is given twice (what a session's own task gave meanwhile is found there, and tried again); the agent's list is read from calls that ran, and can change nothing on the host's own.
//!
//! Called by `api`, by `run` for what the agent does on a list of its own, and by `host_tools` for what it does on the host's.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::tree::TreeError;
use super::{Error, Manager, live, mask};
use crate::model::{
    Actor, Event, SessionId, TASK_NOTE_MAX, TASK_TITLE_MAX, TASKS_MAX, Task, TaskSource, TaskStatus, TaskUpdated, check_text,
};

/// Calls about tasks whose result is waited for; the oldest is forgotten first.
const CALLS_MAX: usize = 64;
/// How often a new task is tried whose number a session gave away meanwhile.
const TRIES: u32 = 8;
/// Longest id of the agent's, of a call or of a task, that is remembered, in bytes.
const ID_MAX: usize = 256;

/// What a caller says of a task; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskChange {
    pub title: Option<String>,
    pub status: Option<TaskStatus>,
    /// Empty: nobody's.
    pub owner: Option<String>,
    /// Empty: none.
    pub note: Option<String>,
}

impl Manager {
    /// In the order in which they came.
    pub fn tasks(&self, id: &SessionId) -> Result<Vec<Task>, Error> {
        Ok(self.inner.store.tasks(id)?)
    }

    /// A new task on the host's list.
    pub async fn add_task(&self, id: &SessionId, change: TaskChange, by: Actor) -> Result<Task, Error> {
        let _one = self.inner.changing_tasks.lock().await;
        let mut tries = TRIES;
        loop {
            let new = new_task(id, &self.inner.store.tasks(id)?, change.clone(), by.clone())?;
            match self.put_task(id, new).await {
                Err(Error::Busy) if tries > 0 => tries -= 1,
                told => return told,
            }
        }
    }

    /// Changes one; the host's list and what is known of the agent's.
    pub async fn set_task(&self, id: &SessionId, task: &str, change: TaskChange, by: Actor) -> Result<Task, Error> {
        let _one = self.inner.changing_tasks.lock().await;
        let new = changed_task(id, self.inner.store.tasks(id)?, task, change, by)?;
        self.put_task(id, new).await
    }

    async fn put_task(&self, id: &SessionId, new: TaskUpdated) -> Result<Task, Error> {
        let task = new.task.clone();
        self.append_to(id, vec![new.into()]).await?;
        let found = self.inner.store.tasks(id)?.into_iter().find(|t| t.id == task);
        found.ok_or_else(|| TreeError::NoTask { session: id.clone(), id: task }.into())
    }
}

/// A new task on the host's list, with the next number.
pub(super) fn new_task(id: &SessionId, tasks: &[Task], change: TaskChange, by: Actor) -> Result<TaskUpdated, Error> {
    if tasks.len() >= TASKS_MAX {
        return Err(TreeError::TooManyTasks(id.clone()).into());
    }
    let last = tasks.iter().filter(|t| t.source == TaskSource::Host).filter_map(|t| t.id.parse::<u64>().ok()).max();
    checked(TaskUpdated {
        task: (last.unwrap_or(0) + 1).to_string(),
        title: change.title.unwrap_or_default(),
        status: change.status.unwrap_or(TaskStatus::Pending),
        was: None,
        owner: change.owner.filter(|o| !o.is_empty()),
        note: change.note.filter(|n| !n.is_empty()),
        source: TaskSource::Host,
        by,
    })
}

/// One of these as it is after a change.
pub(super) fn changed_task(id: &SessionId, tasks: Vec<Task>, task: &str, change: TaskChange, by: Actor) -> Result<TaskUpdated, Error> {
    let none = || TreeError::NoTask { session: id.clone(), id: live::cut(task, 80) };
    let t = tasks.into_iter().find(|t| t.id == task).ok_or_else(none)?;
    let or = |said: Option<String>, was: Option<String>| said.map_or(was, |s| Some(s).filter(|s| !s.is_empty()));
    checked(TaskUpdated {
        title: change.title.unwrap_or(t.title),
        status: change.status.unwrap_or(t.status),
        was: Some(t.status),
        owner: or(change.owner, t.owner),
        note: or(change.note, t.note),
        source: t.source,
        task: t.id,
        by,
    })
}

/// Whether events begin a task under a number that is given already.
pub(super) fn is_taken(events: &[Event], tasks: impl FnOnce() -> Vec<Task>) -> bool {
    let begun = |e: &Event| match e {
        Event::TaskUpdated(t) if t.was.is_none() && t.source == TaskSource::Host => Some(t.task.clone()),
        _ => None,
    };
    let new: Vec<String> = events.iter().filter_map(begun).collect();
    !new.is_empty() && tasks().iter().any(|t| new.contains(&t.id))
}

fn checked(new: TaskUpdated) -> Result<TaskUpdated, Error> {
    check_text("the title", &new.title, TASK_TITLE_MAX)?;
    if let Some(owner) = &new.owner {
        check_text("the owner", owner, crate::model::TEXT_MAX)?;
    }
    if new.note.as_ref().is_some_and(|n| n.len() > TASK_NOTE_MAX) {
        return Err(Error::Refused { what: "the note".to_owned(), why: format!("has over {TASK_NOTE_MAX} bytes") });
    }
    Ok(new)
}

/// The agent's own list, as far as its calls show it. Ids are the agent's where it has some, with `a` before them.
#[derive(Debug, Default)]
pub(super) struct AgentTasks {
    /// Calls that were seen and have no result yet, oldest first.
    calls: VecDeque<(String, Asked)>,
    /// The list as recorded: id, title, status.
    list: BTreeMap<String, (String, TaskStatus)>,
    /// Number of the newest id that was given here, for agents that give none.
    given: u64,
}

/// What a call would change: as much of its input as a list holds.
#[derive(Debug)]
enum Asked {
    /// The whole list anew.
    Written(Vec<(String, TaskStatus)>),
    Created(String),
    Updated {
        id: String,
        title: Option<String>,
        status: Option<TaskStatus>,
    },
}

impl Asked {
    fn of(tool: &str, input: &Value) -> Option<Self> {
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
        match tool {
            "TodoWrite" => {
                let todos = input.get("todos").and_then(Value::as_array).into_iter().flatten().take(TASKS_MAX);
                let one = |t: &Value| Some((title(&text(t, "content")?)?, status(&text(t, "status")?)?));
                Some(Self::Written(todos.filter_map(one).collect()))
            }
            "TaskCreate" => title(&text(input, "subject")?).map(Self::Created),
            "TaskUpdate" => {
                let id = format!("a{}", text(input, "taskId").filter(|id| id.len() <= ID_MAX)?.trim_start_matches('#'));
                let status = match text(input, "status").as_deref() {
                    Some("deleted") => Some(TaskStatus::Cancelled),
                    word => word.and_then(status),
                };
                Some(Self::Updated { id, title: text(input, "subject").as_deref().and_then(title), status })
            }
            _ => None,
        }
    }
}

impl AgentTasks {
    /// Another agent begins: what the one before it had asked for has no result any more.
    pub fn new_try(&mut self) {
        self.calls.clear();
    }

    /// Rebuilds from the log.
    pub fn replay(&mut self, event: &Event) {
        let Event::TaskUpdated(t) = event else { return };
        if t.source == TaskSource::Agent {
            self.given = self.given.max(t.task.strip_prefix('a').and_then(|n| n.parse().ok()).unwrap_or(0));
            self.list.insert(t.task.clone(), (t.title.clone(), t.status));
        }
    }

    /// A call that the model asked for. Those of sub-agents are passed over: each has a list of its own.
    pub fn asked(&mut self, call_id: &str, parent: Option<&str>, tool: &str, input: &Value) {
        if parent.is_none()
            && call_id.len() <= ID_MAX
            && let Some(asked) = Asked::of(tool, input)
        {
            if self.calls.len() >= CALLS_MAX {
                self.calls.pop_front();
            }
            self.calls.push_back((call_id.to_owned(), asked));
        }
    }

    /// It has ended: what that changes on the list.
    pub fn ended(&mut self, call_id: &str, is_error: bool, output: &str) -> Vec<Event> {
        let Some(at) = self.calls.iter().rposition(|(id, _)| id == call_id) else { return vec![] };
        let Some((_, asked)) = self.calls.remove(at).filter(|_| !is_error) else { return vec![] };
        let changes = match asked {
            Asked::Written(todos) => self.written(todos),
            Asked::Created(title) => self.created(title, output),
            Asked::Updated { id, title, status } => self.updated(id, title, status),
        };
        let mut out = Vec::new();
        for (id, title, status) in changes {
            let was = self.list.get(&id);
            if was.is_some_and(|(t, s)| *t == title && *s == status) || (was.is_none() && self.list.len() >= TASKS_MAX / 2) {
                continue;
            }
            let was = self.list.insert(id.clone(), (title.clone(), status)).map(|(_, s)| s);
            let by = Actor { role: "agent".to_owned(), ..Actor::default() };
            out.push(TaskUpdated { task: id, title, status, was, owner: None, note: None, source: TaskSource::Agent, by }.into());
        }
        out
    }

    /// The whole list anew: what is on it no more and was not done is cancelled.
    fn written(&mut self, todos: Vec<(String, TaskStatus)>) -> Vec<(String, String, TaskStatus)> {
        let mut left: BTreeMap<String, (String, TaskStatus)> = self.list.clone();
        let mut out = Vec::new();
        for (title, status) in todos {
            let known = left.iter().find(|(_, (t, _))| *t == title).map(|(id, _)| id.clone());
            let id = known.unwrap_or_else(|| {
                self.given += 1;
                format!("a{}", self.given)
            });
            left.remove(&id);
            out.push((id, title, status));
        }
        out.extend(left.into_iter().filter(|(_, (_, s))| s.is_open()).map(|(id, (title, _))| (id, title, TaskStatus::Cancelled)));
        out
    }

    /// The number stands in the result: `Task #1 created successfully: …`.
    fn created(&self, title: String, output: &str) -> Vec<(String, String, TaskStatus)> {
        let number = output.strip_prefix("Task #").and_then(|r| r.split_whitespace().next()?.parse::<u64>().ok());
        number.map(|n| (format!("a{n}"), title, TaskStatus::Pending)).into_iter().collect()
    }

    fn updated(&self, id: String, title: Option<String>, status: Option<TaskStatus>) -> Vec<(String, String, TaskStatus)> {
        let Some((was_title, was)) = self.list.get(&id).cloned() else { return vec![] };
        vec![(id, title.unwrap_or(was_title), status.unwrap_or(was))]
    }
}

/// Without secrets, in one line, cut to what a task holds.
fn title(text: &str) -> Option<String> {
    let line: String = mask::text(text.trim()).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(live::cut(&line, TASK_TITLE_MAX - 3)).filter(|t| !t.is_empty())
}

fn status(word: &str) -> Option<TaskStatus> {
    TaskStatus::ALL.into_iter().find(|s| s.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(events: Vec<Event>) -> Vec<(String, String, &'static str, Option<&'static str>)> {
        let one = |e: Event| match e {
            Event::TaskUpdated(t) => (t.task, t.title, t.status.as_str(), t.was.map(TaskStatus::as_str)),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(one).collect()
    }

    fn todo(list: &[(&str, &str)]) -> Value {
        json!({ "todos": list.iter().map(|(c, s)| json!({ "content": c, "status": s, "activeForm": "x" })).collect::<Vec<_>>() })
    }

    #[test]
    fn a_number_that_was_given_meanwhile_is_not_given_again() {
        let id = SessionId::parse("s-1-aaaaa").unwrap();
        let of = |t: &TaskUpdated| Task {
            id: t.task.clone(),
            title: t.title.clone(),
            status: t.status,
            owner: t.owner.clone(),
            note: t.note.clone(),
            source: t.source,
            created_at: 1,
            updated_at: 1,
            began: 1,
            changed: 1,
        };
        let change = |title: &str| TaskChange { title: Some(title.to_owned()), ..TaskChange::default() };
        let one = new_task(&id, &[], change("one"), Actor::host()).unwrap();
        let two = new_task(&id, &[of(&one)], change("two"), Actor::host()).unwrap();
        assert_eq!((one.task.as_str(), two.task.as_str()), ("1", "2"));
        assert!(is_taken(&[one.clone().into()], || vec![of(&one)]), "another gave it, too");
        assert!(!is_taken(&[two.clone().into()], || vec![of(&one)]));
        let done = changed_task(
            &id,
            vec![of(&one)],
            "1",
            TaskChange { status: Some(TaskStatus::Completed), ..TaskChange::default() },
            Actor::host(),
        );
        assert!(!is_taken(&[done.unwrap().into()], || vec![of(&one)]), "a change of what is there");
        assert!(!is_taken(&[], || panic!("nothing is looked up for events without a task")));
        assert!(changed_task(&id, vec![of(&one)], "2", change("x"), Actor::host()).is_err());
        assert!(new_task(&id, &[], change("two\nlines"), Actor::host()).is_err());
    }

    #[test]
    fn a_list_that_is_written_anew_changes_what_differs() {
        let mut a = AgentTasks::default();
        a.asked("c1", None, "TodoWrite", &todo(&[("one", "in_progress"), ("two", "pending")]));
        let events = a.ended("c1", false, "Todos have been modified");
        let mut again = AgentTasks::default();
        events.iter().for_each(|e| again.replay(e));
        assert_eq!(told(events), [("a1".into(), "one".into(), "in_progress", None), ("a2".into(), "two".into(), "pending", None)]);
        for mut a in [a, again] {
            a.asked("c2", None, "TodoWrite", &todo(&[("one", "completed"), ("three\n\u{1b}[2J", "pending")]));
            assert_eq!(
                told(a.ended("c2", false, "")),
                [
                    ("a1".into(), "one".into(), "completed", Some("in_progress")),
                    ("a3".into(), "three  [2J".into(), "pending", None),
                    ("a2".into(), "two".into(), "cancelled", Some("pending")),
                ]
            );
            assert_eq!(a.ended("c2", false, ""), [], "a result counts once");
            a.asked("c3", None, "TodoWrite", &todo(&[]));
            assert_eq!(a.ended("c3", true, "denied"), [], "what did not run changed nothing");
        }
    }

    #[test]
    fn tasks_with_numbers_of_the_agents_own() {
        let mut a = AgentTasks::default();
        a.asked("c1", None, "TaskCreate", &json!({ "subject": "x", "description": "y" }));
        assert_eq!(told(a.ended("c1", false, "Task #1 created successfully: x")), [("a1".into(), "x".into(), "pending", None)]);
        a.asked("c2", None, "TaskUpdate", &json!({ "taskId": "1", "status": "in_progress" }));
        assert_eq!(told(a.ended("c2", false, "Updated task #1 status")), [("a1".into(), "x".into(), "in_progress", Some("pending"))]);
        a.asked("c3", None, "TaskUpdate", &json!({ "taskId": "1", "status": "deleted" }));
        assert_eq!(told(a.ended("c3", false, "")), [("a1".into(), "x".into(), "cancelled", Some("in_progress"))]);
        a.asked("c4", None, "TaskUpdate", &json!({ "taskId": "9", "status": "completed" }));
        assert_eq!(a.ended("c4", false, ""), [], "a number that nobody gave");
        for n in 0..1_000 {
            a.asked(&format!("x{n}"), None, "TaskCreate", &json!({ "subject": "y".repeat(1 << 16) }));
            a.asked(&"i".repeat(1 << 16), None, "TaskCreate", &json!({ "subject": "y" }));
            a.asked("u", None, "TaskUpdate", &json!({ "taskId": "9".repeat(1 << 16) }));
        }
        let held: usize = a.calls.iter().map(|(id, asked)| id.len() + format!("{asked:?}").len()).sum();
        assert!(a.calls.len() == CALLS_MAX && held < CALLS_MAX * (TASK_TITLE_MAX + 64), "{held} bytes");
        assert_eq!(told(a.ended("x999", false, "Task #2 created successfully")).len(), 1, "the newest are held");
        assert_eq!(a.ended("x0", false, "Task #3 created successfully"), []);
        a.new_try();
        assert!(a.calls.is_empty());
        a.asked("c5", None, "Bash", &json!({}));
        assert_eq!(a.ended("c5", false, ""), []);
    }
}
