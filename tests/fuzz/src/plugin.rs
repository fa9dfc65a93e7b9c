//! The engine's reader of answers; for the engine itself, of which the chain names two types, nobody makes any here.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Call, Decision, FailureCause, Session};

#[path = "../../../src/plugin/answer.rs"]
pub mod answer;

/// The form of a question that plugins take.
pub struct Question;

impl Question {
    pub fn new(_session: &Session, _call: &Call, _at_ms: i64) -> Self {
        Self
    }
}

pub struct CallFailure {
    pub cause: FailureCause,
    pub detail: String,
}

/// A loaded plugin: there is none.
pub enum Plugin {}

impl Plugin {
    pub async fn decide(self: &Arc<Self>, _question: &Arc<Question>, _deadline: Duration) -> Result<Decision, CallFailure> {
        match **self {}
    }

    pub fn digest(&self) -> &str {
        match *self {}
    }
}
