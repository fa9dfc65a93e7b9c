//! Every name that is exported: one table, of one version of the semantic conventions.
//!
//! The version is pinned on purpose: the GenAI part is "in development" and renames things between releases. 1.41.0 is the last release of
//! the conventions' own repository that has the whole GenAI part; afterwards it moved to a repository without a release. What the
//! conventions have no name for begins with `beadle.`.

/// The semantic conventions that names follow.
pub const VERSION: &str = "1.41.0";
/// What a receiver can translate from.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.41.0";
/// Instrumentation scope.
pub const SCOPE: &str = "beadle";

pub const SERVICE_NAME: &str = "service.name";
pub const SERVICE_VERSION: &str = "service.version";
pub const SERVICE_INSTANCE: &str = "service.instance.id";
pub const ERROR_TYPE: &str = "error.type";
pub const OVERFLOW: &str = "otel.metric.overflow";

pub const OPERATION: &str = "gen_ai.operation.name";
pub const PROVIDER: &str = "gen_ai.provider.name";
pub const CONVERSATION: &str = "gen_ai.conversation.id";
pub const AGENT_NAME: &str = "gen_ai.agent.name";
pub const AGENT_VERSION: &str = "gen_ai.agent.version";
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub const RESPONSE_ID: &str = "gen_ai.response.id";
pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub const CACHE_READ_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
pub const CACHE_CREATION_TOKENS: &str = "gen_ai.usage.cache_creation.input_tokens";
pub const REASONING_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";
pub const TOKEN_TYPE: &str = "gen_ai.token.type";
pub const TOOL_NAME: &str = "gen_ai.tool.name";
pub const TOOL_CALL_ID: &str = "gen_ai.tool.call.id";
pub const TOOL_TYPE: &str = "gen_ai.tool.type";
/// Content: only where the operator says so.
pub const TOOL_ARGUMENTS: &str = "gen_ai.tool.call.arguments";
pub const TOOL_RESULT: &str = "gen_ai.tool.call.result";

/// Values of `gen_ai.operation.name`.
pub const CHAT: &str = "chat";
pub const EXECUTE_TOOL: &str = "execute_tool";
pub const INVOKE_AGENT: &str = "invoke_agent";
/// A provider that nothing tells.
pub const UNKNOWN: &str = "unknown";

pub const COST: &str = "beadle.cost_usd";
pub const SESSION_NAME: &str = "beadle.session.name";
pub const OUTCOME: &str = "beadle.outcome";
pub const MEDIATION: &str = "beadle.mediation";
pub const OWNER: &str = "beadle.owner";
pub const PHASE: &str = "beadle.phase";
pub const PARENT: &str = "beadle.parent";
pub const REASON: &str = "beadle.reason";
pub const PROMPT: &str = "beadle.prompt";
/// Followed by the label's key.
pub const LABEL: &str = "beadle.label.";
pub const CALLS: &str = "beadle.calls";
pub const CALLS_DENIED: &str = "beadle.calls.denied";
pub const BREACHES: &str = "beadle.breaches";
pub const TURNS: &str = "beadle.turns";
pub const ATTEMPT: &str = "beadle.attempt";
pub const TIER: &str = "beadle.tier";
pub const WHY: &str = "beadle.attempt.why";
pub const EXIT_CODE: &str = "beadle.exit_code";
pub const SIGNAL: &str = "beadle.signal";
pub const TOOL_KIND: &str = "beadle.tool.kind";
pub const CALL: &str = "beadle.call";
/// The call's result never came.
pub const UNFINISHED: &str = "beadle.call.unfinished";
pub const EFFECT: &str = "beadle.decision.effect";
pub const BY: &str = "beadle.decision.by";
pub const RULE: &str = "beadle.decision.rule";
pub const POLICY: &str = "beadle.decision.policy";
pub const LATENCY: &str = "beadle.decision.latency_us";
pub const CHANGED: &str = "beadle.decision.input_changed";
pub const STATE: &str = "beadle.approval.state";
pub const APPROVER: &str = "beadle.approval.by";
pub const BREACH: &str = "beadle.breach";
pub const ACTION: &str = "beadle.breach.action";
pub const TRIGGER: &str = "beadle.compaction.trigger";
pub const STRATEGY: &str = "beadle.compaction.strategy";
pub const TOKENS_BEFORE: &str = "beadle.compaction.tokens_before";
pub const TOKENS_AFTER: &str = "beadle.compaction.tokens_after";
pub const RESULT: &str = "beadle.result";
pub const LIMIT: &str = "beadle.limit";
pub const CAUSE: &str = "beadle.cause";
pub const KIND: &str = "beadle.token.kind";
/// A correction of a message that was told already: its numbers are the difference.
pub const CORRECTION: &str = "beadle.correction";
/// The beginning is not in the log any more; the span begins where it ends.
pub const START_UNKNOWN: &str = "beadle.start_unknown";

/// How a metric is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Only grows.
    Sum,
    /// In buckets up to these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub shape: Shape,
    pub help: &'static str,
}

/// Bounds that the conventions give.
const TOKENS: Shape = Shape::Histogram(&[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
]);
const SECONDS: Shape = Shape::Histogram(&[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]);
/// Decisions take microseconds.
const FAST: Shape = Shape::Histogram(&[25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 500e-3, 2.5]);

pub const TOKEN_USAGE: Metric = Metric {
    name: "gen_ai.client.token.usage",
    unit: "{token}",
    shape: TOKENS,
    help: "Input and output tokens of each model call, cached ones among the input",
};
pub const OPERATION_DURATION: Metric = Metric {
    name: "gen_ai.client.operation.duration",
    unit: "s",
    shape: SECONDS,
    help: "Duration of model calls, tool calls and sessions",
};
pub const USAGE_TOKENS: Metric =
    Metric { name: "beadle.usage.tokens", unit: "{token}", shape: Shape::Sum, help: "Tokens by model and kind, cached ones apart" };
pub const USAGE_COST: Metric =
    Metric { name: "beadle.usage.cost", unit: "{USD}", shape: Shape::Sum, help: "Cost of model calls with a known price, in US dollars" };
pub const USAGE_UNPRICED: Metric =
    Metric { name: "beadle.usage.unpriced", unit: "{response}", shape: Shape::Sum, help: "Model calls whose cost is unknown" };
pub const DECISIONS: Metric =
    Metric { name: "beadle.tool.decisions", unit: "{decision}", shape: Shape::Sum, help: "Tool calls decided, by effect and by whom" };
pub const DECISION_DURATION: Metric = Metric {
    name: "beadle.tool.decision.duration",
    unit: "s",
    shape: FAST,
    help: "From reading a question until its decision, waiting for a person excluded",
};
pub const APPROVALS: Metric =
    Metric { name: "beadle.approval.answers", unit: "{approval}", shape: Shape::Sum, help: "Questions to a person, by how they ended" };
pub const MEDIATION_BREACHES: Metric = Metric {
    name: "beadle.mediation.breaches",
    unit: "{breach}",
    shape: Shape::Sum,
    help: "Tools that ran without, or against, a decision",
};
pub const SESSION_ENDS: Metric =
    Metric { name: "beadle.session.ends", unit: "{session}", shape: Shape::Sum, help: "Sessions that ended, by outcome" };
pub const ATTEMPT_ENDS: Metric =
    Metric { name: "beadle.attempt.ends", unit: "{attempt}", shape: Shape::Sum, help: "Attempts that ended, by outcome" };
pub const COMPACTIONS: Metric =
    Metric { name: "beadle.compactions", unit: "{compaction}", shape: Shape::Sum, help: "Conversations made shorter, or not" };
pub const POLICY_FAILURES: Metric =
    Metric { name: "beadle.policy.failures", unit: "{failure}", shape: Shape::Sum, help: "Failures of policies, by cause" };

/// All of them.
pub const METRICS: [Metric; 13] = [
    TOKEN_USAGE,
    OPERATION_DURATION,
    USAGE_TOKENS,
    USAGE_COST,
    USAGE_UNPRICED,
    DECISIONS,
    DECISION_DURATION,
    APPROVALS,
    MEDIATION_BREACHES,
    SESSION_ENDS,
    ATTEMPT_ENDS,
    COMPACTIONS,
    POLICY_FAILURES,
];

impl Metric {
    /// What the metric is called in Prometheus, as its OTLP receiver and the collector's exporters translate it.
    pub fn prometheus(&self) -> Vec<String> {
        let base = self.name.replace('.', "_");
        let base = if self.unit == "s" { format!("{base}_seconds") } else { base };
        match self.shape {
            Shape::Sum => vec![format!("{base}_total")],
            Shape::Histogram(_) => ["_bucket", "_count", "_sum"].iter().map(|s| format!("{base}{s}")).collect(),
        }
    }
}

/// The provider that a model's name tells.
pub fn provider(model: &str) -> &'static str {
    const KNOWN: [(&str, &str); 10] = [
        ("claude", "anthropic"),
        ("gpt", "openai"),
        ("o1", "openai"),
        ("o3", "openai"),
        ("o4", "openai"),
        ("codex", "openai"),
        ("gemini", "gcp.gemini"),
        ("mistral", "mistral_ai"),
        ("deepseek", "deepseek"),
        ("grok", "x_ai"),
    ];
    KNOWN.iter().find(|(start, _)| model.starts_with(start)).map_or(UNKNOWN, |(_, p)| p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_named_once_and_has_rising_bounds() {
        let mut names: Vec<_> = METRICS.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for m in METRICS {
            if let Shape::Histogram(bounds) = m.shape {
                assert!(bounds.windows(2).all(|w| w[0] < w[1]), "{}", m.name);
            }
        }
        assert_eq!(USAGE_COST.prometheus(), ["beadle_usage_cost_total"]);
        assert_eq!(OPERATION_DURATION.prometheus()[1], "gen_ai_client_operation_duration_seconds_count");
    }

    #[test]
    fn the_schema_is_that_of_the_version() {
        assert!(SCHEMA_URL.ends_with(VERSION));
        assert_eq!((provider("claude-opus-4-8"), provider("gpt-5"), provider("llama")), ("anthropic", "openai", UNKNOWN));
    }
}
