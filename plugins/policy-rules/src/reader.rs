//! Programs that do nothing but read what they are given and print: where a Read rule allows the files, it allows these on them.
//!
//! Invariants: a short list of programs, each with the options that are known to name no other file, start nothing and write
//! nothing; every other option, every word that only the shell knows, and every operand that the record does not list as a file makes
//! the answer no. Recursion that follows links inside a folder (`grep -R`, `find -L`) is not among the options, because the record
//! resolves only the names that the command spells. Called by `allow`.

use beadle_plugin::{Call, Word};

use crate::sed;

/// What the words of a program are.
struct Reader {
    names: &'static [&'static str],
    /// Letters of short options that stand alone.
    flags: &'static str,
    /// Letters of short options that take a value, attached or as the next word.
    valued: &'static str,
    /// Long options that stand alone, without their dashes.
    long: &'static [&'static str],
    /// Long options that take a value, attached by `=` or as the next word.
    long_valued: &'static [&'static str],
    operands: Operands,
    /// A number alone is an option.
    numbers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operands {
    /// So many files at most; none is standard input.
    Files(usize),
    /// A pattern and then files, unless it is given with `-e`.
    Pattern,
    /// Plain text.
    Text,
}

const MANY: Operands = Operands::Files(usize::MAX);

/// A program without options.
const READER: Reader = Reader { names: &[], flags: "", valued: "", long: &[], long_valued: &[], operands: MANY, numbers: false };

const READERS: &[Reader] = &[
    Reader {
        names: &["cat"],
        flags: "AbeEnstTuv",
        valued: "",
        long: &["number", "number-nonblank", "show-all", "show-ends", "show-nonprinting", "show-tabs", "squeeze-blank"],
        long_valued: &[],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["head", "tail"],
        flags: "qvz",
        valued: "nc",
        long: &["quiet", "silent", "verbose", "zero-terminated"],
        long_valued: &["lines", "bytes"],
        operands: MANY,
        numbers: true,
    },
    // `wc -w` is left out: the host takes it for an option with a value.
    Reader {
        names: &["wc"],
        flags: "clmL",
        valued: "",
        long: &["bytes", "chars", "lines", "max-line-length", "words"],
        long_valued: &[],
        operands: MANY,
        ..READER
    },
    Reader { names: &["tac", "rev"], flags: "", valued: "", long: &[], long_valued: &[], operands: MANY, ..READER },
    Reader { names: &["nl"], flags: "p", valued: "bdfhilnsvw", long: &["no-renumber"], long_valued: &[], operands: MANY, ..READER },
    Reader {
        names: &["md5sum", "sha1sum", "sha224sum", "sha256sum", "sha384sum", "sha512sum", "b2sum", "cksum", "sum"],
        flags: "bt",
        valued: "",
        long: &["binary", "text", "tag"],
        long_valued: &[],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["cmp"],
        flags: "bls",
        valued: "in",
        long: &["print-bytes", "quiet", "silent", "verbose"],
        long_valued: &["bytes", "ignore-initial"],
        operands: Operands::Files(2),
        ..READER
    },
    // `diff` is left out: of folders, it follows the links in them.
    Reader {
        names: &["comm"],
        flags: "123z",
        valued: "",
        long: &["check-order", "nocheck-order", "total"],
        long_valued: &[],
        operands: Operands::Files(2),
        ..READER
    },
    Reader {
        names: &["cut"],
        flags: "nsz",
        valued: "bcdf",
        long: &["complement", "only-delimited"],
        long_valued: &["bytes", "characters", "delimiter", "fields", "output-delimiter"],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["sort"],
        flags: "bdfghiMnRrsuVz",
        valued: "kt",
        long: &["ignore-case", "numeric-sort", "reverse", "stable", "unique", "version-sort", "human-numeric-sort"],
        long_valued: &["key", "field-separator"],
        operands: MANY,
        ..READER
    },
    // A second operand would be written.
    Reader {
        names: &["uniq"],
        flags: "cDdiuz",
        valued: "fsw",
        long: &["count", "ignore-case", "repeated", "unique"],
        long_valued: &["check-chars", "skip-chars", "skip-fields"],
        operands: Operands::Files(1),
        ..READER
    },
    Reader {
        names: &["tr"],
        flags: "cCdst",
        valued: "",
        long: &["complement", "delete", "squeeze-repeats"],
        long_valued: &[],
        operands: Operands::Text,
        ..READER
    },
    Reader {
        names: &["basename"],
        flags: "az",
        valued: "s",
        long: &["multiple"],
        long_valued: &["suffix"],
        operands: Operands::Text,
        ..READER
    },
    Reader { names: &["dirname"], flags: "z", valued: "", long: &[], long_valued: &[], operands: Operands::Text, ..READER },
    Reader {
        names: &["stat"],
        flags: "Lt",
        valued: "c",
        long: &["dereference", "terse"],
        long_valued: &["format", "printf"],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["file"],
        flags: "bhikLNr",
        valued: "",
        long: &["brief", "mime", "mime-type", "mime-encoding"],
        long_valued: &[],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["du"],
        flags: "abchkmsSx",
        valued: "d",
        long: &["all", "apparent-size", "human-readable", "summarize", "total"],
        long_valued: &["max-depth"],
        operands: MANY,
        ..READER
    },
    Reader {
        names: &["grep", "egrep", "fgrep"],
        flags: "abcEFGHhiIlLnoPqrsTUvwxyZz",
        valued: "ABCem",
        long: &[
            "basic-regexp",
            "color",
            "count",
            "extended-regexp",
            "files-with-matches",
            "files-without-match",
            "fixed-strings",
            "ignore-case",
            "invert-match",
            "line-number",
            "line-regexp",
            "no-filename",
            "no-messages",
            "null",
            "only-matching",
            "perl-regexp",
            "quiet",
            "recursive",
            "silent",
            "text",
            "with-filename",
            "word-regexp",
        ],
        long_valued: &["after-context", "before-context", "color", "context", "exclude", "exclude-dir", "include", "max-count", "regexp"],
        operands: Operands::Pattern,
        numbers: true,
    },
    Reader {
        names: &["rg"],
        flags: "abcFHhIilNnopPqSsUuvwx0",
        valued: "ABCegjmMtT",
        long: &[
            "case-sensitive",
            "column",
            "count",
            "count-matches",
            "files-with-matches",
            "files-without-match",
            "fixed-strings",
            "heading",
            "hidden",
            "ignore-case",
            "invert-match",
            "json",
            "line-number",
            "line-regexp",
            "multiline",
            "no-config",
            "no-filename",
            "no-heading",
            "no-ignore",
            "no-line-number",
            "no-messages",
            "null",
            "only-matching",
            "pcre2",
            "quiet",
            "smart-case",
            "stats",
            "text",
            "trim",
            "vimgrep",
            "with-filename",
            "word-regexp",
        ],
        long_valued: &[
            "after-context",
            "before-context",
            "color",
            "context",
            "glob",
            "iglob",
            "max-columns",
            "max-count",
            "max-depth",
            "regexp",
            "sort",
            "type",
            "type-not",
        ],
        operands: Operands::Pattern,
        ..READER
    },
];

/// Tests and prints of `find`: none that starts, writes or reads the content of anything.
const FIND_ALONE: &[&str] = &[
    "!",
    "(",
    ")",
    "-a",
    "-and",
    "-depth",
    "-empty",
    "-executable",
    "-false",
    "-mount",
    "-not",
    "-o",
    "-or",
    "-print",
    "-print0",
    "-prune",
    "-quit",
    "-readable",
    "-true",
    "-writable",
    "-xdev",
];
const FIND_VALUED: &[&str] = &[
    "-amin",
    "-atime",
    "-cmin",
    "-ctime",
    "-group",
    "-iname",
    "-ipath",
    "-iregex",
    "-links",
    "-maxdepth",
    "-mindepth",
    "-mmin",
    "-mtime",
    "-name",
    "-path",
    "-perm",
    "-regex",
    "-regextype",
    "-size",
    "-type",
    "-user",
];

/// Whether the command only reads what the record lists as read, or its standard input.
pub fn only_reads(program: &str, args: &[Word], call: &Call) -> bool {
    if !args.iter().all(|w| w.exact) {
        return false;
    }
    let listed = |w: &&Word| w.text == "-" || call.paths.iter().any(|p| p.written == w.text);
    match program {
        "find" => find(args).is_some_and(|starts| starts.iter().all(|w| listed(&w))),
        "sed" => sed_files(args).is_some_and(|files| files.iter().all(listed)),
        _ => {
            let Some(reader) = READERS.iter().find(|r| r.names.contains(&program)) else { return false };
            reader.files(args).is_some_and(|files| files.iter().all(listed))
        }
    }
}

impl Reader {
    /// The operands that are files; `None` where a word is not known to be harmless.
    fn files<'a>(&self, args: &'a [Word]) -> Option<Vec<&'a Word>> {
        let mut rest = args.iter();
        let (mut operands, mut only, mut pattern) = (Vec::new(), false, self.operands == Operands::Pattern);
        while let Some(word) = rest.next() {
            let text = word.text.as_str();
            if only || text == "-" || !text.starts_with('-') {
                operands.push(word);
            } else if text == "--" {
                only = true;
            } else if let Some(option) = text.strip_prefix("--") {
                let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
                match (self.long.contains(&name), self.long_valued.contains(&name), value) {
                    (true, _, None) | (_, true, Some(_)) => {}
                    (false, true, None) => drop(rest.next()?),
                    _ => return None,
                }
                pattern &= name != "regexp";
            } else if self.numbers && text[1..].bytes().all(|b| b.is_ascii_digit()) {
                // `head -5`. Not in a bundle: `head -5c FILE` has no value behind it.
            } else if let Some((at, letter)) = text.char_indices().skip(1).find(|(_, c)| !self.flags.contains(*c)) {
                if !self.valued.contains(letter) {
                    return None;
                }
                if at + letter.len_utf8() == text.len() {
                    rest.next()?;
                }
                pattern &= letter != 'e';
            }
        }
        match self.operands {
            Operands::Text => operands.clear(),
            Operands::Files(most) if operands.len() > most => return None,
            Operands::Files(_) => {}
            Operands::Pattern if pattern && operands.is_empty() => return None,
            Operands::Pattern => drop(operands.drain(..usize::from(pattern))),
        }
        // The folder that `grep -r` without files stands in is not in the record; that of `rg` is.
        let recursive =
            |w: &Word| w.text == "--recursive" || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains('r'));
        if operands.is_empty() && self.names.contains(&"grep") && args.iter().any(recursive) {
            return None;
        }
        Some(operands)
    }
}

/// Where `find` starts; `None` where its expression has more than tests and prints.
fn find(args: &[Word]) -> Option<&[Word]> {
    let end = args.iter().position(|w| w.text.starts_with(['-', '(', '!'])).unwrap_or(args.len());
    let (starts, expression) = args.split_at(end);
    let mut rest = expression.iter();
    while let Some(word) = rest.next() {
        if FIND_VALUED.contains(&word.text.as_str()) {
            rest.next()?;
        } else if !FIND_ALONE.contains(&word.text.as_str()) {
            return None;
        }
    }
    Some(starts)
}

/// The files that `sed` prints from; `None` where it changes one, or its script is not plain.
fn sed_files(args: &[Word]) -> Option<Vec<&Word>> {
    if sed::power(args, |_| false).is_some() {
        return None;
    }
    let mut operands = Vec::new();
    let mut rest = args.iter();
    let mut script = true;
    while let Some(word) = rest.next() {
        match word.text.as_str() {
            "-n" | "-E" | "-r" | "-s" | "-u" | "-z" | "-nE" | "-En" | "-nr" | "-rn" | "--quiet" | "--silent" | "--regexp-extended" => {}
            "-e" | "-ne" | "--expression" => {
                script = false;
                rest.next()?;
            }
            text if text.starts_with('-') && text != "-" => return None,
            _ => operands.push(word),
        }
    }
    operands.drain(..usize::from(script).min(operands.len()));
    Some(operands)
}

#[cfg(test)]
mod tests {
    use beadle_plugin::{Access, PathUse};

    use super::*;

    fn judged(line: &str, paths: &[&str]) -> bool {
        let mut words = line.split(' ').map(Word::exact);
        let program = words.next().unwrap().text;
        let paths = paths.iter().map(|p| PathUse::of(*p, Access::Read)).collect();
        only_reads(&program, &words.collect::<Vec<_>>(), &Call { paths, ..Call::default() })
    }

    #[test]
    fn files_must_be_in_the_record() {
        for (line, paths) in [
            ("cat a b", &["a", "b"][..]),
            ("cat -n -- -a", &["-a"]),
            ("head -5 a", &["a"]),
            ("tail -n +3 a", &["a"]),
            ("head -c10 a", &["a"]),
            ("grep -rn --include=*.rs foo src", &["src"]),
            ("grep -A3 -e foo -e bar a", &["a"]),
            ("grep foo", &[]),
            ("rg -tpy foo src", &["src"]),
            ("rg foo", &["."]),
            ("find src -name *.rs -type f", &["src"]),
            ("find . ( -name a -o -name b ) -print", &["."]),
            ("sed -n 1,5p a", &["a"]),
            ("sed -n -e 1p -e $p a", &["a"]),
            ("uniq -c a", &["a"]),
            ("sort -t, -k2,2 a", &["a"]),
            ("tr a b", &[]),
            ("cut -d : -f 1 a", &["a"]),
        ] {
            assert!(judged(line, paths), "{line}");
            for left_out in paths {
                let fewer: Vec<&str> = paths.iter().filter(|p| *p != left_out).copied().collect();
                assert!(!judged(line, &fewer) || line == "rg foo", "{line} without {left_out}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_no() {
        let all = ["a", "b", "c", ".", "src", "-f", "x"];
        for line in [
            "cat --help-me a",
            "tail -f a",
            "head --lines",
            "wc --files0-from=a",
            "sha256sum -c a",
            "sha256sum --check a",
            "diff a b",
            "head -5c a",
            "tail -3n a",
            "grep -r x",
            "grep -rn -e x",
            "cmp a b c",
            "sort -o a b",
            "sort -uo a b",
            "sort --output=a b",
            "sort --compress-program=x a",
            "sort --files0-from=a",
            "sort -T a b",
            "uniq a b",
            "grep -f a b",
            "grep -R x a",
            "grep -rR x a",
            "grep --file=a b",
            "grep -d recurse x a",
            "grep --dereference-recursive x a",
            "rg --pre x a",
            "rg --pre=x a",
            "rg -f a b",
            "rg -z x a",
            "rg --files a",
            "rg --hostname-bin x a",
            "rg --search-zip x a",
            "rg --follow x a",
            "find a -exec rm {} ;",
            "find a -execdir x ;",
            "find a -ok x ;",
            "find a -delete",
            "find a -fprint b",
            "find a -fprintf b x",
            "find a -fls b",
            "find a -files0-from b",
            "find -files0-from b",
            "find -L a",
            "find -H a",
            "find a -follow",
            "find a -newer b",
            "find a -name",
            "sed -i s/a/b/ a",
            "sed -n 1w a",
            "sed -n e a",
            "sed -f a b",
            "sed --in-place s/a/b/ a",
            "sed -n --expression=1p a",
            "sed r a",
            "file -m a b",
            "file -C a",
            "file -f a",
            "file -z a",
            "du -L a",
            "du --files0-from=a",
            "less a",
            "awk a b",
            "jq . a",
            "tee a",
            "xxd a",
        ] {
            assert!(!judged(line, &all), "{line}");
        }
        let unknown = [Word { text: "$x".to_owned(), exact: false }];
        assert!(!only_reads("cat", &unknown, &Call::default()));
    }
}
