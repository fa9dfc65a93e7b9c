//! Which files tar and git name: tools that read or write whole trees.
//!
//! Called by `call_files`.

use super::{FileWord, R, W, word};
use crate::model::{Access, Word};

pub(super) fn tar(args: &[Word], out: &mut Vec<FileWord>) {
    let first = args.first().map_or("", |w| w.text.as_str());
    let letters: String = args
        .iter()
        .enumerate()
        .filter(|(n, w)| (*n == 0 && !first.starts_with('-')) || (w.text.starts_with('-') && !w.text.starts_with("--")))
        .map(|(_, w)| w.text.as_str())
        .collect();
    let long = |name: &str| args.iter().any(|w| w.text == name);
    let extracts = letters.contains('x') || long("--extract") || long("--get");
    let lists = letters.contains('t') || long("--list");
    let mut i = usize::from(!first.starts_with('-'));
    let mut archive = letters.contains('f').then_some(());
    let mut dir: Option<String> = None;
    while let Some(arg) = args.get(i) {
        i += 1;
        let text = arg.text.as_str();
        if matches!(text, "-C" | "--directory") {
            if let Some(to) = args.get(i) {
                out.push(FileWord { word: to.clone(), access: if extracts { W } else { R }, base: None });
                dir = Some(to.text.clone());
            }
            i += 1;
        } else if let Some(to) = text.strip_prefix("--directory=") {
            out.push(FileWord { word: word(to, arg.exact), access: if extracts { W } else { R }, base: None });
            dir = Some(to.to_owned());
        } else if let Some(file) = text.strip_prefix("--file=") {
            out.push(FileWord { word: word(file, arg.exact), access: if extracts || lists { R } else { W }, base: None });
        } else if text == "--file" || (text.starts_with('-') && !text.starts_with("--") && text.ends_with('f')) {
            archive = None;
            out.extend(args.get(i).map(|w| FileWord { word: w.clone(), access: if extracts || lists { R } else { W }, base: None }));
            i += 1;
        } else if text == "-" {
            archive = None;
        } else if !text.starts_with('-') {
            let takes = archive.take().is_some();
            let access = if takes && !extracts && !lists || (!takes && extracts) { W } else { R };
            out.push(FileWord { word: arg.clone(), access, base: dir.clone().filter(|_| !takes) });
        }
    }
    if extracts && dir.is_none() {
        out.push(FileWord { word: word(".", true), access: W, base: None });
    }
}

/// Subcommands that change the work tree in whole or in the named places.
const TREE: &[&str] = &[
    "checkout",
    "restore",
    "reset",
    "clean",
    "stash",
    "merge",
    "pull",
    "rebase",
    "switch",
    "apply",
    "am",
    "cherry-pick",
    "revert",
    "rm",
    "mv",
    "bisect",
    "read-tree",
    "checkout-index",
    "sparse-checkout",
    "submodule",
    "worktree",
    "init",
    "clone",
];

pub(super) fn git(argv: &[Word], out: &mut Vec<FileWord>) {
    let mut i = 1;
    let mut base: Option<String> = None;
    while let Some(arg) = argv.get(i).filter(|w| w.text.starts_with('-')) {
        let place = matches!(arg.text.as_str(), "-C" | "--work-tree" | "--git-dir");
        if place && let Some(dir) = argv.get(i + 1) {
            base = Some(base.map_or_else(|| dir.text.clone(), |b| crate::policy::paths::join(&b, &dir.text)));
        }
        i += if place || matches!(arg.text.as_str(), "-c" | "--namespace") { 2 } else { 1 };
    }
    let Some(verb) = argv.get(i) else { return };
    let rest = &argv[i + 1..];
    let mut add = |word: Word, access: Access| out.push(FileWord { word, access, base: base.clone() });
    for pair in rest.windows(2).filter(|p| matches!(p[0].text.as_str(), "-o" | "--output" | "-F" | "--file")) {
        add(pair[1].clone(), if pair[0].text.ends_with("utput") || pair[0].text == "-o" { W } else { R });
    }
    for path in rest.iter().filter_map(|w| w.text.strip_prefix("--output=").map(|p| word(p, w.exact))) {
        add(path, W);
    }
    let reads = match verb.text.as_str() {
        "add" | "hash-object" | "stage" => true,
        "diff" => rest.iter().any(|w| w.text == "--no-index"),
        _ => false,
    };
    for arg in rest.iter().filter(|w| reads && !w.text.starts_with('-')) {
        add(arg.clone(), R);
    }
    if !TREE.contains(&verb.text.as_str()) {
        return;
    }
    let operands: Vec<&Word> = rest.iter().filter(|w| !w.text.starts_with('-') && !w.text.contains("://")).collect();
    for arg in &operands {
        add((*arg).clone(), W);
    }
    if operands.is_empty() || !matches!(verb.text.as_str(), "rm" | "mv" | "init" | "worktree" | "restore") {
        add(word(".", true), W);
    }
}
