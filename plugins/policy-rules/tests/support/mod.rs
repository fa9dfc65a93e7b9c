//! A small builder: shell text to a call record, in the way the host's parser fills it.
//!
//! Knows words, quotes, `&&`, `||`, `;`, `|`, assignments, `<` and `>`, one level of wrappers in wrappers, and what file
//! tools the table uses. It is no shell parser: tests of that are the host's.

#![allow(dead_code, reason = "each test binary uses its own part")]

use beadle_plugin::{Access, Call, Command, Decision, Effect, Parse, PathUse, Redirect, Session, ToolKind, Word};
use policy_rules::Policy;

pub const ROOT: &str = "/project";
pub const HOME: &str = "/home/u";

pub fn session() -> Session {
    Session { root: ROOT.into(), home: Some(HOME.into()), ..Session::default() }
}

pub fn policy(allow: &[&str], ask: &[&str], deny: &[&str]) -> Policy {
    Policy::compile(&config(allow, ask, deny)).unwrap_or_else(|e| panic!("{e}"))
}

pub fn config(allow: &[&str], ask: &[&str], deny: &[&str]) -> String {
    let list = |rules: &[&str]| format!("[{}]", rules.iter().map(|r| format!("{r:?}")).collect::<Vec<_>>().join(","));
    format!("{{\"allow\":{},\"ask\":{},\"deny\":{}}}", list(allow), list(ask), list(deny))
}

pub fn decide(policy: &Policy, call: &Call) -> Decision {
    policy.decide(&session(), call)
}

pub fn effect(policy: &Policy, call: &Call) -> Effect {
    decide(policy, call).effect
}

/// A Bash call of this text.
pub fn bash(text: &str) -> Call {
    let mut call = Call {
        tool: "Bash".into(),
        kind: ToolKind::Execute,
        input: format!("{{\"command\":{text:?}}}"),
        cwd: ROOT.into(),
        ..Call::default()
    };
    script(text, &[], &mut call);
    call
}

/// A call of a file tool.
pub fn file(tool: &str, path: &str) -> Call {
    let (kind, access) = match tool {
        "Read" => (ToolKind::Read, Access::Read),
        "Grep" | "Glob" | "LS" => (ToolKind::Search, Access::Read),
        "Delete" => (ToolKind::Delete, Access::Write),
        "Edit" => (ToolKind::Edit, Access::ReadWrite),
        _ => (ToolKind::Edit, Access::Write),
    };
    Call { tool: tool.into(), kind, cwd: ROOT.into(), paths: vec![path_use(path, access, !path.contains('*'))], ..Call::default() }
}

pub fn fetch(url: &str) -> Call {
    Call { tool: "WebFetch".into(), kind: ToolKind::Fetch, urls: vec![url.into()], cwd: ROOT.into(), ..Call::default() }
}

pub fn agent(kind: &str) -> Call {
    Call {
        tool: "Task".into(),
        kind: ToolKind::Think,
        input: format!("{{\"subagent_type\":{kind:?}}}"),
        cwd: ROOT.into(),
        ..Call::default()
    }
}

pub fn tool(name: &str) -> Call {
    Call { tool: name.into(), kind: ToolKind::Other, cwd: ROOT.into(), ..Call::default() }
}

pub fn path_use(written: &str, access: Access, exact: bool) -> PathUse {
    let joined = match written.strip_prefix("~/") {
        Some(rest) => format!("{HOME}/{rest}"),
        None if written.starts_with('/') => written.to_owned(),
        None => format!("{ROOT}/{written}"),
    };
    let mut names: Vec<&str> = Vec::new();
    for name in joined.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let absolute = format!("/{}", names.join("/"));
    PathUse { written: written.into(), resolved: absolute.clone(), absolute, access, exact }
}

/// Token of the small language: a word with its quoting, or an operator.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(Word),
    Operator(String),
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut word: Option<Word> = None;
    let mut raw = String::new();
    let mut chars = text.chars().peekable();
    let mut flush = |word: &mut Option<Word>, raw: &mut String| {
        if let Some(mut w) = word.take() {
            if !w.exact {
                w.text = raw.clone();
            }
            out.push(Token::Word(w));
        }
        raw.clear();
    };
    let mut operators = Vec::new();
    while let Some(c) = chars.next() {
        match c {
            ' ' => flush(&mut word, &mut raw),
            '\'' => {
                let w = word.get_or_insert_with(|| Word::exact(""));
                raw.push('\'');
                for q in chars.by_ref().take_while(|q| *q != '\'') {
                    w.text.push(q);
                    raw.push(q);
                }
                raw.push('\'');
            }
            '"' => {
                let w = word.get_or_insert_with(|| Word::exact(""));
                raw.push('"');
                for q in chars.by_ref().take_while(|q| *q != '"') {
                    w.exact &= !matches!(q, '$' | '`');
                    w.text.push(q);
                    raw.push(q);
                }
                raw.push('"');
            }
            '\\' => {
                let w = word.get_or_insert_with(|| Word::exact(""));
                w.text.extend(chars.next());
            }
            '&' | '|' | ';' | '<' | '>' => {
                flush(&mut word, &mut raw);
                let mut op = c.to_string();
                while chars.peek().is_some_and(|n| *n == c) {
                    op.extend(chars.next());
                }
                operators.push(op);
                let mark = operators.len();
                word = Some(Word::exact(format!("\u{1}{mark}")));
                flush(&mut word, &mut raw);
            }
            c => {
                let w = word.get_or_insert_with(|| Word::exact(""));
                w.exact &= !matches!(c, '$' | '`' | '*' | '?' | '[' | '{');
                w.text.push(c);
                raw.push(c);
            }
        }
    }
    flush(&mut word, &mut raw);
    out.into_iter()
        .map(|t| match t {
            Token::Word(w) if w.text.starts_with('\u{1}') => Token::Operator(operators[w.text[1..].parse::<usize>().unwrap() - 1].clone()),
            t => t,
        })
        .collect()
}

fn script(text: &str, origin: &[String], call: &mut Call) {
    let mut words: Vec<Word> = Vec::new();
    let mut redirects = Vec::new();
    let mut pending: Option<Access> = None;
    for token in tokens(&text.replace("2>&1", "")) {
        match token {
            Token::Operator(op) if op.starts_with('>') => pending = Some(Access::Write),
            Token::Operator(op) if op.starts_with('<') => pending = Some(Access::Read),
            Token::Operator(_) => simple(core::mem::take(&mut words), core::mem::take(&mut redirects), origin, call),
            Token::Word(w) => match pending.take() {
                Some(access) => {
                    call.paths.push(path_use(&w.text, access, w.exact));
                    redirects.push(Redirect { target: w, access });
                }
                None => words.push(w),
            },
        }
    }
    simple(words, redirects, origin, call);
}

fn simple(words: Vec<Word>, redirects: Vec<Redirect>, origin: &[String], call: &mut Call) {
    let assignment =
        |w: &Word| w.text.split_once('=').is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    let split = words.iter().position(|w| !assignment(w)).unwrap_or(words.len());
    let (env, argv) = words.split_at(split);
    if env.iter().any(|w| w.text.starts_with("PATH=") || w.text.starts_with("LD_")) {
        call.parse = Parse::Partial;
    }
    let Some(program) = argv.first() else { return };
    let exact = argv.iter().all(|w| w.exact);
    call.commands.push(Command { argv: argv.to_vec(), env: env.to_vec(), redirects, origin: origin.to_vec(), exact });
    if !program.exact {
        call.parse = Parse::Partial;
        return;
    }
    let name = program.text.rsplit('/').next().unwrap_or_default().to_owned();
    let args = &argv[1..];
    let inside = |label: &str| [origin, &[label.to_owned()]].concat();
    let operand = |from: usize| args.iter().skip(from).position(|w| !w.text.starts_with('-')).map(|i| i + from);
    match name.as_str() {
        "sh" | "bash" | "zsh" => {
            if let Some(at) = args.iter().position(|w| w.text.starts_with('-') && w.text.ends_with('c')) {
                match args.get(at + 1) {
                    Some(code) if code.exact => script(&code.text.clone(), &inside(&format!("{name} -c")), call),
                    _ => call.parse = Parse::Partial,
                }
            }
        }
        "eval" if args.iter().all(|w| w.exact) => {
            let code = args.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
            script(&code, &inside("eval"), call);
        }
        "python" | "python3" | "perl" | "node" | "eval" | "source" | "." | "awk" => call.parse = Parse::Partial,
        "xargs" => {
            call.parse = Parse::Partial;
            if let Some(at) = operand(0) {
                simple(args[at..].to_vec(), vec![], &inside("xargs"), call);
            }
        }
        "sudo" | "doas" | "nohup" | "nice" | "time" | "command" | "setsid" | "stdbuf" => {
            let from = args.iter().position(|w| w.text == "-n" || w.text == "-u").map_or(0, |i| i + 2);
            if let Some(at) = operand(from) {
                simple(args[at..].to_vec(), vec![], &inside(&name), call);
            }
        }
        "env" => {
            let at = args.iter().position(|w| !w.text.starts_with('-') && !assignment(w));
            if args.iter().any(|w| w.text.starts_with("LD_") || w.text.starts_with("PATH=")) {
                call.parse = Parse::Partial;
            }
            if let Some(at) = at {
                let from = args.iter().position(&assignment).unwrap_or(at).min(at);
                simple(args[from..].to_vec(), vec![], &inside("env"), call);
            }
        }
        "timeout" | "ssh" => {
            let from = args.iter().position(|w| w.text == "-k").map_or(0, |i| i + 2);
            if let Some(at) = operand(from).and_then(|i| operand(i + 1)) {
                simple(args[at..].to_vec(), vec![], &inside(&name), call);
            }
        }
        "docker" if args.first().is_some_and(|w| w.text == "exec") => {
            if let Some(at) = operand(1).and_then(|i| operand(i + 1)) {
                simple(args[at..].to_vec(), vec![], &inside("docker exec"), call);
            }
        }
        "find" => {
            if let Some(at) = args.iter().position(|w| w.text.starts_with("-exec")) {
                let end = args.iter().position(|w| w.text == ";" || w.text == "+").unwrap_or(args.len());
                simple(args[at + 1..end].to_vec(), vec![], &inside("find -exec"), call);
            }
        }
        "cat" | "head" | "tail" | "less" | "wc" => {
            for w in args.iter().filter(|w| !w.text.starts_with('-')) {
                call.paths.push(path_use(&w.text, Access::Read, w.exact));
            }
        }
        "grep" | "rg" => {
            for w in args.iter().filter(|w| !w.text.starts_with('-')).skip(1) {
                call.paths.push(path_use(&w.text, Access::Read, w.exact));
            }
        }
        "rm" | "touch" | "mkdir" | "tee" | "mv" => {
            for w in args.iter().filter(|w| !w.text.starts_with('-')) {
                call.paths.push(path_use(&w.text, Access::Write, w.exact));
            }
        }
        "curl" => call.urls.extend(args.iter().filter(|w| w.text.contains("://")).map(|w| w.text.clone())),
        _ => {}
    }
}
