//! Which files the common tools name on their command lines, and how they use them.
//!
//! A table, on the safe side: a word that may be a file is taken for one, a tool that is not here names none. Paths of rules are a
//! second line; the first is the rule on the command itself.
//!
//! Called by `call`.

use crate::model::{Access, Word};

#[path = "call_trees.rs"]
mod call_trees;

/// A word of a command that names a file; `text` for a part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWord {
    pub word: Word,
    pub access: Access,
    /// The directory it is relative to, from an option such as `-C`, joined to the command's own.
    pub base: Option<String>,
}

/// How operands are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operands {
    All(Access),
    /// The first one is no file (a pattern, a mode, a program) unless one of the options says so.
    AfterFirst(Access, &'static [&'static str]),
    /// All but the last as given, the last one written.
    ToLast(Access),
    FirstWritten,
    None,
}

struct Tool {
    names: &'static [&'static str],
    operands: Operands,
    /// Options with a value that is no file.
    valued: &'static [&'static str],
    /// Options with a value that is a file.
    files: &'static [(&'static str, Access)],
}

use Access::{Read as R, ReadWrite as RW, Write as W};

const TOOLS: &[Tool] = &[
    Tool {
        names: &[
            "cat",
            "less",
            "more",
            "bat",
            "batcat",
            "nl",
            "tac",
            "wc",
            "uniq",
            "od",
            "xxd",
            "hexdump",
            "strings",
            "file",
            "stat",
            "md5sum",
            "sha1sum",
            "sha224sum",
            "sha256sum",
            "sha384sum",
            "sha512sum",
            "b2sum",
            "cksum",
            "sum",
            "cmp",
            "diff",
            "colordiff",
            "comm",
            "paste",
            "column",
            "base64",
            "base32",
            "ls",
            "dir",
            "vdir",
            "tree",
            "du",
            "df",
            "readlink",
            "realpath",
            "zcat",
            "bzcat",
            "xzcat",
            "zless",
            "rev",
            "expand",
            "unexpand",
            "fmt",
            "pr",
            "join",
            "look",
            "source",
            ".",
            "xmllint",
            "gcc",
            "cc",
            "clang",
            "rustc",
            "nm",
            "objdump",
            "readelf",
            "ldd",
            "lsattr",
            "getfacl",
            "view",
            "iconv",
            "pdftotext",
            "csvlook",
            "exa",
            "eza",
            "lsd",
            "dos2unix",
        ],
        operands: Operands::All(R),
        valued: &["-c", "-e", "-r"],
        files: &[("-o", W), ("--output", W)],
    },
    Tool {
        names: &["head", "tail", "cut", "fold", "split", "csplit"],
        operands: Operands::All(R),
        valued: &["-n", "-c", "-d", "-f", "-b", "-w", "-s", "-l"],
        files: &[],
    },
    Tool {
        names: &["sort", "shuf", "tsort"],
        operands: Operands::All(R),
        valued: &["-k", "-t", "-S", "-n"],
        files: &[("-o", W), ("--output", W), ("-T", W), ("--files0-from", R)],
    },
    Tool {
        names: &["grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack", "ugrep"],
        operands: Operands::AfterFirst(R, &["-e", "-f", "--regexp", "--file", "--files"]),
        valued: &[
            "-e",
            "-m",
            "-A",
            "-B",
            "-C",
            "-g",
            "-t",
            "-T",
            "--glob",
            "--include",
            "--exclude",
            "--exclude-dir",
            "--regexp",
            "--color",
            "-d",
            "-D",
        ],
        files: &[("-f", R), ("--file", R), ("--ignore-file", R)],
    },
    Tool {
        names: &["awk", "gawk", "mawk", "nawk"],
        operands: Operands::AfterFirst(R, &["-f"]),
        valued: &["-F", "-v"],
        files: &[("-f", R)],
    },
    Tool {
        names: &["jq", "yq", "gojq", "jaq", "xq"],
        operands: Operands::AfterFirst(R, &["-f", "--from-file"]),
        valued: &["--indent"],
        files: &[("-f", R), ("--from-file", R)],
    },
    Tool {
        names: &[
            "rm",
            "rmdir",
            "unlink",
            "shred",
            "touch",
            "mkdir",
            "mkfifo",
            "tee",
            "mktemp",
            "trash",
            "srm",
            "sponge",
            "chattr",
            "truncate",
            "fallocate",
            "mkfs",
            "wipefs",
            "setfacl",
        ],
        operands: Operands::All(W),
        valued: &["-m", "-s", "-d", "-t", "-l", "-n"],
        files: &[("-r", R), ("--reference", R)],
    },
    Tool { names: &["mknod"], operands: Operands::FirstWritten, valued: &["-m"], files: &[] },
    Tool {
        names: &[
            "gzip",
            "gunzip",
            "bzip2",
            "bunzip2",
            "xz",
            "unxz",
            "zstd",
            "unzstd",
            "lz4",
            "compress",
            "uncompress",
            "vi",
            "vim",
            "nvim",
            "nano",
            "emacs",
            "ed",
            "ex",
            "code",
            "prettier",
            "black",
            "rustfmt",
            "gofmt",
            "sqlite3",
            "ffmpeg",
            "convert",
        ],
        operands: Operands::All(RW),
        valued: &["-c"],
        files: &[("-o", W)],
    },
    Tool {
        names: &["chmod", "chown", "chgrp", "chcon"],
        operands: Operands::AfterFirst(W, &["--reference"]),
        valued: &[],
        files: &[("--reference", R)],
    },
    Tool {
        names: &["cp", "rsync", "scp", "ln", "link", "install", "dcp"],
        operands: Operands::ToLast(R),
        valued: &["-m", "-o", "-g", "-S", "-e", "--exclude", "--include", "--rsh", "--mode", "--owner", "--group", "-P", "-i"],
        files: &[("-t", W), ("--target-directory", W), ("--exclude-from", R), ("--files-from", R), ("--log-file", W)],
    },
    Tool { names: &["mv", "rename"], operands: Operands::All(W), valued: &["-S"], files: &[("-t", W), ("--target-directory", W)] },
    Tool { names: &["zip", "7z", "7za", "ar", "jar"], operands: Operands::All(RW), valued: &[], files: &[] },
    Tool {
        names: &["patch"],
        operands: Operands::All(W),
        valued: &["-p", "-F"],
        files: &[("-i", R), ("--input", R), ("-o", W), ("--output", W), ("-d", W)],
    },
    Tool {
        names: &["curl"],
        operands: Operands::None,
        valued: &[],
        files: &[
            ("-o", W),
            ("--output", W),
            ("--output-dir", W),
            ("-T", R),
            ("--upload-file", R),
            ("-K", R),
            ("--config", R),
            ("-c", W),
            ("--cookie-jar", W),
            ("-D", W),
            ("--dump-header", W),
            ("--trace", W),
            ("--trace-ascii", W),
            ("--stderr", W),
            ("-E", R),
            ("--cert", R),
            ("--key", R),
            ("--cacert", R),
            ("--netrc-file", R),
        ],
    },
    Tool {
        names: &["wget"],
        operands: Operands::None,
        valued: &[],
        files: &[
            ("-O", W),
            ("--output-document", W),
            ("-P", W),
            ("--directory-prefix", W),
            ("-o", W),
            ("-a", W),
            ("-i", R),
            ("--input-file", R),
            ("--post-file", R),
            ("--body-file", R),
        ],
    },
    Tool { names: &["make", "gmake"], operands: Operands::None, valued: &[], files: &[("-f", R), ("--file", R)] },
    Tool { names: &["xargs"], operands: Operands::None, valued: &[], files: &[("-a", R), ("--arg-file", R)] },
    Tool {
        names: &["openssl", "gpg", "gpg2", "age"],
        operands: Operands::None,
        valued: &[],
        files: &[("-in", R), ("-out", W), ("-o", W), ("--output", W), ("-i", R), ("-keyout", W)],
    },
];

fn word(text: &str, exact: bool) -> Word {
    Word { text: text.to_owned(), exact }
}

/// The files that a command line names. `argv` is not empty.
pub fn files(argv: &[Word]) -> Vec<FileWord> {
    let name = argv[0].text.rsplit('/').next().unwrap_or_default();
    let mut out = Vec::new();
    match name {
        "dd" => {
            for arg in &argv[1..] {
                for (key, access) in [("of=", W), ("if=", R)] {
                    if let Some(path) = arg.text.trim_start_matches(['"', '\'']).strip_prefix(key) {
                        out.push(FileWord { word: word(path, arg.exact), access, base: None });
                    }
                }
            }
        }
        "sed" | "gsed" => {
            let inline = argv[1..].iter().any(|w| {
                w.text.starts_with("--in-place") || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains('i'))
            });
            let given = &["-e", "-f", "--expression", "--file"];
            out = operands(
                &argv[1..],
                &Tool {
                    names: &[],
                    operands: Operands::AfterFirst(if inline { RW } else { R }, given),
                    valued: &["-e", "--expression", "-l"],
                    files: &[("-f", R), ("--file", R)],
                },
            );
        }
        "find" | "gfind" => {
            let deletes = argv.iter().any(|w| w.text == "-delete");
            let access = if deletes { W } else { R };
            let starts = argv[1..]
                .iter()
                .skip_while(|w| matches!(w.text.as_str(), "-H" | "-L" | "-P"))
                .take_while(|w| !w.text.starts_with(['-', '(', '!']));
            out.extend(starts.map(|w| FileWord { word: w.clone(), access, base: None }));
            if out.is_empty() {
                out.push(FileWord { word: word(".", true), access, base: None });
            }
            for pair in argv.windows(2).filter(|p| p[0].text.starts_with("-fprint") || p[0].text == "-fls") {
                out.push(FileWord { word: pair[1].clone(), access: W, base: None });
            }
        }
        "tar" | "gtar" | "bsdtar" => call_trees::tar(&argv[1..], &mut out),
        "unzip" | "bsdunzip" => {
            let to = argv.windows(2).find(|p| p[0].text == "-d").map(|p| p[1].clone());
            let glued = argv[1..].iter().find_map(|w| w.text.strip_prefix("-d").filter(|d| !d.is_empty()).map(|d| word(d, w.exact)));
            let lists = argv[1..].iter().any(|w| w.text.starts_with('-') && w.text.contains(['l', 't', 'p', 'Z', 'v']));
            out.extend(argv[1..].iter().find(|w| !w.text.starts_with('-')).map(|w| FileWord { word: w.clone(), access: R, base: None }));
            if !lists {
                out.push(FileWord { word: to.or(glued).unwrap_or_else(|| word(".", true)), access: W, base: None });
            }
        }
        "git" => call_trees::git(argv, &mut out),
        "bash" | "sh" | "dash" | "ash" | "zsh" | "ksh" | "fish" | "python" | "python2" | "python3" | "perl" | "ruby" | "node" | "php"
        | "lua" | "tsx" | "ts-node" => {
            // why: with an option that takes code (`-c`, `-lc`, `-ne`), or a module, the operands are no script.
            let code = |w: &Word| w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(['c', 'e', 'E', 'm', 'r']);
            let first = argv[1..].iter().find(|w| code(w) || !w.text.starts_with(['-', '+']));
            out.extend(first.filter(|w| !code(w)).map(|w| FileWord { word: w.clone(), access: R, base: None }));
        }
        _ => {
            if let Some(tool) = TOOLS.iter().find(|t| t.names.contains(&name)) {
                out = operands(&argv[1..], tool);
            }
            if out.is_empty() && matches!(name, "ls" | "dir" | "vdir" | "tree" | "du" | "exa" | "eza" | "lsd" | "rg" | "ag" | "ack") {
                out.push(FileWord { word: word(".", true), access: R, base: None });
            }
            if name == "curl" {
                let remote_name = argv[1..].iter().any(|w| {
                    w.text == "--remote-name"
                        || w.text == "--remote-name-all"
                        || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains('O'))
                });
                if remote_name {
                    out.push(FileWord { word: word(".", true), access: W, base: None });
                }
                for arg in &argv[1..] {
                    if let Some((_, path)) = arg.text.split_once('@').filter(|(before, _)| {
                        before.is_empty() || before.ends_with('=') || before.starts_with("-d") || before.starts_with("-F")
                    }) {
                        out.push(FileWord { word: word(path, arg.exact), access: R, base: None });
                    }
                }
            } else if name == "wget" && !out.iter().any(|f| f.access == W) && argv.len() > 1 {
                out.push(FileWord { word: word(".", true), access: W, base: None });
            }
        }
    }
    out
}

fn operands(args: &[Word], tool: &Tool) -> Vec<FileWord> {
    let mut out = Vec::new();
    let mut plain: Vec<&Word> = Vec::new();
    let (mut i, mut only, mut given, mut target) = (0, false, false, false);
    while let Some(arg) = args.get(i) {
        i += 1;
        let text = arg.text.as_str();
        if only || !text.starts_with('-') || text == "-" {
            if text != "-" {
                plain.push(arg);
            }
            continue;
        }
        if text == "--" {
            only = true;
            continue;
        }
        if let Operands::AfterFirst(_, options) = tool.operands {
            given |= options
                .iter()
                .any(|o| text == *o || text.strip_prefix(o).is_some_and(|r| r.starts_with('=') || (o.len() == 2 && !r.is_empty())));
        }
        let file = tool.files.iter().find_map(|(option, access)| {
            let rest = text.strip_prefix(option)?;
            match rest {
                "" => Some((args.get(i).cloned(), *access, 1)),
                _ if rest.starts_with('=') => Some((Some(word(&rest[1..], arg.exact)), *access, 0)),
                _ if option.len() == 2 => Some((Some(word(rest, arg.exact)), *access, 0)),
                _ => None,
            }
        });
        if let Some((path, access, skip)) = file {
            i += skip;
            target |= access == W && matches!(tool.operands, Operands::ToLast(_));
            out.extend(path.map(|word| FileWord { word, access, base: None }));
        } else if tool.valued.contains(&text) {
            i += 1;
        }
    }
    let count = plain.len();
    for (n, arg) in plain.into_iter().enumerate() {
        let access = match tool.operands {
            Operands::All(access) => access,
            Operands::AfterFirst(access, _) if n > 0 || given => access,
            Operands::ToLast(access) => {
                if n + 1 == count && !target {
                    W
                } else {
                    access
                }
            }
            Operands::FirstWritten if n == 0 => W,
            _ => continue,
        };
        out.push(FileWord { word: arg.clone(), access, base: None });
    }
    out
}
