//! Denies the programs that its configuration names, however they are quoted, wrapped or spelled. A few runs of them may be free.

use beadle_plugin::capability::{Error, kv};
use beadle_plugin::{Call, Decision, Description, Policy, Session, config, export_policy};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the operator may set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Names of programs that must not run.
    programs: Vec<String>,
    /// How many runs of them a session has free; they are counted with the capability `kv`.
    free: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { programs: vec!["sudo".to_owned()], free: 0 }
    }
}

struct {{Type}} {
    programs: Vec<String>,
    free: u32,
}

impl {{Type}} {
    /// Whether one more run is free. What is written counts once the answer is recorded, and is there in the next call of the session.
    fn takes_a_free_run(&self) -> Result<bool, Error> {
        if self.free == 0 {
            return Ok(false);
        }
        let used = kv::get("runs")?.and_then(|v| String::from_utf8(v).ok()?.parse().ok()).unwrap_or(0);
        if used >= self.free {
            return Ok(false);
        }
        kv::set("runs", (used + 1).to_string().as_bytes())?;
        Ok(true)
    }
}

impl Policy for {{Type}} {
    fn describe() -> Description {
        Description::new("{{name}}", env!("CARGO_PKG_VERSION"), "Denies programs by their names.")
            .wanting("kv", "counts the free runs of a session, where `free` gives any")
            .with_config::<Config>()
    }

    fn configure(text: &str) -> Result<Self, String> {
        let Config { programs, free } = config::parse(text)?;
        Ok(Self { programs, free })
    }

    fn decide(&self, _session: &Session, call: &Call) -> Decision {
        // The host parsed the command: `sh -c`, pipes, substitutions and full paths to programs are all in here.
        let Some(found) = call.commands.iter().find(|c| self.programs.iter().any(|p| p == c.program())) else {
            return Decision::abstain();
        };
        match self.takes_a_free_run() {
            Ok(true) => Decision::abstain(),
            Ok(false) => Decision::deny(format!("{0} is not allowed here; find a way without {0}", found.program())).because(found.program()),
            // Without its state it cannot know; whoever reads the reason learns which grant is missing.
            Err(e) => Decision::deny(format!("the runs of {} cannot be counted: {e}", found.program())).because(found.program()),
        }
    }
}

export_policy!({{Type}});

#[cfg(test)]
mod tests {
    use beadle_plugin::{Command, Effect};

    use super::*;

    fn judge(config: &str, command: &[&str]) -> Decision {
        let call = Call { tool: "Bash".into(), commands: vec![Command::of(command.iter().copied())], ..Call::default() };
        {{Type}}::configure(config).expect("a good configuration").decide(&Session::default(), &call)
    }

    #[test]
    fn named_programs_are_denied_and_others_left_to_others() {
        assert_eq!(judge("{}", &["/usr/bin/sudo", "ls"]).effect, Effect::Deny);
        assert_eq!(judge(r#"{"programs":["curl"]}"#, &["curl", "x"]).rule.as_deref(), Some("curl"));
        assert_eq!(judge("{}", &["ls"]).effect, Effect::Abstain);
    }

    #[test]
    fn free_runs_are_counted() {
        // Natively, `kv` is a map of this test's thread.
        let runs: Vec<Effect> = (0..3).map(|_| judge(r#"{"free":2}"#, &["sudo", "ls"]).effect).collect();
        assert_eq!(runs, [Effect::Abstain, Effect::Abstain, Effect::Deny]);
    }

    #[test]
    fn a_wrong_key_is_named() {
        let wrong = {{Type}}::configure(r#"{"program":["x"]}"#).err().expect("refused");
        assert!(wrong.contains("program"), "{wrong}");
    }
}
