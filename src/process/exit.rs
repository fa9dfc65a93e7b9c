//! Reads the exit record that a shim wrote: whole, or not there. Called by `adopt` and by whoever shows an ended run.

use std::io::{self, Read};
use std::path::Path;

use super::{Error, Result};
use crate::wire::{EXIT_FILE, ExitRecord, MAX_EXIT_RECORD};

/// The record of an ended run; `None` while there is none.
pub fn read(run_dir: &Path) -> Result<Option<ExitRecord>> {
    let path = run_dir.join(EXIT_FILE);
    let mut text = String::new();
    let bad = |what| Error::BadRecord { path: path.clone(), what };
    match std::fs::File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file("open", &path)(e)),
        Ok(f) => f.take(MAX_EXIT_RECORD as u64 + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => bad("not text"),
            _ => Error::file("read", &path)(e),
        })?,
    };
    if text.len() > MAX_EXIT_RECORD {
        return Err(bad("too long"));
    }
    ExitRecord::decode(&text).map(Some).map_err(|m| bad(m.0))
}
