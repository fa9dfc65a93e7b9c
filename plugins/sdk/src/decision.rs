//! Short ways to make a decision and a description.

use crate::{Decision, Description, Effect, Want};

impl Decision {
    /// No opinion: the other policies decide, and when all abstain the host's default (ask) holds.
    pub fn abstain() -> Self {
        Self::new(Effect::Abstain, "")
    }

    /// Let it run, unless another policy is stricter.
    pub fn allow() -> Self {
        Self::new(Effect::Allow, "")
    }

    /// A person must answer; the reason is what they read.
    pub fn ask(reason: impl Into<String>) -> Self {
        Self::new(Effect::Ask, reason)
    }

    /// Do not run it; the reason is given to the agent too, so say what it may do instead.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self::new(Effect::Deny, reason)
    }

    pub fn new(effect: Effect, reason: impl Into<String>) -> Self {
        Self { effect, reason: reason.into(), rule: None, updated_input: None }
    }

    /// Names the rule that led to it, in the policy's own notation.
    #[must_use]
    pub fn because(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// Replaces the tool's input by this JSON object. All policies judge the result once more, and a second rewrite is
    /// a deny: do not rewrite what was rewritten already.
    #[must_use]
    pub fn with_input(mut self, input: impl Into<String>) -> Self {
        self.updated_input = Some(input.into());
        self
    }
}

impl Description {
    /// A plugin without configuration that wants no capability.
    pub fn new(name: impl Into<String>, version: impl Into<String>, purpose: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            purpose: purpose.into(),
            config_schema: r#"{"type":"object","additionalProperties":false}"#.to_owned(),
            wants: Vec::new(),
        }
    }

    /// Sets the JSON Schema of the configuration.
    #[must_use]
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.config_schema = schema.into();
        self
    }

    /// Adds a capability that the plugin wants, with the line that the operator reads before granting it.
    #[must_use]
    pub fn wanting(mut self, capability: impl Into<String>, reason: impl Into<String>) -> Self {
        self.wants.push(Want { capability: capability.into(), reason: reason.into() });
        self
    }
}
