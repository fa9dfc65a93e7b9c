//! What `verify` found.
//!
//! Invariants: a report has an end; what it leaves out is counted, and weighs less than all that it holds or as much.
//! Called by `verify` and `seam`.

use serde::Serialize;

/// Most findings in a report; more are only counted.
pub const MAX_FINDINGS: usize = 1_000;

/// What is wrong, in one word for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The database file itself is damaged.
    Database,
    /// A row is not what its hash says: a byte differs, or it stood elsewhere.
    Changed,
    /// Events are missing in the middle.
    Gap,
    /// Events are missing, or too many, at the end.
    Cut,
    /// The stored projection or a listing column differs from the replay.
    Projection,
    /// A head on the host chain or in the checkpoint is not in the log.
    Head,
    /// A signature does not fit.
    Signature,
    /// A session without a beginning on the host chain, or the other way round.
    Missing,
    /// A blob that an event names is missing or damaged.
    Blob,
    /// Frames are not gapless.
    Frames,
    /// An archive is not where it was put; its events are not read.
    ArchiveMissing,
    /// An archive has not the bytes that were written; its events are not read.
    ArchiveDamaged,
}

impl What {
    /// What stays in a report that is full: the log and the database first, then payloads, then archives.
    const fn weight(self) -> u8 {
        match self {
            Self::ArchiveMissing | Self::ArchiveDamaged => 0,
            Self::Blob => 1,
            _ => 2,
        }
    }
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `None` for the host chain and the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub what: What,
    pub detail: String,
}

/// What was read and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    pub sessions: u64,
    pub events: u64,
    pub host_events: u64,
    pub blobs: u64,
    pub archives: u64,
    /// Bodies that were erased in the open: no finding. Session and seq, at most 1,000, and how many.
    pub erasures: Vec<(String, u64)>,
    pub erased: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond the first 1,000.
    pub more: u64,
}

impl Report {
    /// True when everything fits.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn find(&mut self, session: Option<&str>, seq: Option<u64>, what: What, detail: impl Into<String>) {
        if self.findings.len() >= MAX_FINDINGS {
            self.more += 1;
            // why: a thousand archives on a disk that is away must not hide what is wrong with the log itself.
            let last = |weight| self.findings.iter().rposition(|f| f.what.weight() == weight);
            let Some(at) = (0..what.weight()).find_map(last) else { return };
            self.findings.remove(at);
        }
        self.findings.push(Finding { session: session.map(str::to_owned), seq, what, detail: detail.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weighs_more_has_its_place_in_a_full_report() {
        let mut r = Report::default();
        for n in 0..MAX_FINDINGS as u64 + 500 {
            r.find(Some("a"), Some(n), if n % 2 == 0 { What::ArchiveMissing } else { What::Blob }, "away");
        }
        assert_eq!((r.findings.len(), r.more), (MAX_FINDINGS, 500));
        r.find(Some("b"), Some(7), What::Changed, "its hash was changed");
        assert_eq!((r.findings.len(), r.more), (MAX_FINDINGS, 501));
        assert_eq!(r.findings.last().map(|f| (f.what, f.seq)), Some((What::Changed, Some(7))));
        let of = |w| r.findings.iter().filter(|f| f.what == w).count();
        assert_eq!((of(What::Blob), of(What::ArchiveMissing)), (750, 249));
        (0..MAX_FINDINGS).for_each(|_| r.find(None, None, What::Gap, "missing"));
        assert!(r.findings.iter().all(|f| matches!(f.what, What::Gap | What::Changed)));
    }
}
