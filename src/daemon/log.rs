//! The daemon's own log: one file, bounded, rotated once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::Error;

/// Size at which the file becomes `daemon.log.1`, replacing an older one.
const LOG_MAX: u64 = 16 << 20;

/// Begins logging to `path`. A filter that cannot be read becomes `info`.
pub fn start(path: &Path, filter: &str) -> Result<(), Error> {
    let file = open(path).map_err(|source| Error::File { doing: "opening the log", path: path.to_owned(), source })?;
    let written = file.metadata().map_or(0, |m| m.len());
    let writer = Rotating { path: path.to_owned(), inner: Mutex::new((file, written)) };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // why ignore: a second daemon in one process (tests) keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).try_init();
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

struct Rotating {
    path: PathBuf,
    inner: Mutex<(File, u64)>,
}

struct Writer<'a>(&'a Rotating);

impl<'a> MakeWriter<'a> for Rotating {
    type Writer = Writer<'a>;
    fn make_writer(&'a self) -> Writer<'a> {
        Writer(self)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.1 >= LOG_MAX {
            let old = self.0.path.with_extension("log.1");
            std::fs::rename(&self.0.path, old)?;
            *inner = (open(&self.0.path)?, 0);
        }
        inner.0.write_all(buf)?;
        inner.1 += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
