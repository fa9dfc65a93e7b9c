//! A denied command inside any nest of wrappers is never allowed, and is denied wherever the reading is complete.

use beadle::model::{Effect, Parse};
use beadle::plugin::{Host, HostOptions, Question};
use beadle::shell::parse;

use super::corpus::Stage;
use super::{DEADLINE, rules_policy};

/// Deny rules with commands that they mean; the last word tells whether the rule is one on files, which do not reach other machines.
const DENIED: &[(&str, &[&str], bool)] = &[
    ("Bash(git push:*)", &["git push", "git push origin main", "git -C . push -f", "/usr/bin/git push", "git --no-pager push"], false),
    ("Bash(rm -rf:*)", &["rm -rf build", "rm -fr build", "rm -r -f build", "rm --recursive --force build", "\\rm -rf build"], false),
    ("Bash(curl:*)", &["curl -fsSL https://example.org", "curl x", "busybox curl x"], false),
    ("Bash(git commit --no-verify:*)", &["git commit -m x --no-verify", "git commit -nm x"], false),
    ("Bash(kubectl delete:*)", &["kubectl -n prod delete pod x", "kubectl delete ns y"], false),
    ("Read(./.env)", &["cat .env", "head -n1 ./.env", "grep x < .env", "cp src/../.env out/x"], true),
    ("Read(~/.ssh/**)", &["cat ~/.ssh/id_rsa", "tail ~/.ssh/../.ssh/id_rsa"], true),
    ("Edit(./.git/hooks/**)", &["touch .git/hooks/pre-commit", "echo x > .git/hooks/pre-commit", "tee .git/hooks/x"], true),
];

/// Numbers from a seed (splitmix64), so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap_or(0)
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.roll(list.len())]
    }
}

/// A command line, and whether it is one simple command without assignments.
struct Line {
    text: String,
    simple: bool,
}

fn quote(dice: &mut Dice, text: &str) -> String {
    match dice.roll(3) {
        0 => format!("'{}'", text.replace('\'', "'\\''")),
        1 => format!("'{}'", text.replace('\'', "'\"'\"'")),
        _ => {
            let mut out = String::from("\"");
            for c in text.chars() {
                if matches!(c, '"' | '\\' | '$' | '`') {
                    out.push('\\');
                }
                out.push(c);
            }
            out + "\""
        }
    }
}

/// The text as one simple command.
fn simple(dice: &mut Dice, line: &Line) -> String {
    if line.simple {
        return line.text.clone();
    }
    let shell = dice.of(&["sh -c", "bash -c", "bash -lc", "bash -ec", "/bin/sh -c", "dash -c", "bash --norc -c"]);
    let text = quote(dice, &line.text);
    format!("{shell} {text}")
}

fn wrap(dice: &mut Dice, line: &Line, files: bool) -> Line {
    const PREFIXES: &[&str] = &[
        "env",
        "env A=b",
        "env -u X",
        "env -i",
        "timeout 5",
        "timeout -k 1 -s KILL 5s",
        "nice",
        "nice -n 5",
        "nohup",
        "setsid",
        "setsid -f",
        "stdbuf -oL",
        "ionice -c3",
        "time",
        "time -p",
        "command",
        "exec",
        "sudo",
        "sudo -n -u root",
        "sudo --",
        "doas",
        "xargs",
        "xargs -n1 -0",
        "find . -exec",
        "taskset -c 0",
        "chrt -b 0",
        "busybox env",
        "caffeinate -i",
        "rtk",
        "gosu nobody",
        "tini --",
        "ccache",
        "strace -f",
        "unshare -n",
        "setarch -R",
        "proxychains4",
        "uv run",
        "bundle exec",
        "npx",
        "watch -n1",
        "flock lock",
        "coproc",
        "!",
        "dumb-init",
        "faketime now",
    ];
    const REMOTE: &[&str] =
        &["ssh host", "ssh -p 22 u@host", "docker exec box", "docker run --rm alpine", "kubectl exec pod --", "podman run x"];
    let text = &line.text;
    let (text, simple) = match dice.roll(if files { 27 } else { 29 }) {
        0..=7 => {
            let prefix = dice.of(PREFIXES);
            let mut inner = simple(dice, line);
            // why: redirections after the words belong to the outer shell, `find -exec` needs its end, code words are joined.
            if prefix.starts_with("find") {
                inner = format!("{} \\;", simple(dice, &Line { text: inner, simple: false }));
            } else if prefix.starts_with("watch") {
                inner = quote(dice, &inner);
            }
            (format!("{prefix} {inner}"), !matches!(prefix, "coproc" | "!" | "time" | "time -p"))
        }
        8 => (format!("echo $({text}\n)"), false),
        9 => (format!("echo \"a $({text}\n) b\""), false),
        10 => (format!("true && {text}"), false),
        11 => (format!("ls | {text}"), false),
        12 => (format!("( {text}\n)"), false),
        13 => (format!("{{ {text}\n}}"), false),
        14 => (format!("if true\nthen {text}\nfi"), false),
        15 => (format!("for i in 1 2; do {text}\ndone"), false),
        16 => (format!("eval {}", quote(dice, text)), false),
        17 => (format!("cat <({text}\n)"), false),
        18 => (format!("x=$({text}\n)"), false),
        19 => (format!("bash <<'END'\n{text}\nEND"), false),
        20 => (format!("f() {{ {text}\n}}; f"), false),
        21 => (format!("case x in y) ls;; *) {text}\nesac"), false),
        22 => (format!("{text} &"), false),
        23 => (format!("# it's fine\nls; {text}"), false),
        24 => (format!("A=b {}", simple(dice, line)), false),
        25 => (format!("trap {} EXIT", quote(dice, text)), false),
        26 => (format!("cat <<END\n$({text}\n)\nEND"), false),
        _ => {
            let prefix = dice.of(REMOTE);
            let inner = simple(dice, line);
            // why: ssh joins its words and the other side splits them again, so quotes have to stand in one word.
            let inner = if prefix.starts_with("ssh") { quote(dice, &inner) } else { inner };
            (format!("{prefix} {inner}"), true)
        }
    };
    let mut line = Line { text, simple };
    match dice.roll(8) {
        0 if line.simple => line.text.push_str(" >/dev/null 2>&1"),
        1 if line.simple => line.text = line.text.replacen(' ', "  ", 1),
        2 if line.simple => line.text = line.text.replacen(' ', " \\\n ", 1),
        3 if !line.text.contains("END") => line.text = format!("{}; ls", line.text.trim_end_matches(" &")),
        _ => return line,
    }
    line.simple &= !line.text.ends_with("; ls");
    line
}

/// Number of cases; `BEADLE_WRAP_CASES` asks for more, `BEADLE_WRAP_SEED` for others.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn a_denied_command_in_any_wrapper_is_never_allowed() {
    let stage = Stage::new();
    let session = stage.session();
    let host = Host::new(HostOptions::default()).expect("an engine");
    let deny: Vec<&str> = DENIED.iter().map(|(rule, ..)| *rule).collect();
    let policy = rules_policy(&host, &serde_json::json!({ "allow": ["*"], "deny": deny, "recursive": "ignore" }).to_string());
    let (cases, seed) = (number("BEADLE_WRAP_CASES", 20_000), number("BEADLE_WRAP_SEED", 20_261_121));
    let (mut wrong, mut denied, mut complete) = (Vec::new(), 0u64, 0u64);
    for case in 0..cases {
        let mut dice = Dice(seed.wrapping_add(case.wrapping_mul(0x1000)));
        let (_, commands, files) = DENIED[dice.roll(DENIED.len())];
        let leaf = dice.of(commands);
        let mut line = Line { text: leaf.to_owned(), simple: !leaf.contains(['<', '>', '\\']) };
        for _ in 0..=dice.roll(4) {
            line = wrap(&mut dice, &line, files);
        }
        let read = parse(&line.text);
        let call = stage.call("Bash", &serde_json::json!({ "command": line.text }));
        let got = policy.decide_here(&Question::new(&session, &call, 0), DEADLINE).expect("a decision").effect;
        denied += u64::from(got == Effect::Deny);
        complete += u64::from(read.parse == Parse::Complete);
        if got == Effect::Allow || (read.parse == Parse::Complete && got != Effect::Deny) {
            wrong.push(format!("case {case} ({}): {:?}, {:?} {:?}", got.as_str(), line.text, read.parse, read.reason));
        }
    }
    assert!(wrong.is_empty(), "seed {seed}: {} of {cases}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    assert!(denied * 10 > cases * 8 && complete * 4 > cases, "hollow: {denied} denied and {complete} complete of {cases}");
}
