//! Where a command stands: the working directories it can have after the `cd`s before it.
//!
//! Invariant: a set that is a superset of what can be, or unknown. A `cd` that may fail leaves both places.
//!
//! Called by `walk`; read by `policy::call` to resolve relative paths.

/// At most this many places are told apart; more are unknown.
pub const MAX_PLACES: usize = 4;

/// The possible working directories of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs(Option<Vec<String>>);

impl Dirs {
    /// The call's own working directory.
    pub fn start() -> Self {
        Self(Some(vec![String::new()]))
    }

    pub const fn unknown() -> Self {
        Self(None)
    }

    /// Behind an `exit`: nothing runs from here on.
    pub(super) const fn nowhere() -> Self {
        Self(Some(Vec::new()))
    }

    /// The places: an empty text for the call's working directory, else a path that is absolute, starts with `~`, or is relative to it.
    /// `None` when not known.
    pub fn places(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    /// After `cd` to an exact `path`.
    #[must_use]
    pub fn enter(&self, path: &str) -> Self {
        if path.starts_with(['/', '~']) {
            return Self(Some(vec![path.to_owned()]));
        }
        Self(
            self.0
                .as_ref()
                .map(|places| places.iter().map(|p| if p.is_empty() { path.to_owned() } else { format!("{p}/{path}") }).collect()),
        )
    }

    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let (Some(mine), Some(theirs)) = (&self.0, &other.0) else { return Self(None) };
        let mut all = mine.clone();
        for place in theirs {
            if !all.contains(place) {
                all.push(place.clone());
            }
        }
        if all.len() > MAX_PLACES { Self(None) } else { Self(Some(all)) }
    }

    /// True when nothing is possible here that is not possible in `other`.
    pub fn within(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (_, None) => true,
            (None, _) => false,
            (Some(mine), Some(theirs)) => mine.iter().all(|p| theirs.contains(p)),
        }
    }
}
