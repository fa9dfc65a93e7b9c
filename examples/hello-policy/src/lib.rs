//! A policy in ten lines: denies forced pushes, turns every other `git push` into a dry run, leaves the rest to others.
//!
//! It reads `call.commands`, which the host parsed, so quoting, `sh -c`, `&&` or a full path to git do not fool it.

use beadle_plugin::{Call, Decision, Description, Policy, Session, export_policy};

/// The policy. It has no configuration.
pub struct Hello;

impl Policy for Hello {
    fn describe() -> Description {
        Description::new("hello", env!("CARGO_PKG_VERSION"), "Denies forced git pushes and makes the others dry runs.")
    }

    fn configure(_config: &str) -> Result<Self, String> {
        Ok(Self)
    }

    fn decide(&self, _session: &Session, call: &Call) -> Decision {
        let Some(push) = call.commands.iter().find(|c| c.program() == "git" && c.has("push") && !c.has("--dry-run")) else {
            return Decision::abstain();
        };
        if push.has("--force") || push.has("-f") {
            return Decision::deny("a forced push throws away what others pushed").because("git push --force");
        }
        let dry = call.only_command().and_then(|c| Some(c.to_shell()? + " --dry-run"));
        match dry.and_then(|line| call.input_with("command", &line)) {
            Some(input) => Decision::allow().because("git push").with_input(input),
            None => Decision::ask("run git push as a command of its own: then it can be tried as a dry run"),
        }
    }
}

export_policy!(Hello);

#[cfg(test)]
mod tests {
    use beadle_plugin::{Command, Effect};

    use super::*;

    fn judge(commands: &[&[&str]]) -> Decision {
        let call = Call {
            tool: "Bash".to_owned(),
            input: r#"{"command":"as typed","description":"push"}"#.to_owned(),
            commands: commands.iter().map(|c| Command::of(c.iter().copied())).collect(),
            ..Call::default()
        };
        Hello.decide(&Session::default(), &call)
    }

    #[test]
    fn a_forced_push_is_denied_wherever_it_stands() {
        assert_eq!(judge(&[&["git", "push", "--force"]]).effect, Effect::Deny);
        assert_eq!(judge(&[&["ls"], &["/usr/bin/git", "-C", "x", "push", "-f"]]).effect, Effect::Deny);
    }

    #[test]
    fn a_push_becomes_a_dry_run_once() {
        let d = judge(&[&["git", "push", "origin", "my branch"]]);
        assert_eq!(d.effect, Effect::Allow);
        let input = d.updated_input.unwrap();
        assert_eq!(input, r#"{"command":"git push origin 'my branch' --dry-run","description":"push"}"#);
        assert_eq!(judge(&[&["git", "push", "--dry-run"]]).effect, Effect::Abstain);
        assert_eq!(judge(&[&["make"], &["git", "push"]]).effect, Effect::Ask);
    }

    #[test]
    fn the_rest_is_left_to_others() {
        assert_eq!(judge(&[&["git", "status"]]).effect, Effect::Abstain);
        assert_eq!(judge(&[]).effect, Effect::Abstain);
    }
}
