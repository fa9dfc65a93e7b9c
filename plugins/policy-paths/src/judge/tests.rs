use super::*;
use beadle_plugin::{Command, Effect, Word};

fn session() -> Session {
    Session { root: "/w".into(), home: Some("/home/u".into()), ..Session::default() }
}

fn path(written: &str, resolved: &str, access: Access, exact: bool) -> PathUse {
    let absolute = if written.starts_with('/') { written.to_owned() } else { format!("/w/{written}") };
    PathUse { written: written.into(), absolute, resolved: resolved.into(), access, exact }
}

fn call(paths: Vec<PathUse>) -> Call {
    Call { cwd: "/w".into(), tool: "Write".into(), kind: ToolKind::Edit, paths, ..Call::default() }
}

fn effect(config: &str, call: &Call) -> Effect {
    Paths::read(config).expect(config).judge(&session(), call).effect
}

fn command(words: &[&str]) -> Call {
    Call {
        cwd: "/w".into(),
        kind: ToolKind::Execute,
        tool: "Bash".into(),
        commands: vec![Command::of(words.iter().copied())],
        ..Call::default()
    }
}

#[test]
fn writes_land_inside() {
    let write = |resolved: &str| call(vec![path("x", resolved, Access::Write, true)]);
    for (config, resolved, want) in [
        ("{}", "/w/x", Effect::Abstain),
        ("{}", "/etc/x", Effect::Deny),
        ("{}", "/w2/x", Effect::Deny),
        (r#"{"on_outside": "ask"}"#, "/etc/x", Effect::Ask),
        (r#"{"write": ["@write-root", "/tmp"]}"#, "/tmp/x", Effect::Abstain),
        (r#"{"write": []}"#, "/w/x", Effect::Deny),
        (r#"{"write": ["~/n"]}"#, "/home/u/n/x", Effect::Abstain),
    ] {
        assert_eq!(effect(config, &write(resolved)), want, "{config} {resolved}");
    }
    let in_root = Call { write_root: Some("/w/out".into()), ..write("/w/x") };
    assert_eq!(effect("{}", &in_root), Effect::Deny);
    assert_eq!(effect("{}", &call(vec![path("x", "/etc/x", Access::Read, true)])), Effect::Abstain);
    assert_eq!(effect("{}", &call(vec![path("x", "/etc/x", Access::ReadWrite, true)])), Effect::Deny);
}

#[test]
fn read_roots_bind_reads_and_writable_places_are_readable() {
    let read = |resolved: &str| call(vec![path("x", resolved, Access::Read, true)]);
    let config = r#"{"read": ["/usr"]}"#;
    for (resolved, want) in [("/usr/x", Effect::Abstain), ("/w/x", Effect::Abstain), ("/etc/x", Effect::Deny)] {
        assert_eq!(effect(config, &read(resolved)), want, "{resolved}");
    }
}

#[test]
fn secrets_count_by_either_name() {
    for (written, resolved, want) in [
        (".env", "/w/.env", Effect::Deny),
        ("link", "/w/.env", Effect::Deny),
        (".env", "/w/plain", Effect::Deny),
        (".env.example", "/w/.env.example", Effect::Abstain),
        (".env.example", "/w/.env", Effect::Deny),
        ("/proc/self/root/etc/shadow", "/proc/self/root/etc/shadow", Effect::Deny),
        ("/home/u/.ssh/id_ed25519.pub", "/home/u/.ssh/id_ed25519.pub", Effect::Abstain),
        ("/home/u/.bash_history", "/home/u/.bash_history", Effect::Deny),
    ] {
        for access in [Access::Read, Access::Write] {
            let got = effect(r#"{"write": ["/"]}"#, &call(vec![path(written, resolved, access, true)]));
            assert_eq!(got, want, "{written} {resolved}");
        }
    }
}

#[test]
fn what_cannot_be_told_never_passes() {
    for (config, want) in [("{}", Effect::Ask), (r#"{"on_uncertain": "deny"}"#, Effect::Deny)] {
        assert_eq!(effect(config, &call(vec![path("$x", "/w/$x", Access::Read, false)])), want);
        for parse in [Parse::Partial, Parse::Failed] {
            assert_eq!(effect(config, &Call { parse, ..call(vec![]) }), want);
        }
        assert_eq!(effect(config, &command(&["python3", "-c", "print(open('.env').read())"])), want);
        assert_eq!(effect(config, &command(&["rg", "key"])), want);
    }
    assert_eq!(effect(r#"{"recursive": "ignore"}"#, &command(&["rg", "key"])), Effect::Abstain);
    assert_eq!(effect("{}", &call(vec![path("/etc/$x", "/etc/$x", Access::Write, false)])), Effect::Deny);
    assert_eq!(effect("{}", &command(&["git", "commit", "-m", "ignore .env"])), Effect::Abstain);
    assert_eq!(effect("{}", &command(&["git", "show", "HEAD:.env"])), Effect::Ask);
    assert_eq!(effect("{}", &command(&["echo", ".env"])), Effect::Abstain);
    let assigned = Call { commands: vec![Command { env: vec![Word::exact("F=/w/.env")], ..Command::of(["x"]) }], ..command(&[]) };
    assert_eq!(effect("{}", &assigned), Effect::Ask);
}

#[test]
fn devices_are_free_by_their_own_name_only() {
    for written in ["/dev/null", "/dev/stderr", "/dev/fd/2"] {
        assert_eq!(effect("{}", &call(vec![path(written, "/proc/1/fd/2", Access::Write, false)])), Effect::Abstain, "{written}");
    }
    for written in ["/dev/fd/", "/dev/fd/../sda", "/dev/sda"] {
        assert_eq!(effect("{}", &call(vec![path(written, "/dev/sda", Access::Write, true)])), Effect::Deny, "{written}");
    }
}
