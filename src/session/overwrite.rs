//! Puts stars over a text in the files of an ended session's folder: the agent's raw output and what else it left there.
//!
//! Invariants: no file changes its length, so that places in it stay; what could not be looked through or written is named. Called by
//! `keep`; blocks.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::store::forms;

/// Largest file that is looked through.
const FILE_MAX: u64 = 256 << 20;

/// What became of it.
#[derive(Debug, Default)]
pub struct Overwritten {
    pub files: Vec<PathBuf>,
    /// Files in which the text may still stand, and why.
    pub left: Vec<String>,
}

/// The end of one segment: the next one of its stream goes on from there.
struct End {
    stream: String,
    path: PathBuf,
    len: u64,
    tail: Vec<u8>,
}

/// In every file below the folder.
pub fn overwrite(dir: &Path, text: &str) -> Overwritten {
    let mut out = Overwritten::default();
    if !text.is_empty() {
        let forms: Vec<Vec<u8>> = forms(text).into_iter().map(String::into_bytes).collect();
        below(dir, &forms, &mut out);
        out.files.sort();
        out.files.dedup();
    }
    out
}

fn below(dir: &Path, forms: &[Vec<u8>], out: &mut Overwritten) {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        Err(e) => return out.left.push(format!("{} ({e})", dir.display())),
    };
    // Segments of a stream are then one behind the other.
    paths.sort();
    let mut before: Option<End> = None;
    for path in paths {
        match path.symlink_metadata() {
            Ok(m) if m.is_dir() => below(&path, forms, out),
            Ok(m) if m.is_file() && m.len() > FILE_MAX => out.left.push(format!("{} (over {} MiB)", path.display(), FILE_MAX >> 20)),
            Ok(m) if m.is_file() => match file(&path, forms, before.take(), out) {
                Ok(end) => before = end,
                Err(e) => out.left.push(format!("{} ({e})", path.display())),
            },
            Ok(_) => {}
            Err(e) => out.left.push(format!("{} ({e})", path.display())),
        }
    }
}

/// One file, and what reaches into it out of the segment before.
fn file(path: &Path, forms: &[Vec<u8>], before: Option<End>, out: &mut Overwritten) -> io::Result<Option<End>> {
    let bytes = std::fs::read(path)?;
    let found: Vec<(u64, usize)> = forms.iter().flat_map(|f| places(&bytes, f).map(|at| (at as u64, f.len()))).collect();
    if !found.is_empty() {
        stars(path, &found)?;
        out.files.push(path.to_owned());
    }
    let longest = forms.iter().map(Vec::len).max().unwrap_or(1) - 1;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(stream) = name.strip_suffix(".seg").and_then(|n| n.rsplit_once('-')).map(|(s, _)| s.to_owned()) else { return Ok(None) };
    if let Some(end) = before.filter(|e| e.stream == stream) {
        let seam = end.tail.len();
        let both = [&end.tail[..], &bytes[..bytes.len().min(longest)]].concat();
        for f in forms {
            for at in places(&both, f).filter(|at| *at < seam && at + f.len() > seam) {
                stars(&end.path, &[(end.len - (seam - at) as u64, seam - at)])?;
                stars(path, &[(0, at + f.len() - seam)])?;
                out.files.extend([end.path.clone(), path.to_owned()]);
            }
        }
    }
    let tail = bytes[bytes.len().saturating_sub(longest)..].to_vec();
    Ok(Some(End { stream, path: path.to_owned(), len: bytes.len() as u64, tail }))
}

fn places<'b>(bytes: &'b [u8], form: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    bytes.windows(form.len()).enumerate().filter(move |(_, w)| *w == form).map(|(at, _)| at)
}

fn stars(path: &Path, places: &[(u64, usize)]) -> io::Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    places.iter().try_for_each(|(at, len)| file.write_all_at(&vec![b'*'; *len], *at))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_in_every_form_and_over_the_seam_of_two_segments() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "-----KEY\nab\"c\n-----";
        let line = serde_json::json!({ "x": secret }).to_string();
        let twice = serde_json::json!({ "y": line }).to_string();
        let (plain, seam) = (format!("a {secret} b"), secret.as_bytes().split_at(7));
        std::fs::create_dir(dir.path().join("attempt-2")).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("plain", plain.as_bytes());
        write("attempt-2/line", line.as_bytes());
        write("twice", twice.as_bytes());
        write("out-000.seg", &[b"one ", seam.0].concat());
        write("out-011.seg", &[seam.1, b" two"].concat());
        // Not of the same stream: nothing goes on from the one to the other.
        write("err-000.seg", seam.0);
        write("log-000.seg", seam.1);
        let done = overwrite(dir.path(), secret);
        assert_eq!((done.files.len(), done.left), (5, vec![]));
        let read = |name: &str| String::from_utf8(std::fs::read(dir.path().join(name)).unwrap()).unwrap();
        assert_eq!(read("plain"), format!("a {} b", "*".repeat(secret.len())));
        assert_eq!((read("out-000.seg").as_str(), read("out-011.seg").as_str()), ("one *******", "************ two"));
        for (name, was) in [("attempt-2/line", &line), ("twice", &twice)] {
            assert!(!read(name).contains("KEY") && !read(name).contains("ab") && read(name).len() == was.len(), "{}", read(name));
        }
        assert_eq!((read("err-000.seg").as_bytes(), read("log-000.seg").as_bytes()), seam);
    }

    #[test]
    fn what_is_not_looked_through_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("huge")).unwrap().set_len(FILE_MAX + 1).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
        let done = overwrite(dir.path(), "hush");
        assert!(done.files.is_empty() && done.left.len() == 1 && done.left[0].contains("huge (over 256 MiB)"), "{:?}", done.left);
        assert!(overwrite(&dir.path().join("gone"), "hush").left[0].contains("gone"));
    }
}
