//! The standard policy `budget`: how much a session may do, last and cost.
//!
//! # Configuration
//! ```json
//! {
//!   "calls": 500,
//!   "denied": { "soft": 10, "hard": 50 },
//!   "sub_agents": 4,
//!   "turns": 30,
//!   "wall": "2h",
//!   "tokens": 5000000,
//!   "output_tokens": 200000,
//!   "cost_usd": { "soft": 5, "hard": "12.50" },
//!   "unpriced": "deny"
//! }
//! ```
//! Every key is optional; a limit is a number (`hard`), or `soft`, `hard` or both. From `soft` on each call is asked about, from `hard`
//! on it is denied. Without a reached limit the policy abstains; it never allows.
//!
//! | key | counts | how exactly |
//! | --- | --- | --- |
//! | `calls` | tool calls, the denied and the asked ones too | exact: `hard = N` lets N calls through, also when many are asked about at once |
//! | `denied` | calls that were denied | exact: after N denied calls nothing more runs |
//! | `sub_agents` | sub-agents that were started, and those that an allowed or waiting call is about to start | exact; only calls that start one are stopped |
//! | `turns` | turns that have ended | exact: after N turns no call runs and no further prompt is given |
//! | `wall` | time since the session was created, by the host's clock: seconds, or `"90s"`, `"30m"`, `"2h"`, `"1d"` | exact when a call is asked about; what runs already is not stopped |
//! | `tokens`, `output_tokens` | all tokens (input, output, cache reads and writes), or output alone | to within one model response |
//! | `cost_usd` | cost of the responses with a known price; a number or a decimal text, to the billionth | to within one model response |
//!
//! *To within one model response*: usage is known when a response is complete, so the response during which a limit is passed is paid
//! for. Responses that the agent's stream does not show by themselves (of sub-agents, titles, compaction) are counted with the turn's
//! end. A response without a known price makes the cost a lower bound: `unpriced` says what a session with a `cost_usd` limit gets then,
//! `deny` (as it is without the key), `ask`, or `ignore`.
//!
//! Prompts are judged too: once `turns`, `wall`, `tokens`, `output_tokens` or `cost_usd` is used up (`hard`), a further prompt is refused,
//! because it would begin a turn.
//!
//! The session's record has no counts for each tool, so there are no limits for each tool; rules and `paths` say what a tool may do.
//!
//! Called by the host as a component, and natively by tests through [`Budget`].

mod amount;
mod config;
mod judge;

pub use config::Budget;

use beadle_plugin::{Call, Decision, Description, JudgePrompt, Prompt, PromptAnswer, Session, export_policy};

impl beadle_plugin::Policy for Budget {
    fn describe() -> Description {
        Description::new(
            "budget",
            env!("CARGO_PKG_VERSION"),
            "Limits calls, denied calls, sub-agents, turns and time exactly; tokens and money to within one model response.",
        )
        .with_schema(include_str!("config.schema.json"))
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::read(config)
    }

    fn decide(&self, session: &Session, call: &Call) -> Decision {
        self.judge(session, call)
    }
}

impl JudgePrompt for Budget {
    fn judge_prompt(&self, session: &Session, prompt: &Prompt) -> PromptAnswer {
        self.refusal(session, prompt.at_ms).map_or_else(PromptAnswer::pass, PromptAnswer::refuse)
    }
}

export_policy!(Budget: JudgePrompt);
