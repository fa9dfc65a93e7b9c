//! Allow: whether a command is exactly what a pattern names, and does no more than the pattern's author could see.
//!
//! Invariant: nothing unknown is taken for a match; what an argument or an assignment can make a known program do
//! beyond its name has to be spelled in the rule. Called by `judge`.

use beadle_plugin::Word;

use crate::Fit;
use crate::Roots;
use crate::command::{Pattern, Piece, View, may_become};
use crate::glob::{self, certain_start};
use crate::program;

/// Why an allow pattern that speaks of a command does not cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap<'a> {
    /// A word that the pattern needs is known to the shell alone.
    Unknown(&'a Word),
    /// This assignment can change what runs.
    Assignment(&'a Word),
    /// This argument makes the program start another one or write elsewhere.
    Power(&'a Word),
}

/// How an allow pattern relates to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover<'a> {
    No,
    But(Gap<'a>),
    Yes,
}

impl Pattern {
    /// For allow. `at_root` tells that relative programs start from the session's folder.
    pub fn covers<'a>(&self, view: &'a View<'_>, at_root: bool, inner_listed: bool, roots: &Roots<'_>) -> Cover<'a> {
        if !view.program.exact || !self.program_covers(view, at_root, roots) {
            return Cover::No;
        }
        let home = if view.name == "git" && at_home(&view.args, roots) { 2 } else { 0 };
        let skip = home + program::harmless_globals(view.name, &view.args[home..]);
        let cover = match self.words_cover(&view.args) {
            Cover::Yes => Cover::Yes,
            other if skip == 0 => other,
            other => match self.words_cover(&view.args[skip..]) {
                Cover::No => other,
                better => better,
            },
        };
        if cover != Cover::Yes {
            return cover;
        }
        let spelled_env = |w: &Word| w.exact && self.env.iter().any(|p| p.is(&w.text));
        if let Some(word) = view.command.env.iter().find(|w| !program::harmless_env(w) && !spelled_env(w)) {
            return Cover::But(Gap::Assignment(word));
        }
        let spelled = |text: &str| self.rest.iter().any(|p| matches!(p, Piece::Exact(w) if **w == *text));
        match program::power(view.name, &view.args[home..], spelled, inner_listed) {
            Some(word) => Cover::But(Gap::Power(word)),
            None => match compares_outside(view, roots).filter(|w| !spelled(&w.text)) {
                Some(word) => Cover::But(Gap::Power(word)),
                None => Cover::Yes,
            },
        }
    }

    fn program_covers(&self, view: &View<'_>, at_root: bool, roots: &Roots<'_>) -> bool {
        let text = view.program.text.as_str();
        let by_system =
            || ["/usr/bin/", "/bin/", "/usr/local/bin/", "/usr/sbin/", "/sbin/"].iter().any(|d| text.strip_prefix(d) == Some(view.name));
        match &self.program {
            Piece::Many => !text.contains('/') || by_system(),
            Piece::Exact(want) if !want.contains('/') => **want == *text || (by_system() && **want == *view.name),
            piece => {
                // A path: `./x` in the rule is the one in the session's folder, wherever the command stands.
                let level = |t: &[u8]| t.iter().filter(|b| **b == b'/').count();
                let same = |t: &str| match piece {
                    Piece::Exact(want) => **want == *t,
                    Piece::Glob(glob) => level(glob) == level(t.as_bytes()) && glob::matches(glob, t.as_bytes()),
                    Piece::Many => false,
                };
                if text.split('/').any(|n| n == "..") {
                    return false;
                }
                if text.starts_with('/') {
                    let below = text.strip_prefix(roots.root).and_then(|t| t.strip_prefix('/'));
                    return same(text) || below.is_some_and(|t| same(&format!("./{t}")));
                }
                same(text) && (at_root || !text.contains('/'))
            }
        }
    }

    fn words_cover<'a>(&self, args: &'a [Word]) -> Cover<'a> {
        let (mut p, mut a) = (0, 0);
        let mut back: Option<(usize, usize)> = None;
        let mut unknown = None;
        loop {
            match (self.rest.get(p), args.get(a)) {
                (None, None) => return Cover::Yes,
                (None, Some(_)) if self.open => return Cover::Yes,
                (Some(Piece::Many), _) => {
                    p += 1;
                    back = Some((p, a));
                    continue;
                }
                (Some(piece), Some(word)) if word.exact && piece.is(&word.text) => {
                    (p, a) = (p + 1, a + 1);
                    continue;
                }
                (Some(piece), Some(word)) if !word.exact && may_become(piece, &certain_start(&word.text)) != Fit::No => {
                    unknown = unknown.or(Some(word));
                }
                (None, Some(word)) if !word.exact && certain_start(&word.text).is_empty() => unknown = unknown.or(Some(word)),
                _ => {}
            }
            match back {
                Some((piece, from)) if from < args.len() => {
                    (p, a) = (piece, from + 1);
                    back = Some((piece, from + 1));
                }
                _ => return unknown.map_or(Cover::No, |w| Cover::But(Gap::Unknown(w))),
            }
        }
    }
}

/// A word by which `git diff` could print a file outside the session's folder, which it compares like any other two files.
fn compares_outside<'a>(view: &'a View<'_>, roots: &Roots<'_>) -> Option<&'a Word> {
    if view.name != "git" || program::git_subcommand(&view.args) != "diff" {
        return None;
    }
    view.args.iter().filter(|w| !w.text.starts_with('-')).find(|w| {
        let below = |t: &str| t.strip_prefix(roots.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let known = w.exact || !w.text.contains(['$', '`', '~']);
        !known || w.text.split('/').any(|n| n == "..") || (w.text.starts_with('/') && !below(&w.text))
    })
}

/// `git -C <the session's folder> …` is the same as without it.
fn at_home(args: &[Word], roots: &Roots<'_>) -> bool {
    matches!(args, [c, dir, ..] if c.exact && c.text == "-C" && dir.exact && (dir.text == "." || dir.text == roots.root))
}
