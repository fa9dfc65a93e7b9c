//! git's many ways to run a command.
//!
//! Called by `wrap_code`.

use super::super::wrap::{DYNAMIC, Effect, OPTIONS, Place, code, options, run};
use super::super::wrap_table::Spec;
use crate::model::Word;

const CONFIG: &str = "a setting of git names a command";

/// Global options before the subcommand.
const GLOBAL: Spec = Spec {
    flags: "pPhv",
    valued: "Cc",
    long: &[
        "no-pager",
        "paginate",
        "bare",
        "no-replace-objects",
        "literal-pathspecs",
        "glob-pathspecs",
        "noglob-pathspecs",
        "icase-pathspecs",
        "no-optional-locks",
        "no-advice",
        "version",
        "help",
        "html-path",
    ],
    long_valued: &["git-dir", "work-tree", "namespace", "super-prefix", "attr-source", "list-cmds"],
    ..Spec::NONE
};

/// Settings whose value git runs, or that make it run a file.
fn names_a_command(key: &str) -> bool {
    const WHOLE: &[&str] = &[
        "core.pager",
        "core.editor",
        "core.sshcommand",
        "core.fsmonitor",
        "core.askpass",
        "core.hookspath",
        "core.gitproxy",
        "core.alternaterefscommand",
        "core.worktree",
        "diff.external",
        "sequence.editor",
        "interactive.difffilter",
        "gpg.program",
        "web.browser",
        "sendemail.smtpserver",
        "uploadpack.packobjectshook",
        "protocol.allow",
        "protocol.ext.allow",
        "include.path",
        "init.templatedir",
        "receive.procreceiverefs",
    ];
    const PARTS: &[&str] = &[
        ".cmd",
        ".textconv",
        ".command",
        ".clean",
        ".smudge",
        ".process",
        ".driver",
        ".program",
        ".helper",
        ".tool",
        ".path",
        ".uploadpack",
        ".receivepack",
        ".vcs",
        ".proxy",
        ".update",
    ];
    let key = key.to_ascii_lowercase();
    WHOLE.contains(&key.as_str())
        || ["alias.", "pager.", "filter.", "includeif.", "credential.", "browser.", "man."].iter().any(|p| key.starts_with(p))
        || PARTS.iter().any(|p| key.ends_with(p))
}

pub(super) fn effects(argv: &[Word]) -> Vec<Effect> {
    let opts = options(argv, 1, &GLOBAL);
    let mut out = Vec::new();
    if opts.unsure {
        out.push(Effect::Unknown(OPTIONS));
    }
    for (name, value) in &opts.given {
        let Some(value) = value.filter(|_| name == "c") else { continue };
        let text = value.text.strip_prefix("-c").unwrap_or(&value.text);
        let (key, setting) = text.split_once('=').unwrap_or((text, ""));
        if !value.exact {
            out.push(Effect::Unknown(DYNAMIC));
        } else if names_a_command(key) {
            out.push(Effect::Unknown(CONFIG));
            let text = setting.strip_prefix('!').unwrap_or(setting).to_owned();
            let word =
                if key.to_ascii_lowercase().starts_with("alias.") && !setting.starts_with('!') { format!("git {text}") } else { text };
            out.extend(code(&format!("git -c {key}"), &[Word { text: word, exact: true }], Place::Apart));
        }
    }
    let Some(verb) = argv.get(opts.at) else { return out };
    if !verb.exact {
        out.push(Effect::Unknown("a program's name is not exact"));
        return out;
    }
    let rest = &argv[opts.at + 1..];
    let valued = |names: &[&str]| -> Option<String> {
        rest.iter().enumerate().find_map(|(i, w)| {
            names.iter().find_map(|n| match w.text.strip_prefix(n) {
                Some("") => rest.get(i + 1).map(|v| v.text.clone()),
                Some(glued) if n.starts_with("--") => glued.strip_prefix('=').map(str::to_owned),
                Some(glued) => Some(glued.to_owned()),
                None => None,
            })
        })
    };
    let text = |out: &mut Vec<Effect>, label: &str, value: Option<String>| {
        if let Some(value) = value {
            out.push(Effect::Unknown("an option names a command"));
            out.extend(code(label, &[Word { text: value, exact: true }], Place::Unknown));
        }
    };
    match verb.text.as_str() {
        "rebase" => text(&mut out, "git rebase -x", valued(&["-x", "--exec"])),
        "difftool" | "mergetool" => text(&mut out, "git difftool -x", valued(&["-x", "--extcmd"])),
        "grep" => text(&mut out, "git grep -O", valued(&["-O", "--open-files-in-pager"])),
        "fetch" | "pull" | "clone" | "ls-remote" | "push" | "archive" | "fetch-pack" | "send-pack" => {
            text(
                &mut out,
                "git --upload-pack",
                valued(&["--upload-pack", "--receive-pack", "--exec"])
                    .or_else(|| if verb.text == "clone" { valued(&["-u"]) } else { None }),
            );
            if rest.iter().any(|w| w.text.starts_with("ext::") || w.text.starts_with("fd::")) {
                out.push(Effect::Unknown("a transport of git runs a command"));
                for text in rest.iter().filter_map(|w| w.text.strip_prefix("ext::")) {
                    out.push(Effect::PerhapsCode { label: "git ext::".to_owned(), text: text.to_owned() });
                }
            }
            let config = valued(&["-c", "--config"]).filter(|_| verb.text == "clone");
            if config.is_some_and(|c| names_a_command(c.split('=').next().unwrap_or_default())) {
                out.push(Effect::Unknown(CONFIG));
            }
        }
        "config" => {
            let set = rest.iter().any(|w| names_a_command(w.text.split('=').next().unwrap_or_default()));
            if set
                && rest.len() > 1
                && !rest.iter().any(|w| matches!(w.text.as_str(), "--get" | "--get-all" | "get" | "--unset" | "unset" | "--list" | "-l"))
            {
                out.push(Effect::Unknown(CONFIG));
            }
        }
        "bisect" if rest.first().is_some_and(|w| w.text == "run") => out.push(run("git bisect run", &rest[1..], Place::Apart)),
        "submodule" => {
            if let Some(at) = rest.iter().position(|w| w.text == "foreach") {
                let from = rest[at + 1..].iter().position(|w| !w.text.starts_with('-')).map_or(rest.len(), |n| at + 1 + n);
                out.extend(code("git submodule foreach", &rest[from..], Place::Unknown));
            }
        }
        "filter-branch" | "shell" | "daemon" | "instaweb" | "web--browse" | "sh-setup" => {
            out.push(Effect::Unknown("a subcommand of git runs code"))
        }
        _ => {}
    }
    out
}
