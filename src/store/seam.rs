//! What `verify` asks of archives and erasures: a file that is missing or damaged is not a forgery, and an erasure that no event tells
//! of is one.
//!
//! Called by `verify`, once a session.

use std::collections::HashMap;

use rusqlite::Connection;

use crate::model::Event;

use super::archive::Archive;
use super::chain::Hash;
use super::error::{Error, Result};
use super::report::{Report, What};
use super::sqlite::{RawEvent, archives_of};

/// Most erasures that a report names; more are only counted.
pub const MAX_ERASURES: usize = 1_000;

/// What is gathered along one session's log.
pub struct Seam {
    archives: Vec<Archive>,
    /// Behind the last archived event, where some archive cannot be read.
    pub begin: Option<(u64, Hash)>,
    /// What stands in place of erased bodies, by seq.
    erased: HashMap<u64, Hash>,
    /// The newest word of the log on that.
    told: HashMap<u64, Option<String>>,
    digests: Vec<String>,
}

impl Seam {
    /// Looks whether every archive is there as it was written.
    pub fn new(conn: &Connection, report: &mut Report, id: &str, no: i64) -> Result<Self> {
        let archives = archives_of(conn, no, 0)?;
        let mut lost = false;
        for a in &archives {
            report.archives += 1;
            if let Err(e) = a.check() {
                let what = if matches!(e, Error::Archive { missing: true, .. }) { What::ArchiveMissing } else { What::ArchiveDamaged };
                report.find(Some(id), Some(a.first), what, e.to_string());
                lost = true;
            }
        }
        let begin = archives.last().filter(|_| lost).map(|a| (a.last, a.head));
        Ok(Self { archives, begin, erased: HashMap::new(), told: HashMap::new(), digests: Vec::new() })
    }

    pub fn saw(&mut self, raw: &RawEvent<'_>, event: Option<&Event>) {
        if !raw.commitment.is_empty() {
            self.erased.insert(raw.seq, Hash::of(raw.body));
        }
        match event {
            Some(Event::SecretRedacted(r)) => {
                self.told.insert(r.seq, r.digest.clone());
                self.digests.extend(r.archive.clone());
            }
            Some(Event::SessionArchived(a)) => self.digests.push(a.digest.clone()),
            _ => {}
        }
    }

    /// Compares what was seen with what the log tells of it.
    pub fn finish(self, report: &mut Report, id: &str) {
        let mut erased: Vec<_> = self.erased.into_iter().collect();
        erased.sort_unstable_by_key(|(seq, _)| *seq);
        for (seq, digest) in erased {
            match self.told.get(&seq) {
                Some(Some(told)) if *told == digest.to_string() => {
                    report.erased += 1;
                    if report.erasures.len() < MAX_ERASURES {
                        report.erasures.push((id.to_owned(), seq));
                    }
                }
                Some(_) => report.find(Some(id), Some(seq), What::Changed, "what stands in place of its erased body was changed"),
                None => report.find(Some(id), Some(seq), What::Changed, "its body was taken away, and no event tells of an erasure"),
            }
        }
        for a in &self.archives {
            // why only of whole ones: the digest of the others is not that of their bytes.
            if !self.digests.contains(&a.digest.to_string()) {
                let detail = format!("the archive of events {} to {} is not one that the log tells of", a.first, a.last);
                report.find(Some(id), Some(a.first), What::Changed, detail);
            }
        }
    }
}
