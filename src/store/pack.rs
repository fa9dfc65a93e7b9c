//! One file instead of a folder: a tar archive (POSIX ustar) behind zstd, so that `tar --zstd -x` reads it too.
//!
//! Invariants: only regular files with short names, which is all that a backup has; unpacking makes nothing outside of its folder, and no
//! file that is there already is written over. Called by `backup`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use super::backup::Copied;

const BLOCK: usize = 512;
/// Longest name; a blob's has 71 bytes.
const NAME: usize = 100;
/// Largest size that the header has room for.
const SIZE_MAX: u64 = 0o77_777_777_777;

/// Packs the files of a folder, the manifest first. Synced.
pub fn pack(dir: &Path, manifest: &str, files: &[Copied], to: &Path) -> io::Result<()> {
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut out = zstd::stream::write::Encoder::new(out, 3)?;
    out.include_checksum(true)?;
    for name in std::iter::once(manifest).chain(files.iter().map(|f| f.path.as_str())) {
        let mut file = File::open(dir.join(name))?;
        let size = file.metadata()?.len();
        out.write_all(&header(name, size)?)?;
        let copied = io::copy(&mut file, &mut out)?;
        if copied != size {
            return Err(io::Error::other(format!("{name} changed while it was packed")));
        }
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.finish()?.sync_all()
}

fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    if name.len() > NAME || size > SIZE_MAX {
        return Err(io::Error::other(format!("{name} of {size} bytes has no place in a tar archive; back up to a folder")));
    }
    let mut h = [0; BLOCK];
    let mut put = |at: usize, text: &str| h[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(h)
}

/// Unpacks into a folder.
pub fn unpack(from: &Path, dir: &Path) -> io::Result<()> {
    let mut input = zstd::stream::read::Decoder::new(File::open(from)?)?;
    let mut h = [0; BLOCK];
    loop {
        input.read_exact(&mut h)?;
        if h.iter().all(|b| *b == 0) {
            // The rest is read, so that its checksum is.
            io::copy(&mut input, &mut io::sink())?;
            return Ok(());
        }
        let text = |at: std::ops::Range<usize>| String::from_utf8_lossy(h[at].split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let name = text(0..NAME);
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name:?}: {what}"));
        let path = Path::new(&name);
        if name.is_empty() || !path.components().all(|c| matches!(c, Component::Normal(_))) || h[156] != b'0' {
            return Err(wrong("not a regular file below the folder"));
        }
        let size = u64::from_str_radix(text(124..136).trim(), 8).map_err(|_| wrong("no size"))?;
        let to = dir.join(path);
        DirBuilder::new().recursive(true).mode(0o700).create(to.parent().unwrap_or(dir))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
        if io::copy(&mut (&mut input).take(size), &mut file)? != size {
            return Err(wrong("it is cut"));
        }
        let over = size % BLOCK as u64;
        io::copy(&mut (&mut input).take((BLOCK as u64 - over) % BLOCK as u64), &mut io::sink())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_back_and_nothing_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, file) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("x.tar.zst"));
        std::fs::create_dir_all(a.join("blobs/ab")).unwrap();
        std::fs::create_dir(&b).unwrap();
        let contents = [("m", vec![]), ("blobs/ab/one", vec![7; 512]), ("two", vec![9; 1000])];
        for (name, bytes) in &contents {
            std::fs::write(a.join(name), bytes).unwrap();
        }
        let copied = |name: &str| Copied { path: name.to_owned(), bytes: 0, digest: String::new() };
        pack(&a, "m", &[copied("blobs/ab/one"), copied("two")], &file).unwrap();
        unpack(&file, &b).unwrap();
        for (name, bytes) in &contents {
            assert_eq!(&std::fs::read(b.join(name)).unwrap(), bytes);
        }
        assert!(unpack(&file, &b).is_err(), "nothing is written over");
        let packed = std::fs::read(&file).unwrap();
        std::fs::write(&file, &packed[..packed.len() - 5]).unwrap();
        assert!(unpack(&file, &dir.path().join("c")).is_err(), "a cut file");
        for name in ["../x", "/x", "a/../../x"] {
            let mut tar = header(name, 0).unwrap().to_vec();
            tar.extend([0; 1024]);
            std::fs::write(&file, zstd::bulk::compress(&tar, 1).unwrap()).unwrap();
            assert!(unpack(&file, &dir.path().join("d")).is_err(), "{name}");
        }
        assert!(header(&"x".repeat(101), 0).is_err());
    }
}
