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

    #[must_use]
    pub fn in_round(self, _round: Option<&Arc<Round>>) -> Self {
        self
    }
}

/// What policies keep in a session: nothing here.
pub struct States;

/// One round of questions over it.
pub struct Round;

impl Round {
    pub fn new(_states: Arc<States>) -> Arc<Self> {
        Arc::new(Self)
    }

    pub fn commit(&self, _answered: &[&str]) {}

    pub fn drop_all(&self) {}
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

    pub fn keeps_state(&self) -> bool {
        match *self {}
    }
}
