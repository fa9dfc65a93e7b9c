//! Denies the programs that its configuration names, however they are quoted, wrapped or spelled.

use beadle_plugin::{Call, Decision, Description, Policy, Session, config, export_policy};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the operator may set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Names of programs that must not run.
    programs: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { programs: vec!["sudo".to_owned()] }
    }
}

struct {{Type}} {
    programs: Vec<String>,
}

impl Policy for {{Type}} {
    fn describe() -> Description {
        Description::new("{{name}}", env!("CARGO_PKG_VERSION"), "Denies programs by their names.").with_config::<Config>()
    }

    fn configure(text: &str) -> Result<Self, String> {
        let Config { programs } = config::parse(text)?;
        Ok(Self { programs })
    }

    fn decide(&self, _session: &Session, call: &Call) -> Decision {
        // The host parsed the command: `sh -c`, pipes, substitutions and full paths to programs are all in here.
        let found = call.commands.iter().find(|c| self.programs.iter().any(|p| p == c.program()));
        match found {
            Some(c) => Decision::deny(format!("{0} is not allowed here; find a way without {0}", c.program())).because(c.program()),
            None => Decision::abstain(),
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
    fn a_wrong_key_is_named() {
        let wrong = {{Type}}::configure(r#"{"program":["x"]}"#).err().expect("refused");
        assert!(wrong.contains("program"), "{wrong}");
    }
}
