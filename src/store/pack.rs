//! One file instead of a folder: a tar archive (POSIX ustar) behind zstd, so that `tar --zstd -x` reads it too.
//!
//! Invariants: only regular files with names that fit, which is all that a backup has; unpacking makes nothing outside of its folder, no
//! more than what was said before, and no file that is there already is written over. Called by `backup`.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use super::backup::Copied;

const BLOCK: usize = 512;
/// Longest name; a blob's has 71 bytes. Before it, and a slash, there is room for folders.
const NAME: usize = 100;
const PREFIX: usize = 155;
/// Most bytes behind the end: other programs fill up a block of theirs.
const REST: u64 = 1 << 20;
/// Largest size that the header has room for in digits. Larger ones stand there as a number, as GNU tar and others have it.
const DIGITS_MAX: u64 = 0o77_777_777_777;
/// Says so.
const IS_NUMBER: u8 = 0x80;

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
    let no_place = || io::Error::other(format!("the name {name} has no place in a tar archive; back up to a folder"));
    let (prefix, rest) = if name.len() <= NAME {
        ("", name)
    } else {
        let fits = |at: &usize| *at <= PREFIX && name.len() - at - 1 <= NAME;
        let slash = name.match_indices('/').map(|(at, _)| at).find(fits).ok_or_else(no_place)?;
        (&name[..slash], &name[slash + 1..])
    };
    let mut h = [0; BLOCK];
    let mut put = |at: usize, text: &str| h[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, rest);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    if size <= DIGITS_MAX {
        put(124, &format!("{size:011o}\0"));
    }
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(345, prefix);
    if size > DIGITS_MAX {
        h[124] = IS_NUMBER;
        h[128..136].copy_from_slice(&size.to_be_bytes());
    }
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(h)
}

/// A packed folder that is being read.
pub struct Packed {
    input: zstd::stream::read::Decoder<'static, io::BufReader<File>>,
}

/// One file of it.
struct Entry {
    name: String,
    size: u64,
}

fn wrong(name: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name:?}: {what}"))
}

impl Packed {
    pub fn open(from: &Path) -> io::Result<Self> {
        Ok(Self { input: zstd::stream::read::Decoder::new(File::open(from)?)? })
    }

    /// The file that must be the first, of at most so many bytes.
    pub fn first(&mut self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let Some(entry) = self.next()?.filter(|e| e.name == name) else { return Err(wrong(name, "it is not the first file")) };
        if entry.size > most {
            return Err(wrong(name, &format!("it has {} bytes, at most {most} may be", entry.size)));
        }
        let mut bytes = Vec::new();
        (&mut self.input).take(entry.size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != entry.size {
            return Err(wrong(name, "it is cut"));
        }
        self.padding(entry.size)?;
        Ok(bytes)
    }

    /// Unpacks all others into a folder: exactly those that are wanted, each of just that size.
    pub fn rest(mut self, dir: &Path, mut wanted: HashMap<String, u64>) -> io::Result<()> {
        while let Some(Entry { name, size }) = self.next()? {
            match wanted.remove(&name) {
                Some(said) if said == size => {}
                Some(said) => return Err(wrong(&name, &format!("it has {size} bytes, {said} were written"))),
                None => return Err(wrong(&name, "it is not one that was written, or is there twice")),
            }
            let to = dir.join(&name);
            DirBuilder::new().recursive(true).mode(0o700).create(to.parent().unwrap_or(dir))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
            if io::copy(&mut (&mut self.input).take(size), &mut file)? != size {
                return Err(wrong(&name, "it is cut"));
            }
            self.padding(size)?;
        }
        // The rest is read, so that its checksum is.
        if io::copy(&mut (&mut self.input).take(REST + 1), &mut io::sink())? > REST {
            return Err(wrong("", "something follows its end"));
        }
        wanted.into_keys().next().map_or(Ok(()), |name| Err(wrong(&name, "it is missing")))
    }

    /// The next file; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut h = [0; BLOCK];
        self.input.read_exact(&mut h)?;
        if h.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let text = |at: std::ops::Range<usize>| String::from_utf8_lossy(h[at].split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let (prefix, rest) = (text(345..345 + PREFIX), text(0..NAME));
        let name = if prefix.is_empty() { rest } else { format!("{prefix}/{rest}") };
        if name.is_empty() || !Path::new(&name).components().all(|c| matches!(c, Component::Normal(_))) || h[156] != b'0' {
            return Err(wrong(&name, "not a regular file below the folder"));
        }
        let number: [u8; 8] = h[128..136].try_into().unwrap_or_default();
        let size = match h[124..128] {
            [IS_NUMBER, 0, 0, 0] => Some(u64::from_be_bytes(number)),
            _ => u64::from_str_radix(text(124..136).trim(), 8).ok(),
        };
        let size = size.ok_or_else(|| wrong(&name, "no size"))?;
        Ok(Some(Entry { name, size }))
    }

    fn padding(&mut self, size: u64) -> io::Result<()> {
        let over = size % BLOCK as u64;
        io::copy(&mut (&mut self.input).take((BLOCK as u64 - over) % BLOCK as u64), &mut io::sink()).map(drop)
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
        let unpack = |dir: &Path, wanted: &[(&str, u64)]| {
            let mut packed = Packed::open(&file)?;
            std::fs::write(dir.join("m"), packed.first("m", 5)?)?;
            packed.rest(dir, wanted.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect())
        };
        let said = [("blobs/ab/one", 512), ("two", 1_000)];
        unpack(&b, &said).unwrap();
        for (name, bytes) in &contents {
            assert_eq!(&std::fs::read(b.join(name)).unwrap(), bytes);
        }
        assert!(unpack(&b, &said).is_err(), "nothing is written over");
        let fresh = |name: &str| {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        for (n, other) in [vec![said[0]], vec![said[0], ("two", 999)], vec![said[0], said[1], ("three", 1)]].iter().enumerate() {
            let dir = fresh(&n.to_string());
            assert!(unpack(&dir, other).is_err(), "{other:?}");
            assert!(!dir.join("two").exists() || n == 2, "nothing that was not said");
        }
        let packed = std::fs::read(&file).unwrap();
        std::fs::write(&file, &packed[..packed.len() - 5]).unwrap();
        assert!(unpack(&fresh("c"), &said).is_err(), "a cut file");
        let tar = |entries: &[(&str, u64)], rest: usize| {
            let mut tar: Vec<u8> = entries.iter().flat_map(|(name, size)| header(name, *size).unwrap()).collect();
            tar.extend(vec![0; rest]);
            std::fs::write(&file, zstd::bulk::compress(&tar, 1).unwrap()).unwrap();
        };
        for name in ["../x", "/x", "a/../../x"] {
            tar(&[("m", 0), (name, 0)], 1_024);
            assert!(unpack(&fresh(&format!("d{}", name.len())), &[(name, 0)]).is_err(), "{name}");
        }
        // More than was said: a first file, and what follows the end, that grow without end.
        tar(&[("m", 6)], 1_024);
        assert!(unpack(&fresh("e"), &[]).unwrap_err().to_string().contains("at most 5"));
        tar(&[("m", 0)], 8 << 20);
        assert!(unpack(&fresh("f"), &[]).unwrap_err().to_string().contains("follows its end"));
        tar(&[("m", 0)], 4_096);
        unpack(&fresh("g"), &[]).unwrap();
        assert!(header(&"x".repeat(101), 0).is_err() && header(&format!("{}/x", "y".repeat(156)), 0).is_err());
        // A long name, and a file over 8 GiB.
        let long = format!("archives/{}", "z".repeat(100));
        for (name, size) in [(long.as_str(), 3), ("beadle.db", 9 << 30), ("beadle.db", DIGITS_MAX), ("beadle.db", u64::MAX)] {
            tar(&[(name, size)], 0);
            let entry = Packed::open(&file).unwrap().next().unwrap().unwrap();
            assert_eq!((entry.name.as_str(), entry.size), (name, size));
        }
    }
}
