//! Our sum beside the agent's own total: what the difference is, and whether it is one.
//!
//! Invariant: a difference within [`tolerance`] is agreement, because agents add up binary fractions of a dollar; all else is said.
//! Called by `session` (the fold, and `session::usage`) and `api`.

use serde::{Deserialize, Serialize};

use super::usage::Nanousd;

/// A millionth of a dollar, and a millionth of the total.
pub const fn tolerance(theirs: Nanousd) -> Nanousd {
    1_000 + theirs / 1_000_000
}

/// Both sums at the end of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciliation {
    /// Sum over responses with a known price; none where no response has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<Nanousd>,
    pub theirs: Nanousd,
    /// `ours` less `theirs`, where all responses have a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<i64>,
    pub tolerance: Nanousd,
    pub agrees: bool,
    /// Where they do not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Reconciliation {
    /// `unpriced` responses are not in `ours`. Without any response nothing was used, and a total of nothing agrees.
    pub fn of(ours: Option<Nanousd>, unpriced: u64, theirs: Nanousd) -> Self {
        let known = (unpriced == 0).then(|| ours.unwrap_or(0));
        let difference = known.and_then(|o| i64::try_from(i128::from(o) - i128::from(theirs)).ok());
        let tolerance = tolerance(theirs);
        let agrees = difference.is_some_and(|d| d.unsigned_abs() <= tolerance);
        Self { ours, theirs, difference, tolerance, agrees, why: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_within_the_tolerance_and_unknown_is_none() {
        let at = |ours, unpriced, theirs| {
            let r = Reconciliation::of(ours, unpriced, theirs);
            (r.agrees, r.difference)
        };
        assert_eq!(at(Some(1_000_000), 0, 1_000_000), (true, Some(0)));
        assert_eq!(at(Some(1_001_001), 0, 1_000_000), (true, Some(1_001)));
        assert_eq!(at(Some(1_001_002), 0, 1_000_000), (false, Some(1_002)));
        assert_eq!(at(Some(0), 0, 1_000_000), (false, Some(-1_000_000)));
        assert_eq!(at(Some(1_000_000), 1, 1_000_000), (false, None), "what is not known does not agree");
        assert_eq!((at(None, 0, 0), at(None, 0, 5_000)), ((true, Some(0)), (false, Some(-5_000))));
        assert_eq!(at(Some(u64::MAX), 0, 0), (false, None), "a difference that does not fit is none");
    }
}
