//! Places: the file patterns of `Read(…)`, `Edit(…)` and `Write(…)`.
//!
//! `./x` and `x` lie in the session's folder, `~/x` in the home folder, `//x` is absolute. `*` and `?` stay inside one
//! name, `**` stands for any number of folders.
//!
//! Invariants, so that doubt never loosens:
//! - ask and deny patterns also match everything below what they name, and a single name such as `.env` at any depth;
//! - allow patterns match exactly what is written; `./src/**` lets one read the folder itself but not replace it;
//! - comparison is by bytes: no case folding, no Unicode normalisation.
//!
//! Called by `policy` (compiling) and `judge`.

use beadle_plugin::PathUse;

use crate::glob::{self, ONE, STAR};
use crate::notation::Fault;
use crate::{Fit, Roots};

/// Most segments of one pattern.
const SEGMENT_LIMIT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Root,
    Home,
    Absolute,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Exact(Box<str>),
    Glob(Box<[u8]>),
    /// `**`
    Deep,
}

/// A compiled place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    base: Base,
    segments: Vec<Segment>,
}

impl Place {
    /// Compiles a specifier that starts at byte `at` of its rule. `strict` is for ask and deny rules.
    pub fn parse(specifier: &str, at: usize, strict: bool) -> Result<Self, Fault> {
        let (base, rest) = if let Some(rest) = specifier.strip_prefix("//") {
            (Base::Absolute, rest)
        } else if let Some(rest) = specifier.strip_prefix("~/") {
            (Base::Home, rest)
        } else if let Some(rest) = specifier.strip_prefix("./") {
            (Base::Root, rest)
        } else if specifier.starts_with('/') {
            return Err(Fault::new(at, format!("/{specifier} for an absolute path, or .{specifier} for one in the project")));
        } else if specifier == "~" || specifier == "." {
            return Err(Fault::new(at, format!("{specifier}/** for everything below the folder")));
        } else if specifier.starts_with('~') {
            return Err(Fault::new(at, "~/ followed by a path; other users' homes are written as //home/…"));
        } else if specifier.starts_with('!') {
            return Err(Fault::new(at, "a path; instead of an exception write a rule of another list"));
        } else {
            (Base::Root, specifier)
        };
        let start = at + specifier.len() - rest.len();
        let mut segments = Vec::new();
        let mut offset = start;
        for name in rest.split('/') {
            match name {
                "" | "." => {}
                ".." => return Err(Fault::new(offset, "no `..` in a path")),
                "**" if segments.last() == Some(&Segment::Deep) => {}
                "**" => segments.push(Segment::Deep),
                name => segments.push(segment(name, offset)?),
            }
            offset += name.len() + 1;
        }
        if segments.len() > SEGMENT_LIMIT {
            return Err(Fault::new(start, format!("at most {SEGMENT_LIMIT} names in a path")));
        }
        if rest.ends_with('/') && segments.last() != Some(&Segment::Deep) {
            segments.push(Segment::Deep);
        }
        if segments.is_empty() && base != Base::Absolute {
            segments.push(Segment::Deep);
        }
        if strict {
            // What is below is matched anyway.
            while segments.last() == Some(&Segment::Deep) {
                segments.pop();
            }
            if base == Base::Root && !specifier.contains('/') && !segments.is_empty() {
                segments.insert(0, Segment::Deep);
            }
        }
        Ok(Self { base, segments })
    }

    /// For ask and deny: how a path that the call uses relates to this place. `deep` is for uses that may go down into folders.
    pub fn hits(&self, path: &PathUse, exact: bool, deep: bool, roots: &Roots<'_>) -> Fit {
        if self.contains(&path.absolute, roots) || (path.resolved != path.absolute && self.contains(&path.resolved, roots)) {
            return Fit::Yes;
        }
        let doubt = (deep && (self.lies_in(&path.absolute, roots) || self.lies_in(&path.resolved, roots)))
            || (!exact && self.may_contain(path, roots));
        if doubt { Fit::May } else { Fit::No }
    }

    /// For ask and deny: whether an absolute path is this place or below it.
    pub fn contains(&self, path: &str, roots: &Roots<'_>) -> bool {
        self.relative(path, roots).is_some_and(|rest| fits(&self.segments, rest, true))
    }

    /// For allow: whether an absolute path is of this place.
    pub fn covers(&self, path: &str, read: bool, roots: &Roots<'_>) -> bool {
        let Some(rest) = self.relative(path, roots) else { return false };
        match self.segments.split_last() {
            Some((Segment::Deep, before)) if fits(before, rest, false) => read,
            _ => fits(&self.segments, rest, false),
        }
    }

    /// Whether this is a folder with everything below it, such as `./src/**`.
    pub fn is_whole_folder(&self) -> bool {
        self.segments.split_last().is_some_and(|(last, lead)| *last == Segment::Deep && lead.iter().all(|s| matches!(s, Segment::Exact(_))))
    }

    /// The part of a path below the base, without a leading slash.
    fn relative<'p>(&self, path: &'p str, roots: &Roots<'_>) -> Option<&'p str> {
        let base = self.base(roots)?;
        let rest = path.strip_prefix(base)?;
        match rest.strip_prefix('/') {
            Some(rest) => Some(rest),
            None if rest.is_empty() || base.is_empty() => Some(rest),
            None => None,
        }
    }

    /// Without a trailing slash; `None` where the session has no home.
    fn base<'r>(&self, roots: &Roots<'r>) -> Option<&'r str> {
        match self.base {
            Base::Root => Some(roots.root),
            Base::Home => roots.home,
            Base::Absolute => Some(""),
        }
    }

    /// The folder that surely holds all of this place, as names below `/`.
    fn lead<'a>(&'a self, roots: &Roots<'a>) -> Option<impl Iterator<Item = &'a str>> {
        let named = self.segments.iter().map_while(|s| match s {
            Segment::Exact(name) => Some(&**name),
            _ => None,
        });
        Some(names(self.base(roots)?).chain(named))
    }

    fn is_plain(&self) -> bool {
        self.segments.iter().all(|s| matches!(s, Segment::Exact(_)))
    }

    /// Whether something of this place can lie below a folder.
    fn lies_in(&self, folder: &str, roots: &Roots<'_>) -> bool {
        let Some(lead) = self.lead(roots) else { return false };
        match relation(lead, names(folder)) {
            Relation::Apart => false,
            Relation::FirstBelow | Relation::Same => true,
            Relation::SecondBelow => !self.is_plain(),
        }
    }

    /// Whether a path that is not known exactly can be of this place.
    fn may_contain(&self, path: &PathUse, roots: &Roots<'_>) -> bool {
        // Only names made by `*`, `?` and `[…]` stay in their folder; variables and braces can hold `..`.
        let globs_only = path.written.contains(['*', '?', '[']) && !path.written.contains(['$', '`', '{', '~', '(', '\\', '\'', '"']);
        if !globs_only || path.written.split('/').any(|n| n.starts_with('.') && n != "." && n.contains(['*', '?', '['])) {
            return true;
        }
        let known = path.absolute.find(['*', '?', '[']).unwrap_or(path.absolute.len());
        let folder_end = path.absolute[..known].rfind('/').unwrap_or(0);
        let (folder, open) = (&path.absolute[..folder_end], path.absolute[folder_end..].trim_start_matches('/'));
        let Some(lead) = self.lead(roots) else { return false };
        match relation(lead, names(folder)) {
            Relation::Apart => false,
            Relation::Same | Relation::FirstBelow | Relation::SecondBelow if open.contains('/') => true,
            Relation::FirstBelow => {
                // The unknown name is a folder above the place, or the place's own name.
                let depth = names(folder).count();
                self.lead(roots).and_then(|mut l| l.nth(depth)).is_some_and(|name| could_be(open, name.as_bytes()))
            }
            Relation::Same | Relation::SecondBelow => match self.segments.last() {
                Some(Segment::Exact(name)) => !self.is_plain() && could_be(open, name.as_bytes()),
                Some(Segment::Glob(glob)) => could_meet(open, glob),
                Some(Segment::Deep) | None => true,
            },
        }
    }
}

enum Relation {
    Same,
    /// The first lies below the second.
    FirstBelow,
    SecondBelow,
    Apart,
}

fn relation<'a>(mut first: impl Iterator<Item = &'a str>, mut second: impl Iterator<Item = &'a str>) -> Relation {
    loop {
        match (first.next(), second.next()) {
            (None, None) => return Relation::Same,
            (Some(_), None) => return Relation::FirstBelow,
            (None, Some(_)) => return Relation::SecondBelow,
            (Some(a), Some(b)) if a == b => {}
            _ => return Relation::Apart,
        }
    }
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|n| !n.is_empty())
}

/// A shell's pattern for one name as our own; a bracket expression counts as any run, which is wider.
fn shell_glob(open: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(open.len());
    let mut rest = open;
    while let Some(c) = rest.chars().next() {
        match c {
            '*' | '[' => out.push(STAR),
            '?' => out.push(ONE),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        let step = if c == '[' { rest.find(']').map_or(rest.len(), |i| i + 1) } else { c.len_utf8() };
        rest = &rest[step..];
    }
    out
}

fn could_be(open: &str, name: &[u8]) -> bool {
    glob::matches(&shell_glob(open), name)
}

/// Whether some name fits both patterns: told by what is fixed at their two ends.
fn could_meet(open: &str, glob: &[u8]) -> bool {
    let ours = shell_glob(open);
    let fixed = |b: &&u8| **b != STAR && **b != ONE;
    let head = ours.iter().zip(glob).take_while(|(a, b)| fixed(a) && fixed(b)).all(|(a, b)| a == b);
    let tail = ours.iter().rev().zip(glob.iter().rev()).take_while(|(a, b)| fixed(a) && fixed(b)).all(|(a, b)| a == b);
    head && tail
}

/// One name of a pattern. Backslash takes the meaning from what follows.
fn segment(name: &str, at: usize) -> Result<Segment, Fault> {
    let mut out = Vec::with_capacity(name.len());
    let mut glob = false;
    let mut chars = name.char_indices().peekable();
    while let Some((i, c)) = chars.next() {
        match c {
            '*' if chars.peek().is_some_and(|(_, n)| *n == '*') => {
                return Err(Fault::new(at + i, "`**` alone between slashes"));
            }
            '*' => {
                out.push(STAR);
                glob = true;
            }
            '?' => {
                out.push(ONE);
                glob = true;
            }
            '[' => return Err(Fault::new(at + i, "no character class; write `\\[` for a bracket")),
            '{' => return Err(Fault::new(at + i, "no braces; write one rule for each, or `\\{` for a brace")),
            '\\' => match chars.next() {
                Some((_, c)) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                None => return Err(Fault::new(at + i, "a character after `\\`")),
            },
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    match String::from_utf8(out) {
        Ok(text) if !glob => Ok(Segment::Exact(text.into())),
        Ok(text) => Ok(Segment::Glob(text.into_bytes().into())),
        Err(e) => Ok(Segment::Glob(e.into_bytes().into())),
    }
}

/// Whether the names of `rest` fit the segments; with `below`, further names may follow.
fn fits(segments: &[Segment], rest: &str, below: bool) -> bool {
    let (mut s, mut rest) = (0, rest);
    let mut back: Option<(usize, &str)> = None;
    loop {
        match segments.get(s) {
            Some(Segment::Deep) => {
                s += 1;
                back = Some((s, rest));
                continue;
            }
            None if rest.is_empty() || below => return true,
            Some(segment) if !rest.is_empty() => {
                let (name, after) = rest.split_once('/').unwrap_or((rest, ""));
                let same = match segment {
                    Segment::Exact(want) => **want == *name,
                    Segment::Glob(glob) => glob::matches(glob, name.as_bytes()),
                    Segment::Deep => true,
                };
                if same {
                    (s, rest) = (s + 1, after);
                    continue;
                }
            }
            _ => {}
        }
        let Some((at, from)) = back else { return false };
        if from.is_empty() {
            return false;
        }
        let (_, after) = from.split_once('/').unwrap_or((from, ""));
        (s, rest) = (at, after);
        back = Some((at, after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beadle_plugin::Access;

    const ROOTS: Roots<'static> = Roots { root: "/project", home: Some("/home/u") };

    fn covers(rule: &str, path: &str) -> bool {
        Place::parse(rule, 0, false).unwrap().covers(path, true, &ROOTS)
    }

    fn hits(rule: &str, path: &str) -> bool {
        Place::parse(rule, 0, true).unwrap().contains(path, &ROOTS)
    }

    #[test]
    fn allow_means_what_is_written() {
        for (rule, path, want) in [
            ("./src/**", "/project/src/a/b.rs", true),
            ("./src/**", "/project/src", true),
            ("./src/**", "/project/srcs/a", false),
            ("./src/**", "/other/project/src/a", false),
            ("./**", "/project", true),
            ("./**", "/projects/x", false),
            ("./src/*.rs", "/project/src/a.rs", true),
            ("./src/*.rs", "/project/src/a/b.rs", false),
            ("./**/*.rs", "/project/a.rs", true),
            ("./**/*.rs", "/project/x/y/a.rs", true),
            ("./a/**/z/*.c", "/project/a/z/q/z/b.c", true),
            ("Makefile", "/project/Makefile", true),
            ("Makefile", "/project/sub/Makefile", false),
            ("./src", "/project/src/a", false),
            ("./src/", "/project/src/a", true),
            ("~/notes/*", "/home/u/notes/x", true),
            ("~/notes/*", "/home/v/notes/x", false),
            ("//etc/hosts", "/etc/hosts", true),
            ("//**", "/etc/hosts", true),
            ("./a?c", "/project/abc", true),
            ("./\\[id\\]/p", "/project/[id]/p", true),
            ("./Src/**", "/project/src/a", false),
        ] {
            assert_eq!(covers(rule, path), want, "{rule} {path}");
        }
        let src = Place::parse("./src/**", 0, false).unwrap();
        assert!(!src.covers("/project/src", false, &ROOTS) && src.covers("/project/src/a", false, &ROOTS));
    }

    #[test]
    fn deny_reaches_below_and_finds_names_at_any_depth() {
        for (rule, path, want) in [
            (".env", "/project/.env", true),
            (".env", "/project/a/b/.env", true),
            (".env", "/project/.env.local", false),
            ("*.pem", "/project/keys/x.pem", true),
            ("./.env", "/project/a/.env", false),
            ("./secrets", "/project/secrets/deep/x", true),
            ("./secrets/**", "/project/secrets", true),
            ("//etc/**", "/etc", true),
            ("~/.ssh/**", "/home/u/.ssh/id_rsa", true),
            ("~/.ssh/**", "/home/u/.sshx", false),
            ("//**/id_rsa", "/any/where/id_rsa", true),
            ("//", "/anything", true),
        ] {
            assert_eq!(hits(rule, path), want, "{rule} {path}");
        }
    }

    #[test]
    fn unknown_paths_may_be_hit() {
        let path = |written: &str| PathUse {
            written: written.into(),
            absolute: format!("/project/{written}"),
            resolved: format!("/project/{written}"),
            access: Access::Read,
            exact: false,
        };
        for (rule, written, want) in [
            ("./.env", "src/*.rs", Fit::No),
            ("*.pem", "src/*.rs", Fit::No),
            ("*.pem", "src/*", Fit::May),
            ("./.env", "*", Fit::May),
            ("./.env", ".e*", Fit::May),
            ("./secrets/**", "sec*", Fit::May),
            ("./secrets/**", "src*", Fit::No),
            ("./secrets/**", "*/x", Fit::May),
            ("./secrets/**", "secrets/*", Fit::Yes),
            ("./.env", "$F", Fit::May),
            ("./.env", "src/$F", Fit::May),
            ("./.env", "src/{a,../.env}", Fit::May),
            ("//etc/passwd", "src/*", Fit::No),
            ("./.env", "plain", Fit::May),
        ] {
            assert_eq!(Place::parse(rule, 0, true).unwrap().hits(&path(written), false, false, &ROOTS), want, "{rule} {written}");
        }
    }

    #[test]
    fn deep_uses_reach_into_folders() {
        for (rule, folder, want) in [
            ("./.env", "/project", Fit::May),
            ("./.env", "/project/src", Fit::No),
            ("*.pem", "/project/src", Fit::May),
            ("~/.ssh/**", "/project", Fit::No),
            ("~/.ssh/**", "/", Fit::May),
            ("./a/*/x", "/project/a/b", Fit::May),
        ] {
            let place = Place::parse(rule, 0, true).unwrap();
            assert_eq!(place.hits(&PathUse::of(folder, Access::Read), true, true, &ROOTS), want, "{rule} {folder}");
        }
    }

    #[test]
    fn faults() {
        for (rule, at) in
            [("/etc/x", 0), ("a/../b", 2), ("~x/y", 0), ("~", 0), ("!x", 0), ("a/b**", 3), ("a[b]", 1), ("{a,b}", 0), ("a\\", 1)]
        {
            assert_eq!(Place::parse(rule, 0, false).unwrap_err().at, at, "{rule}");
        }
        assert!(Place::parse(&"a/".repeat(SEGMENT_LIMIT + 1), 0, false).is_err());
    }
}
