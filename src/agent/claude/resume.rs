//! Starting Claude Code anew from its own conversation, and what would be lost by ending it. As seen on 2.1.197:
//!
//! - `--resume=<id>` without a prompt goes on at a call that was deferred: the gate asks for it again under the same id, before anything
//!   else is said, and after the callback if the handshake was read by then; where nothing was deferred the agent waits for a prompt and says nothing;
//! - only a call that was the last of its model message, with all others done, comes back whole: with others under way the agent makes
//!   up results for them;
//! - a deferral is in the agent's record once the process has ended by itself; killed at once after its result line, it is not;
//! - tool servers that arguments name are connected before it goes on at a deferred call, those of the handshake after its turn: without
//!   an argument a deferred call of the host's own tools ends in `tool_deferred_unavailable`; several such arguments add up;
//! - a call that its tool finds wrong by then (the file was changed) is answered with an error and not asked about;
//! - counts and costs begin at zero in each process; the model is chosen anew, so it is named.
//!
//! Called by the driver.

use std::ffi::OsString;

use super::OWN_SERVER;
use crate::agent::{Callbacks, Resume};

/// How the argument begins that names the conversation.
const CONVERSATION: [&str; 2] = ["--session-id=", "--resume="];
/// Tools that leave something running or planned inside the agent when they have answered. What runs as a process is seen elsewhere.
const LINGER: &[&str] = &["CronCreate", "Monitor", "RemoteTrigger", "ScheduleWakeup", "SendMessage", "Workflow"];

/// Tools whose deferred calls the resumed agent refuses itself: it has forgotten that it had read the file.
const REFUSED: &[&str] = &["NotebookEdit"];

/// The arguments of the recipe with the conversation resumed instead of begun; `None` when they are not of the recipe.
pub fn resume(args: &[OsString], conversation: &str, model: Option<&str>, callbacks: Callbacks) -> Option<Resume> {
    let begins = |a: &OsString, p: &str| a.to_str().is_some_and(|a| a.starts_with(p));
    let at = args.iter().position(|a| CONVERSATION.iter().any(|p| begins(a, p)))?;
    let mut args = args.to_vec();
    args[at] = format!("--resume={conversation}").into();
    if let Some(model) = model.filter(|m| !m.is_empty() && !args.iter().any(|a| begins(a, "--model="))) {
        args.insert(at + 1, format!("--model={model}").into());
    }
    if callbacks.tools && !args.iter().any(|a| a == OWN_SERVER) {
        args.insert(at + 1, OWN_SERVER.into());
    }
    Some(Resume { args, frames: super::opening(None, &[], callbacks) })
}

/// See [`crate::agent::Driver::resumes_at`].
pub fn resumes_at(tool: &str) -> bool {
    !REFUSED.contains(&tool)
}

/// See [`crate::agent::Driver::lingers`].
pub fn lingers(tool: &str) -> bool {
    LINGER.contains(&tool)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::LaunchRequest;
    use crate::agent::claude::recipe;

    #[test]
    fn the_recipe_stays_but_for_the_conversation() {
        let r = LaunchRequest { agent_session_id: "11111111-1111-4111-8111-111111111111".into(), hold: true, ..Default::default() };
        let first = recipe::launch(&r).expect("launch");
        let both = Callbacks { hold: true, results: true, tools: true };
        let again = resume(&first.args, "c-2", Some("m[1m]"), both).expect("resumed");
        let rest = |args: &[OsString]| -> Vec<OsString> {
            args.iter()
                .filter(|a| !["--session-id=", "--resume=", "--model=", OWN_SERVER].iter().any(|p| a.to_string_lossy().starts_with(p)))
                .cloned()
                .collect()
        };
        assert_eq!(rest(&first.args), rest(&again.args));
        for a in ["--resume=c-2", "--model=m[1m]"] {
            assert!(again.args.iter().any(|x| x == a), "{a}");
        }
        assert!(!again.args.iter().any(|a| a.to_string_lossy().starts_with("--session-id=")));
        let third = resume(&again.args, "c-3", Some("other"), both).expect("resumed");
        assert!(third.args.iter().any(|a| a == "--resume=c-3") && third.args.len() == again.args.len(), "the model named first stays");
        assert_eq!(third.args.iter().filter(|a| *a == OWN_SERVER).count(), 1);
        let without = resume(&first.args, "c-2", None, Callbacks { tools: false, ..both }).expect("resumed");
        assert!(!without.args.iter().any(|a| a == OWN_SERVER));
        assert_eq!(again.frames, [crate::agent::claude::answer::initialize(both)], "a handshake and no prompt");
        assert_eq!(resume(&["-p".into()], "c", None, both), None);
    }
}
