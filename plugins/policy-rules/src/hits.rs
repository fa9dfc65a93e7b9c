//! Ask and deny: whether a command can be what a pattern names, however it is spelled.
//!
//! Invariant: [`Fit::No`] only where no expansion, option value or spelling could make it a match. Called by `judge`.

use beadle_plugin::Word;

use crate::Fit;
use crate::command::{Pattern, Piece, View, base_name, may_become};
use crate::glob::{self, can_split, certain_start};
use crate::program::{self, OptionKind};

impl Pattern {
    /// For ask and deny.
    pub fn hits(&self, view: &View<'_>) -> Fit {
        let program = self.program_fit(view);
        let mut fit = program;
        if fit != Fit::No {
            fit = fit.min(self.env_fit(view));
        }
        for option in &self.options {
            if fit == Fit::No {
                break;
            }
            fit = fit.min(option_fit(option, view));
        }
        if fit != Fit::No {
            fit = fit.min(self.places_fit(view));
        }
        if fit != Fit::Yes && program != Fit::No && view.name == "git" && git_alias(view) {
            fit = Fit::May;
        }
        match &self.joined {
            Some(joined) if fit != Fit::Yes && self.env.is_empty() => fit.max(joined_fit(joined, view)),
            _ => fit,
        }
    }

    fn program_fit(&self, view: &View<'_>) -> Fit {
        let text = view.program.text.as_str();
        if !view.program.exact && !view.name.is_empty() {
            return match &self.program {
                Piece::Exact(want) if base_name(want) == view.name => Fit::Yes,
                Piece::Exact(_) => Fit::No,
                Piece::Glob(glob) if !glob::matches(glob, view.name.as_bytes()) => Fit::No,
                _ => Fit::Yes,
            };
        }
        if !view.program.exact {
            let start = certain_start(text);
            return match &self.program {
                Piece::Exact(want) if !start.contains('/') && !want.starts_with(&start) => Fit::No,
                _ => Fit::May,
            };
        }
        match &self.program {
            Piece::Many => Fit::Yes,
            Piece::Glob(glob) if glob::matches(glob, text.as_bytes()) || glob::matches(glob, view.name.as_bytes()) => Fit::Yes,
            Piece::Glob(_) => Fit::No,
            Piece::Exact(want) if !want.contains('/') => {
                if **want == *view.name {
                    Fit::Yes
                } else {
                    Fit::No
                }
            }
            Piece::Exact(want) if base_name(want) != view.name => Fit::No,
            Piece::Exact(want) => {
                // The same file by another path, or another file of the same name: only the file system knows.
                let (want, have) = (want.trim_start_matches("./"), text.trim_start_matches("./"));
                let ends = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
                if !have.contains('/') || ends(have, want) || ends(want, have) { Fit::Yes } else { Fit::May }
            }
        }
    }

    fn env_fit(&self, view: &View<'_>) -> Fit {
        let one = |want: &Piece, w: &Word| match w.exact {
            true if want.is(&w.text) => Fit::Yes,
            true => Fit::No,
            false => may_become(want, &certain_start(&w.text)),
        };
        let best = |want| view.command.env.iter().map(|w| one(want, w)).max().unwrap_or(Fit::No);
        self.env.iter().map(best).min().unwrap_or(Fit::Yes)
    }

    /// Whether the words that are no options stand in the arguments in this order, options and their values skipped.
    ///
    /// Bit `p` of a set says that the first `p` places are found; `sure` holds for certain, `maybe` by a guess (the
    /// value of an option that is not known, an expansion). `eats` are those for which the next word is such a value.
    fn places_fit(&self, view: &View<'_>) -> Fit {
        let end = self.places.len();
        let done = 1u64 << end;
        let close = |mut set: u64| {
            for (p, piece) in self.places.iter().enumerate() {
                if set >> p & 1 == 1 && *piece == Piece::Many {
                    set |= 1 << (p + 1);
                }
            }
            set
        };
        let mut best = Fit::No;
        let (mut sure, mut maybe) = (close(1), 0u64);
        let (mut sure_eats, mut maybe_eats) = (0u64, 0u64);
        let mut options_end = false;
        for word in view.args.iter() {
            if self.open && sure & done != 0 {
                return Fit::Yes;
            }
            if self.open && maybe & done != 0 {
                best = Fit::May;
            }
            let (mut next_sure, mut next_maybe) = (sure_eats, maybe_eats);
            let (mut next_sure_eats, mut next_maybe_eats) = (0, 0);
            if !word.exact {
                let start = certain_start(&word.text);
                let splits = can_split(&word.text);
                let from = |set: u64| {
                    if set == 0 { 0 } else { (done << 1).wrapping_sub(1 << set.trailing_zeros()) & ((done << 1).wrapping_sub(1)) }
                };
                if splits {
                    next_maybe |= from(sure_eats | maybe_eats);
                }
                let live = sure | maybe;
                for p in bits(live) {
                    let fits = start.is_empty()
                        || start.starts_with('-')
                        || self.places.get(p).is_some_and(|piece| *piece == Piece::Many || may_become(piece, &start) != Fit::No);
                    if fits {
                        next_maybe |= if splits || start.is_empty() { from(1 << p) } else { 3 << p };
                        next_maybe_eats |= 1 << p;
                    }
                }
                next_maybe &= (done << 1).wrapping_sub(1);
            } else if !options_end && word.text.len() > 1 && word.text.starts_with('-') {
                next_sure |= sure;
                next_maybe |= maybe;
                if word.text == "--" {
                    options_end = true;
                } else {
                    match program::option_kind(view.name, &word.text) {
                        OptionKind::Alone => {}
                        OptionKind::TakesNext => {
                            (next_sure, next_maybe) = (sure_eats, maybe_eats);
                            (next_sure_eats, next_maybe_eats) = (sure, maybe);
                        }
                        OptionKind::NotKnown => next_maybe_eats = sure | maybe,
                    }
                }
            } else {
                for p in bits(sure | maybe) {
                    let Some(piece) = self.places.get(p) else { continue };
                    let step = match piece {
                        Piece::Many => 1 << p,
                        piece if piece.is(&word.text) => 1 << (p + 1),
                        _ => continue,
                    };
                    if sure >> p & 1 == 1 {
                        next_sure |= step;
                    }
                    if maybe >> p & 1 == 1 {
                        next_maybe |= step;
                    }
                }
            }
            (sure, maybe) = (close(next_sure), close(next_maybe));
            (sure_eats, maybe_eats) = (next_sure_eats, next_maybe_eats);
            if sure | maybe | sure_eats | maybe_eats == 0 {
                return best;
            }
        }
        if (sure | sure_eats) & done != 0 {
            Fit::Yes
        } else if (maybe | maybe_eats) & done != 0 {
            Fit::May
        } else {
            best
        }
    }
}

/// Whether git is told new names for its subcommands, so that the one it is given can be any.
fn git_alias(view: &View<'_>) -> bool {
    let config = view.args.windows(2).any(|w| {
        matches!(w[0].text.as_str(), "-c" | "--config-env")
            && w[0].exact
            && (!w[1].exact || w[1].text.to_ascii_lowercase().starts_with("alias."))
    });
    let attached = view.args.iter().any(|w| w.text.to_ascii_lowercase().starts_with("--config-env=alias."));
    config || attached || view.command.env.iter().any(|w| w.text.starts_with("GIT_CONFIG"))
}

/// Whether an option of a pattern is given, wherever it stands and however it is spelled.
fn option_fit(option: &Piece, view: &View<'_>) -> Fit {
    let mut best = Fit::No;
    let want = match option {
        Piece::Exact(want) => &**want,
        piece => {
            for w in view.args.iter() {
                best = best.max(if w.exact {
                    if piece.is(&w.text) { Fit::Yes } else { Fit::No }
                } else {
                    may_become(piece, &certain_start(&w.text))
                });
            }
            return best;
        }
    };
    let letters = want.strip_prefix('-').filter(|l| !l.starts_with('-') && l.len() <= 3 && l.bytes().all(|b| b.is_ascii_alphanumeric()));
    let letters = letters.filter(|_| !program::long_with_one_dash(view.name));
    let mut found = 0u8;
    for (at, word) in view.args.iter().enumerate() {
        let text = word.text.as_str();
        if !word.exact && program::is_message(view.name, &view.args, at) {
            continue;
        }
        if !word.exact {
            let start = certain_start(text);
            if start.is_empty() || start.starts_with('-') {
                best = Fit::May;
            }
            continue;
        }
        if program::is_commit_message(view.name, &view.args, at) {
            continue;
        }
        // A refspec with a plus is a forced push of that ref.
        if view.name == "git" && matches!(want, "--force" | "-f") && text.starts_with('+') && view.args.iter().any(|w| w.text == "push") {
            best = Fit::May;
        }
        let name = text.split('=').next().unwrap_or(text);
        if text == want || name == want {
            return Fit::Yes;
        }
        if let Some(letters) = letters {
            let cluster = text.strip_prefix('-').filter(|c| !c.starts_with('-')).unwrap_or("");
            for (i, letter) in letters.bytes().enumerate() {
                if cluster.bytes().any(|b| b == letter || program::same_option(view.name, letter, &format!("-{}", b as char)))
                    || (name.starts_with("--") && name.len() > 2 && long_is(view.name, letter, name))
                {
                    found |= 1 << i;
                }
            }
            if found == (1 << letters.len()) - 1 {
                return Fit::Yes;
            }
        } else if want.starts_with("--") {
            let short = text.strip_prefix('-').filter(|c| !c.starts_with('-'));
            if short.is_some_and(|c| c.bytes().any(|b| program::same_option(view.name, b, want))) {
                return Fit::Yes;
            }
            // GNU and git programs take any unambiguous beginning of a long option.
            if name.len() >= 4 && want.starts_with(name) {
                best = Fit::May;
            }
        }
    }
    best
}

fn long_is(program: &str, letter: u8, name: &str) -> bool {
    ["--recursive", "--force", "--delete", "--no-verify", "--all", "--in-place", "--extract", "--output", "--global", "--volume"]
        .iter()
        .any(|long| long.starts_with(name) && name.len() >= 4 && program::same_option(program, letter, long))
}

fn joined_fit(pattern: &[u8], view: &View<'_>) -> Fit {
    let text = |known: bool| {
        core::iter::once(glob::Piece::Known(view.name)).chain(view.args.iter().flat_map(move |w| {
            let piece = if w.exact || known { glob::Piece::Known(&w.text) } else { glob::Piece::Unknown };
            [glob::Piece::Known(" "), piece]
        }))
    };
    if glob::can_match(pattern, text(true)) {
        Fit::Yes
    } else if view.args.iter().any(|w| !w.exact) && glob::can_match(pattern, text(false)) {
        Fit::May
    } else {
        Fit::No
    }
}

fn bits(set: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |p| set >> p & 1 == 1)
}
