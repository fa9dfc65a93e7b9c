//! Where one command would connect to, as far as its words tell.
//!
//! Invariant: a word that is not surely an option's value counts as a destination; too many are asked about rather than too few.
//! Called by `judge`.

use beadle_plugin::{Command, Word};

use crate::tables::{IMPLIED, Operands, PROGRAMS, Program, REGISTRY, SSH_SETTINGS, TEXT};
use policy_kit::host::{Destination, Host};

/// What the words of a command say.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    pub destinations: Vec<Destination>,
    /// Why its destinations are not vouched for.
    pub doubts: Vec<String>,
    /// It goes where its own settings say.
    pub implied: bool,
}

impl Found {
    fn add(&mut self, d: Destination) {
        if !self.destinations.iter().any(|e| e.written == d.written && e.host == d.host) {
            self.destinations.push(d);
        }
    }

    fn doubt(&mut self, why: impl Into<String>) {
        self.doubts.push(why.into());
    }
}

pub fn read(c: &Command) -> Found {
    let mut out = Found::default();
    for redirect in &c.redirects {
        device(&redirect.target, &mut out);
    }
    let Some(args) = c.argv.get(1..) else { return out };
    let name = c.program();
    if let Some(p) = PROGRAMS.iter().find(|p| p.names.contains(&name)) {
        program(p, args, &mut out);
    } else {
        match name {
            "git" => git(args, &mut out),
            "socat" => socat(args, &mut out),
            "openssl" if args.first().is_some_and(|w| matches!(w.text.as_str(), "s_client" | "s_time" | "ocsp")) => openssl(args, &mut out),
            _ => implied(name, args, &mut out),
        }
    }
    let network = out.implied || !out.destinations.is_empty() || !out.doubts.is_empty() || PROGRAMS.iter().any(|p| p.names.contains(&name));
    let text = TEXT.contains(&name) || (name == "git" && !network);
    if !text {
        for word in c.argv.iter().skip(1).chain(&c.env) {
            addresses(word, &mut out);
        }
    }
    let network = network || !out.destinations.is_empty();
    if network && !text {
        if let Some(w) = c.argv.iter().find(|w| !w.exact) {
            out.doubt(format!("{} is known only to the shell", policy_kit::shown(&w.text)));
        }
        for w in &c.env {
            let variable = w.text.split('=').next().unwrap_or_default().to_ascii_lowercase();
            let steers = [
                "git_",
                "curl_",
                "wget",
                "pip_",
                "npm_",
                "uv_",
                "cargo_",
                "ssh_",
                "ld_",
                "res_",
                "hostaliases",
                "goproxy",
                "node_",
                "python",
            ];
            if variable.contains("proxy") || steers.iter().any(|s| variable.starts_with(s)) {
                out.doubt(format!("{variable} can send it elsewhere"));
            }
        }
    }
    out
}

/// Options and operands of a program in the table.
fn program(p: &Program, args: &[Word], out: &mut Found) {
    let mut operands: Vec<&Word> = Vec::new();
    let (mut port, mut i, mut only) = (None, 0, false);
    while let Some(word) = args.get(i) {
        i += 1;
        let text = word.text.as_str();
        if only || !text.starts_with('-') || text == "-" {
            operands.push(word);
            // why: what follows the host runs on the other side.
            if p.operands == Operands::Host && p.scheme == "ssh" {
                break;
            }
            continue;
        }
        if text == "--" {
            only = true;
            continue;
        }
        let long = text.starts_with("--");
        let (option, value) = text.split_once('=').filter(|_| long).map_or((text, None), |(o, v)| (o, Some(v)));
        let doubtful = |option: &str| p.doubtful.iter().any(|d| option == *d || (option.len() > 4 && long && d.starts_with(option)));
        let next = || args.get(i).map(|w| w.text.as_str());
        if long || p.valued.contains(&text) || p.doubtful.contains(&text) {
            if doubtful(option) {
                out.doubt(format!("{option} can send it elsewhere than its words say"));
                if let Some(v) = value.filter(|v| v.contains("://")) {
                    out.add(Destination::of_url(v, p.scheme));
                }
            } else if p.addresses.contains(&option) {
                if let Some(v) = value.or_else(next) {
                    out.add(Destination::of_url(v, p.scheme));
                }
                i += usize::from(value.is_none());
            } else if !p.port.is_empty() && option == p.port {
                port = value.or_else(next).and_then(|v| v.parse().ok());
                i += usize::from(value.is_none());
            } else if p.valued.contains(&option) && value.is_none() {
                i += 1;
            }
            continue;
        }
        // A bundle of short options; the first with a value takes what is left, or the next word.
        for (at, letter) in text.char_indices().skip(1) {
            let option = format!("-{letter}");
            let rest = &text[at + letter.len_utf8()..];
            if p.scheme == "ssh" && letter == 'o' {
                let setting = if rest.is_empty() { next().unwrap_or_default() } else { rest };
                let key = setting.split(['=', ' ']).next().unwrap_or_default().to_ascii_lowercase();
                if !SSH_SETTINGS.contains(&key.as_str()) {
                    out.doubt(format!("-o {key} can send it elsewhere than its words say"));
                }
                i += usize::from(rest.is_empty());
                break;
            }
            if p.doubtful.contains(&option.as_str()) {
                out.doubt(format!("{option} can send it elsewhere than its words say"));
                if rest.contains("://") {
                    out.add(Destination::of_url(rest, p.scheme));
                }
            } else if option == p.port {
                port = if rest.is_empty() { next() } else { Some(rest) }.and_then(|v| v.parse().ok());
                i += usize::from(rest.is_empty());
                break;
            } else if p.valued.contains(&option.as_str()) {
                i += usize::from(rest.is_empty());
                break;
            }
        }
    }
    place(p, &operands, port, out);
}

fn place(p: &Program, operands: &[&Word], port: Option<u16>, out: &mut Found) {
    match p.operands {
        Operands::Addresses => operands.iter().for_each(|w| address(&w.text, p.scheme, out)),
        Operands::OneAddress => {
            let method = operands.first().is_some_and(|w| !w.text.is_empty() && w.text.bytes().all(|b| b.is_ascii_uppercase()));
            if let Some(w) = operands.get(usize::from(method)) {
                // why: `:8080/x` and `/x` are short for this machine.
                let local = w.text.starts_with([':', '/']);
                address(&if local { format!("localhost{}", w.text) } else { w.text.clone() }, p.scheme, out);
            }
        }
        Operands::Host => {
            if let Some(w) = operands.first() {
                remote(&w.text, p.scheme, port, out);
            }
        }
        Operands::HostPort => {
            if let Some(w) = operands.first() {
                let port = operands.get(1).and_then(|p| p.text.parse().ok()).or(port);
                out.add(Destination::of_host(p.scheme, &w.text, port));
            }
        }
        Operands::Hosts => {
            for w in operands.iter().filter(|w| !w.text.starts_with('+')) {
                out.add(Destination::of_host(p.scheme, w.text.trim_start_matches('@'), None));
            }
        }
        Operands::RemotePaths => {
            for w in operands {
                if w.text.contains("://") || is_remote(&w.text) {
                    remote(&w.text, p.scheme, port, out);
                }
            }
        }
    }
}

/// An address as HTTP clients take it: the scheme may be missing.
fn address(text: &str, scheme: &str, out: &mut Found) {
    if text.to_ascii_lowercase().starts_with("file://") || text == "-" {
        return;
    }
    out.add(Destination::of_url(text, scheme));
}

/// `host:path`, a colon before any slash.
fn is_remote(text: &str) -> bool {
    text.find(':').is_some_and(|at| at > 0 && !text[..at].contains('/'))
}

/// `[user@]host[:path]`, or an address with a scheme.
fn remote(text: &str, scheme: &str, port: Option<u16>, out: &mut Found) {
    if text.contains("://") {
        let mut d = Destination::of_url(text, scheme);
        d.port = d.port.or(port);
        return out.add(d);
    }
    let host = text.rsplit_once('@').map_or(text, |(_, h)| h);
    let host = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((inner, _)) => inner,
        None => host.split_once(':').map_or(host, |(h, _)| h),
    };
    let mut d = Destination::of_host(scheme, host, port);
    text.clone_into(&mut d.written);
    out.add(d);
}

const GIT_VERBS: &[&str] = &[
    "clone",
    "fetch",
    "pull",
    "push",
    "ls-remote",
    "remote",
    "submodule",
    "archive",
    "lfs",
    "send-pack",
    "fetch-pack",
    "svn",
    "http-push",
];

fn git(args: &[Word], out: &mut Found) {
    let (mut i, mut steered) = (0, false);
    while let Some(w) = args.get(i).filter(|w| w.text.starts_with('-')) {
        let text = w.text.as_str();
        steered |= text == "-c" || text.starts_with("--config-env") || text.starts_with("--exec-path=");
        i += if matches!(text, "-c" | "-C" | "--git-dir" | "--work-tree" | "--namespace" | "--config-env") { 2 } else { 1 };
    }
    let Some(verb) = args.get(i).map(|w| w.text.as_str()).filter(|v| GIT_VERBS.contains(v)) else { return };
    let rest = &args[i + 1..];
    let sub = rest.iter().find(|w| !w.text.starts_with('-')).map_or("", |w| w.text.as_str());
    match (verb, sub) {
        // These only look, or change what the repository says.
        ("remote", "add" | "set-url" | "update" | "show" | "prune") | ("submodule", "add" | "update" | "init") => {}
        ("remote" | "submodule", _) => return,
        ("archive", _) if !rest.iter().any(|w| w.text.starts_with("--remote")) => return,
        _ => {}
    }
    if steered {
        out.doubt("a setting given with git -c can send it elsewhere");
    }
    for w in rest {
        let text = w.text.as_str();
        let program = ["--upload-pack", "--receive-pack", "--exec", "-u", "--config", "-c"];
        if program.iter().any(|o| text == *o || (o.len() > 2 && text.starts_with(&format!("{o}=")))) && !(verb == "push" && text == "-u") {
            out.doubt(format!("{text} can send it elsewhere than its words say"));
        }
        let text = text.strip_prefix("--remote=").or_else(|| text.strip_prefix("--repo=")).unwrap_or(text);
        if text.contains("::") {
            out.doubt(format!("{} is a transport of its own", policy_kit::shown(text)));
        } else if text.contains("://") {
            address(text, "https", out);
        } else if !text.starts_with(['-', '.', '/', '~', '+', ':']) && is_remote(text) && !(verb == "push" && out_has_remote(rest, w)) {
            remote(text, "ssh", None, out);
        }
    }
    let local = |w: &Word| w.text.starts_with(['.', '/', '~']) || w.text.starts_with("file://");
    let here = matches!(verb, "clone" | "ls-remote") && rest.iter().any(local);
    out.implied = out.destinations.is_empty() && !here;
}

/// Whether a word of `git push` stands behind its remote: then it is a pair of references (`main:main`).
fn out_has_remote(rest: &[Word], word: &Word) -> bool {
    rest.iter().filter(|w| !w.text.starts_with('-')).position(|w| std::ptr::eq(w, word)).is_some_and(|at| at > 0)
}

fn socat(args: &[Word], out: &mut Found) {
    for w in args.iter().filter(|w| !w.text.starts_with('-') || w.text.len() == 1) {
        let mut parts = w.text.split(',').next().unwrap_or_default().split(':');
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        match kind.as_str() {
            "-" | "stdio" | "stdin" | "stdout" | "open" | "file" | "create" | "gopen" | "pipe" => {}
            k if ["tcp", "udp", "openssl", "ssl", "sctp"].iter().any(|p| k.starts_with(p))
                && !k.contains("listen")
                && !k.ends_with("-l") =>
            {
                let (host, port) = (parts.next().unwrap_or_default(), parts.next().and_then(|p| p.parse().ok()));
                out.add(Destination::of_host("", host, port));
            }
            _ => out.doubt(format!("{} is an address of socat that is not looked into", policy_kit::shown(&w.text))),
        }
    }
}

fn openssl(args: &[Word], out: &mut Found) {
    for pair in args.windows(2) {
        match pair[0].text.as_str() {
            "-connect" | "-host" | "--connect" => out.add(Destination::of_authority("", &pair[1].text, &pair[1].text)),
            "-proxy" | "-unix" | "--proxy" => out.doubt(format!("{} can send it elsewhere than its words say", pair[0].text)),
            _ => {}
        }
    }
    if out.destinations.is_empty() {
        out.doubt("openssl says nowhere where it connects to");
    }
}

/// Package managers and clients of services.
fn implied(name: &str, args: &[Word], out: &mut Found) {
    // why: `python3 -m pip` is pip.
    let module = args.windows(2).position(|p| p[0].text == "-m").filter(|_| name.starts_with("python"));
    let (name, args) = match module {
        Some(at) => (args[at + 1].text.as_str(), &args[at + 2..]),
        None => (name, args),
    };
    let Some((_, words)) = IMPLIED.iter().find(|(names, _)| names.contains(&name)) else { return };
    let bare = name == "yarn" && !args.iter().any(|w| !w.text.starts_with('-'));
    if !words.is_empty() && !bare && !args.iter().any(|w| words.contains(&w.text.as_str())) {
        return;
    }
    let mut i = 0;
    let mut given = false;
    while let Some(w) = args.get(i) {
        i += 1;
        let (option, value) = w.text.split_once('=').map_or((w.text.as_str(), None), |(o, v)| (o, Some(v)));
        if !REGISTRY.contains(&option) || (option.len() == 2 && !name.starts_with("pip")) {
            continue;
        }
        let value = value.or_else(|| args.get(i).map(|w| w.text.as_str())).unwrap_or_default();
        if value.contains("://") {
            given |= matches!(option, "--registry" | "--index-url" | "-i" | "--default-index");
            out.add(Destination::of_url(value, "https"));
        } else if option == "--proxy" {
            out.doubt("--proxy can send it elsewhere than its words say");
        }
    }
    out.implied = !given;
}

/// `/dev/tcp/host/port`, which bash opens as a connection.
fn device(w: &Word, out: &mut Found) {
    let rest = w.text.find("/dev/tcp/").map(|at| (at, "/dev/tcp/")).or_else(|| w.text.find("/dev/udp/").map(|at| (at, "/dev/udp/")));
    let Some((at, lead)) = rest else { return };
    let mut parts = w.text[at + lead.len()..].split('/');
    let (host, port) = (parts.next().unwrap_or_default(), parts.next().and_then(|p| p.parse().ok()));
    out.add(Destination::of_host("", host, port));
    if !w.exact {
        out.doubt(format!("{} is known only to the shell", policy_kit::shown(&w.text)));
    }
}

/// Every address with a scheme in a word, whatever program it is for; also in code.
fn addresses(w: &Word, out: &mut Found) {
    device(w, out);
    for (at, _) in w.text.match_indices("://") {
        let start = w.text[..at].rfind(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))).map_or(0, |n| n + 1);
        let scheme = w.text[start..at].trim_start_matches(['-', '+', '.']);
        let rest = &w.text[at + 3..];
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`')).unwrap_or(rest.len());
        if scheme.is_empty() || scheme.eq_ignore_ascii_case("file") {
            continue;
        }
        let d = Destination::of_url(&format!("{scheme}://{}", &rest[..end]), scheme);
        // why: in code the end of an address is not known (`"http://a" + b`, `http://a)`), and what is odd there is not worth more words.
        if let Host::Unclear(_) = d.host
            && out.destinations.iter().any(|e| e.written.contains("://"))
        {
            continue;
        }
        out.add(d);
    }
}
