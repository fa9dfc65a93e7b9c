//! The report that a session leaves, where one is expected.
//!
//! A report is `report.md` or `outputs/report.md` in the working directory or the write root: a regular file, written since the session began,
//! that lies in that folder also when links are followed; without one, what the agent gave the host's tool `report`.
//!
//! Called by `finish`.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::model::{Outcome, Session};

/// Where a report may stand, in the order of looking.
const NAMES: [&str; 2] = ["report.md", "outputs/report.md"];
/// A file's time is told by a clock that may be one tick behind.
const TICK_MS: i64 = 10;

/// What an end becomes by the rule: only an end that would be good by itself is asked for its report.
pub(super) fn ruled(session: &Session, outcome: Outcome) -> (Outcome, Option<String>) {
    if !session.record.report_expected || !matches!(outcome, Outcome::Succeeded | Outcome::Exited) {
        return (outcome, None);
    }
    match find(session) {
        Some(report) => (Outcome::Succeeded, Some(report.display().to_string())),
        // why second: a file is what was asked for, and can be opened.
        None if session.report.is_some() => (Outcome::Succeeded, session.report.clone()),
        None => (Outcome::MissingReport, None),
    }
}

/// Why a session ends with [`Outcome::MissingReport`].
pub(super) fn missing(session: &Session) -> String {
    let root = session.write_root.as_ref().filter(|r| **r != session.cwd).map(|r| format!(" or {r}")).unwrap_or_default();
    format!("a report is expected, and neither report.md nor outputs/report.md was written in {}{root} since its start", session.cwd)
}

fn find(session: &Session) -> Option<PathBuf> {
    let folders = [Some(&session.cwd), session.write_root.as_ref()];
    folders.into_iter().flatten().find_map(|f| NAMES.iter().find_map(|name| report(Path::new(f), name, session.created_at)))
}

fn report(folder: &Path, name: &str, since_ms: i64) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let path = folder.join(name).canonicalize().ok()?;
    let meta = path.metadata().ok()?;
    let written = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let is_new = i64::try_from(written.as_millis()).is_ok_and(|ms| ms.saturating_add(TICK_MS) >= since_ms);
    (path.starts_with(&folder) && meta.is_file() && is_new).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_report_is_a_new_regular_file_inside_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().canonicalize().unwrap().join("w");
        fs::create_dir_all(work.join("outputs")).unwrap();
        assert_eq!(report(&work, NAMES[0], 0), None);
        fs::write(work.join("outputs/report.md"), "x").unwrap();
        assert_eq!(report(&work, NAMES[1], 0), Some(work.join("outputs/report.md")));
        assert_eq!(report(&work, NAMES[1], i64::MAX), None, "older than the session");
        fs::create_dir(work.join("report.md")).unwrap();
        assert_eq!(report(&work, NAMES[0], 0), None, "a folder");
        fs::remove_dir(work.join("report.md")).unwrap();
        fs::write(dir.path().join("elsewhere"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), work.join("report.md")).unwrap();
        assert_eq!(report(&work, NAMES[0], 0), None, "a link that leaves the folder");
        fs::remove_file(work.join("report.md")).unwrap();
        std::os::unix::fs::symlink("outputs/report.md", work.join("report.md")).unwrap();
        assert_eq!(report(&work, NAMES[0], 0), Some(work.join("outputs/report.md")), "a link that stays in it");
        fs::remove_file(work.join("report.md")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, work.join("report.md"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(report(&work, NAMES[0], 0), None, "a pipe, which is not opened");
        assert_eq!(report(&dir.path().join("none"), NAMES[0], 0), None);
    }
}
