//! Files in which erased words may still stand and which an erasure does not change: archives elsewhere that no log needs any more,
//! requests of queued sessions, backups, data folders that a restore moved aside.
//!
//! Invariants: nothing is opened but regular files; what cannot be looked through is named too; at most [`NAMED_MAX`] of each kind.
//! Called by `session::keep`; blocks.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::Store;
use super::backup::drafts_of;
use super::erase::{Erase, cut, forms};
use super::error::{Doing, Result};
use super::folder::REQUESTS;
use super::host::BackupMade;
use super::sqlite;
use crate::model::{RESTORED, SessionArchived, SessionId};

/// Most files of one kind that are named.
const NAMED_MAX: usize = 100;
/// Bytes after which a file is named without having been read to its end.
const LOOKED_MAX: u64 = 1 << 30;
/// Bytes that are looked through at once.
const PIECE: usize = 1 << 20;

impl Store {
    /// Each with what it is. `since` is when the session began (wall milliseconds): what is older has nothing of it.
    pub fn remains(&self, id: &SessionId, since: i64, what: &Erase) -> Result<Vec<String>> {
        let conn = sqlite::open_reader(&self.0.database)?;
        let forms = match what {
            Erase::Whole => None,
            Erase::Text(text) => Some(forms(text)),
        };
        let mut out = Vec::new();
        let mut name = |what: &str, paths: Vec<PathBuf>| {
            let holding = paths.into_iter().filter(|p| holds(p, forms.as_deref())).take(NAMED_MAX);
            out.extend(holding.map(|p| format!("{what}, {}", p.display())));
        };
        name("an archive that its log does not need any more", self.former_archives(&conn, id)?);
        name("what a queued session is to be started with", self.requests(id, what));
        let backups = backups(&conn, since)?;
        let begun = self.backups_begun()?.into_iter().filter(|p| !backups.contains(p));
        let cut_off: BTreeSet<PathBuf> = begun.flat_map(|p| drafts_of(&p).into_iter().chain([p])).collect();
        let mut name = |what: &str, paths: BTreeSet<PathBuf>| {
            out.extend(paths.into_iter().filter(|p| p.exists()).take(NAMED_MAX).map(|p| format!("{what}, {}", p.display())));
        };
        name("a backup", backups);
        name("what a backup that was cut off has left", cut_off);
        name("a data folder that a restore has left", self.former_folders(since));
        Ok(out)
    }

    /// Files outside of the data folder to which the session was archived, and what erasures made of them, that are not in force.
    fn former_archives(&self, conn: &Connection, id: &SessionId) -> Result<Vec<PathBuf>> {
        let (no, _) = self.0.pool.place(id)?;
        let mut told = BTreeSet::new();
        sqlite::raw_events(conn, no, 1, u64::MAX, |raw| {
            if raw.kind == b"session_archived"
                && let Ok(a) = serde_json::from_slice::<SessionArchived>(raw.body)
                && Path::new(&a.file).is_absolute()
            {
                told.insert(PathBuf::from(a.file));
            }
            Ok(true)
        })?;
        let in_force: Vec<PathBuf> = sqlite::archives_of(conn, no, 0)?.into_iter().map(|a| a.path).collect();
        let mut out: BTreeSet<PathBuf> = told.iter().flat_map(|path| beside(path)).chain(told.iter().cloned()).collect();
        out.retain(|p| !in_force.contains(p));
        Ok(out.into_iter().collect())
    }

    /// Whole data folders beside this one: what stood here before a restore, and what one that was cut off left.
    fn former_folders(&self, since: i64) -> BTreeSet<PathBuf> {
        let (Some(dir), Some(name)) = (self.0.dir.parent(), self.0.dir.file_name()) else { return BTreeSet::new() };
        let is_former = |n: &str| {
            let Some(rest) = n.strip_prefix(&*name.to_string_lossy()) else { return false };
            match rest.strip_prefix(".before-") {
                Some(at) => at.parse::<i64>().map_or(true, |at| at >= since),
                None => rest.starts_with(".restoring") || rest == RESTORED,
            }
        };
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.filter(|f| is_former(&f.file_name().to_string_lossy())).map(|f| f.path()).collect()
    }

    /// Where a text is erased, those of all sessions: it may stand in any.
    fn requests(&self, id: &SessionId, what: &Erase) -> Vec<PathBuf> {
        let (folder, suffix) = REQUESTS;
        let own = format!("{id}{suffix}");
        let files = std::fs::read_dir(self.0.dir.join(folder)).into_iter().flatten().flatten();
        let named = files.filter(|f| {
            let name = f.file_name();
            if *what == Erase::Whole { name == *own } else { name.to_string_lossy().ends_with(suffix) }
        });
        named.map(|f| f.path()).collect()
    }
}

/// What rewriting an archive has left beside it: its name with a number in it.
fn beside(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(stem)) = (path.parent(), path.file_stem()) else { return vec![] };
    let begin = format!("{}.", stem.to_string_lossy());
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = files.filter(|f| f.file_name().to_str().is_some_and(|n| n.starts_with(&begin) && n.ends_with(".zst")));
    named.map(|f| f.path()).collect()
}

fn backups(conn: &Connection, since: i64) -> Result<BTreeSet<PathBuf>> {
    const DOING: &str = "looking for backups";
    let mut stmt = conn.prepare("SELECT body FROM host_events WHERE kind = 'backup_made' AND at >= ?1 ORDER BY seq").doing(DOING)?;
    let bodies = stmt.query_map([since], |r| r.get::<_, Vec<u8>>(0)).doing(DOING)?.collect::<rusqlite::Result<Vec<_>>>().doing(DOING)?;
    Ok(bodies.iter().filter_map(|b| serde_json::from_slice::<BackupMade>(b).ok()).map(|b| PathBuf::from(b.to)).collect())
}

/// Whether a text stands in a file in any of its forms, or it cannot be known; without forms, whether it is there.
fn holds(path: &Path, forms: Option<&[String]>) -> bool {
    if !path.symlink_metadata().is_ok_and(|m| m.is_file()) {
        return false;
    }
    let Some(forms) = forms else { return true };
    let read = || -> io::Result<bool> {
        let mut file = File::open(path)?;
        if path.extension().is_some_and(|e| e == "zst") {
            return stands_in(&mut zstd::stream::read::Decoder::new(file)?, forms);
        }
        stands_in(&mut file, forms)
    };
    read().unwrap_or(true)
}

fn stands_in(input: &mut dyn Read, forms: &[String]) -> io::Result<bool> {
    let longest = forms.iter().map(String::len).max().unwrap_or(1).max(1);
    let (mut piece, mut seen, mut block) = (Vec::new(), 0, vec![0; PIECE]);
    loop {
        let n = input.read(&mut block)?;
        seen += n as u64;
        piece.extend_from_slice(&block[..n]);
        if cut(&piece, forms).is_some() || seen > LOOKED_MAX {
            return Ok(true);
        }
        if n == 0 {
            return Ok(false);
        }
        // What may begin at the end of this piece and go on in the next.
        piece.drain(..piece.len().saturating_sub(longest - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_over_the_seam_of_two_pieces_and_what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let forms = forms("hush \"zebra\"");
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let long = [vec![b'x'; PIECE - 3], br#"hush \"zebra\" and so on"#.to_vec()].concat();
        assert!(holds(&file("a", &long), Some(&forms)));
        assert!(holds(&file("b.zst", &zstd::bulk::compress(&long, 1).unwrap()), Some(&forms)));
        assert!(!holds(&file("c.zst", &zstd::bulk::compress(&long[..PIECE], 1).unwrap()), Some(&forms)));
        assert!(holds(&file("d.zst", b"no archive"), Some(&forms)), "nobody knows");
        assert!(!holds(&dir.path().join("gone"), None) && !holds(dir.path(), None) && holds(&file("e", b""), None));
    }
}
