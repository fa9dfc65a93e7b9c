//! Paths as a policy sees them: joined, normalised, and resolved through symlinks.
//!
//! Invariants: what does not exist keeps its name behind the nearest ancestor that does; `..` behind a symlink goes up from the
//! symlink's target, as the kernel does; lookups are bounded ([`MAX_LOOKUPS`] for one call), past the bound nothing counts as resolved.
//!
//! Called by `policy::call`; `own` may use [`normalise`] and [`Resolver`] too.

use std::collections::HashMap;

/// Most file system lookups for one call.
pub const MAX_LOOKUPS: usize = 8192;
/// Most symlinks followed for one path, as the kernel has it.
pub const MAX_LINKS: usize = 40;
/// Longest path resolved, in bytes.
pub const MAX_PATH: usize = 4096;

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A symlink and its target.
    Link(String),
    Other,
    Missing,
}

/// The file system as far as the call record needs it. Asked for one absolute path at a time, a few times per path.
pub trait Paths {
    fn entry(&self, path: &str) -> Entry;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealPaths;

impl Paths for RealPaths {
    fn entry(&self, path: &str) -> Entry {
        match std::fs::symlink_metadata(path) {
            Ok(data) if data.is_symlink() => match std::fs::read_link(path).map(std::path::PathBuf::into_os_string) {
                Ok(target) => Entry::Link(target.to_string_lossy().into_owned()),
                Err(_) => Entry::Missing,
            },
            Ok(_) => Entry::Other,
            Err(_) => Entry::Missing,
        }
    }
}

/// `path` seen from the absolute `base`.
pub fn join(base: &str, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", base.trim_end_matches('/')) }
}

/// Without `.`, `..`, doubled and trailing slashes; `path` is absolute.
pub fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Resolves the paths of one call, with a memory of what it looked up.
pub struct Resolver<'a> {
    fs: &'a dyn Paths,
    seen: HashMap<String, Entry>,
    left: usize,
}

impl<'a> Resolver<'a> {
    pub fn new(fs: &'a dyn Paths) -> Self {
        Self { fs, seen: HashMap::new(), left: MAX_LOOKUPS }
    }

    /// The place that an absolute path (not normalised) leads to, and whether that is certain. Not certain past a bound, on a loop
    /// of links, and for places that differ by who asks (`/proc/self`, `/dev/fd`).
    pub fn resolve(&mut self, path: &str) -> (String, bool) {
        if path.len() > MAX_PATH || path.contains('\0') {
            return (normalise(path), false);
        }
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        let mut there = true;
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    there = true;
                    continue;
                }
                _ => done.push(part),
            }
            let place = format!("/{}", done.join("/"));
            if place == "/dev/fd"
                || (place.starts_with("/proc/")
                    && done.len() > 1
                    && !done[1].starts_with(|c: char| c.is_ascii_lowercase() && c != 's' && c != 't'))
            {
                return (normalise(&join(&place, &todo.iter().rev().cloned().collect::<Vec<_>>().join("/"))), false);
            }
            if !there {
                continue;
            }
            match self.entry(&place) {
                Some(Entry::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return (normalise(path), false);
                    }
                    done.pop();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Some(Entry::Other) => {}
                Some(Entry::Missing) => there = false,
                None => return (normalise(path), false),
            }
        }
        (format!("/{}", done.join("/")), true)
    }

    /// Whether something is there, links not followed; false past the bound.
    pub fn exists(&mut self, path: &str) -> bool {
        self.entry(&normalise(path)).is_some_and(|e| e != Entry::Missing)
    }

    fn entry(&mut self, path: &str) -> Option<Entry> {
        if let Some(entry) = self.seen.get(path) {
            return Some(entry.clone());
        }
        self.left = self.left.checked_sub(1)?;
        let entry = self.fs.entry(path);
        self.seen.insert(path.to_owned(), entry.clone());
        Some(entry)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Links as given; the listed other paths exist.
    pub struct Fake(pub &'static [(&'static str, &'static str)], pub &'static [&'static str]);

    impl Paths for Fake {
        fn entry(&self, path: &str) -> Entry {
            if let Some((_, to)) = self.0.iter().find(|(from, _)| *from == path) {
                return Entry::Link((*to).to_owned());
            }
            if self.1.contains(&path) { Entry::Other } else { Entry::Missing }
        }
    }

    #[test]
    fn links_are_followed_at_the_nearest_existing_ancestor() {
        let fs = Fake(&[("/w/l", "/etc"), ("/w/r", "../x"), ("/w/loop", "loop")], &["/w", "/etc", "/x", "/x/y"]);
        let mut resolver = Resolver::new(&fs);
        for (path, to, sure) in [
            ("/w/a/b", "/w/a/b", true),
            ("/w/l/passwd", "/etc/passwd", true),
            ("/w/l/../x", "/x", true),
            ("/w/r/y", "/x/y", true),
            ("/w/none/../l/q", "/etc/q", true),
            ("/w//./l", "/etc", true),
            ("/w/loop/x", "/w/loop/x", false),
            ("/proc/self/root/etc", "/proc/self/root/etc", false),
            ("/proc/123/cwd/x", "/proc/123/cwd/x", false),
            ("/dev/fd/3", "/dev/fd/3", false),
            ("/..", "/", true),
        ] {
            assert_eq!(resolver.resolve(path), (to.to_owned(), sure), "{path}");
        }
    }

    #[test]
    fn normalising_is_lexical() {
        for (path, to) in [("/a/./b//../c/", "/a/c"), ("/../..", "/"), ("/", "/")] {
            assert_eq!(normalise(path), to);
        }
        assert_eq!(join("/a/", "b"), "/a/b");
        assert_eq!(join("/a", "/b"), "/b");
    }
}
