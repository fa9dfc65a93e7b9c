//! How Claude Code is started so that a hostile repository cannot undo the gate, and what of the caller's arguments and
//! environment is passed on.
//!
//! | what a repository or a call could try | measure |
//! | --- | --- |
//! | settings, hooks, agents, skills, `env.ANTHROPIC_BASE_URL`, `apiKeyHelper`, CLAUDE.md | `--setting-sources=` (none) |
//! | `.mcp.json` | `--strict-mcp-config`; only the operator's servers are named |
//! | hooks by any other way | `disableAllHooks: true` in our `--settings`; those of the channel itself stay (seen) |
//! | a permission mode or rule that lets calls pass unasked | `permissions.ask: ["*"]`; seen to hold in every mode |
//! | `core.fsmonitor` of the repository, run by `git status` at start | git instructions off twice, `GIT_CONFIG_*` against it |
//! | `@path` in a prompt, read unasked | `CLAUDE_CODE_DISABLE_ATTACHMENTS=1` |
//! | programs named `git` or `rg` in the working directory | `PATH` keeps absolute folders only |
//! | code loaded by environment (`BASH_ENV`, `LD_*`, `BUN_*`, `CLAUDE_ENV_FILE`, …) | removed, by an allow-list for `CLAUDE*` |
//!
//! The user's login stays: `HOME`, `CLAUDE_CONFIG_DIR`, `ANTHROPIC_*` and provider settings pass. A login that exists only
//! as `apiKeyHelper` or `env` in the user's own settings file does not, as that file is not read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde_json::json;

use crate::agent::{Callbacks, Error, Launch, LaunchRequest, mcp};
use crate::model::TranscriptNamed;

const AGENT: &str = "claude";

/// The longest argument the kernel takes (32 pages of 4 KiB with the final zero).
pub const ARGUMENT_MAX: usize = 131_071;

/// Arguments that pass, and whether a value belongs to them. Each can only choose, narrow or name something.
const ALLOWED: &[(&str, bool)] = &[
    ("--append-system-prompt", true),
    ("--betas", true),
    ("--debug", false),
    ("--disable-slash-commands", false),
    ("--disallowed-tools", true),
    ("--disallowedTools", true),
    ("--effort", true),
    ("--exclude-dynamic-system-prompt-sections", false),
    ("--fallback-model", true),
    ("--json-schema", true),
    ("--max-budget-usd", true),
    ("--max-turns", true),
    ("--model", true),
    ("--name", true),
    ("--no-session-persistence", false),
    ("--permission-mode", true),
    ("--system-prompt", true),
    ("--tools", true),
];

const CHANNEL: &str = "the host speaks over this channel and sets it itself";
const SETTINGS: &str = "it can add rules, hooks or settings that undo the gate";
const MODE: &str = "the host's policies decide about calls; the agent's own permission settings must not";
const SERVERS: &str = "it starts programs or connections before any decision; name MCP servers in the host's configuration";
const OUR_NAME: &str = "one of its servers has the name of the host's own tools, `beadle`; give it another, or go without those tools (--no-host-tools, or session.host_tools = \"off\")";
const CONVERSATION: &str = "the host chooses and records the agent's conversation";
const ELSEWHERE: &str = "the agent would run outside the supervised process";

/// Arguments that are known and do not pass, and why.
const REFUSED: &[(&str, &str)] = &[
    ("--add-dir", "paths are a matter of policy, and the folder's own skills and instructions would be read"),
    ("--agent", SETTINGS),
    ("--agents", "its definitions can carry hooks and permission modes"),
    ("--allow-dangerously-skip-permissions", MODE),
    ("--allowed-tools", MODE),
    ("--allowedTools", MODE),
    ("--background", ELSEWHERE),
    ("--bare", "it cuts tools and the user's login and changes which settings hold"),
    ("--bg", ELSEWHERE),
    ("--chrome", SERVERS),
    ("--continue", CONVERSATION),
    ("-c", CONVERSATION),
    ("--dangerously-skip-permissions", MODE),
    ("--file", SERVERS),
    ("--fork-session", CONVERSATION),
    ("--from-pr", CONVERSATION),
    ("--ide", SERVERS),
    ("--include-partial-messages", CHANNEL),
    ("--input-format", CHANNEL),
    ("--mcp-config", SERVERS),
    ("--output-format", CHANNEL),
    ("--permission-prompt-tool", CHANNEL),
    ("--plugin-dir", SETTINGS),
    ("--plugin-url", SETTINGS),
    ("--print", CHANNEL),
    ("-p", CHANNEL),
    ("--remote-control", ELSEWHERE),
    ("--replay-user-messages", CHANNEL),
    ("--resume", CONVERSATION),
    ("-r", CONVERSATION),
    ("--safe-mode", SETTINGS),
    ("--session-id", CONVERSATION),
    ("--setting-sources", SETTINGS),
    ("--settings", SETTINGS),
    ("--strict-mcp-config", CHANNEL),
    ("--tmux", ELSEWHERE),
    ("--worktree", "the agent would work in another folder than the one recorded"),
    ("-w", "the agent would work in another folder than the one recorded"),
];

/// Variables of the agent's own name space that pass: login, provider, models and limits. All other `CLAUDE*` are removed.
const KEPT: &[&str] = &[
    "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE",
    "CLAUDE_CODE_API_KEY_HELPER_TTL_MS",
    "CLAUDE_CODE_AUTO_COMPACT_WINDOW",
    "CLAUDE_CODE_CERT_STORE",
    "CLAUDE_CODE_CLIENT_CERT",
    "CLAUDE_CODE_CLIENT_KEY",
    "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE",
    "CLAUDE_CODE_DISABLE_1M_CONTEXT",
    "CLAUDE_CODE_DISABLE_ADAPTIVE_THINKING",
    "CLAUDE_CODE_DISABLE_AUTO_MEMORY",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS",
    "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS",
    "CLAUDE_CODE_DISABLE_FAST_MODE",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "CLAUDE_CODE_DISABLE_THINKING",
    "CLAUDE_CODE_EFFORT_LEVEL",
    "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS",
    "CLAUDE_CODE_MAX_CONTEXT_TOKENS",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
    "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_OAUTH_REFRESH_TOKEN",
    "CLAUDE_CODE_OAUTH_SCOPES",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_SKIP_ANTHROPIC_AWS_AUTH",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_SKIP_FOUNDRY_AUTH",
    "CLAUDE_CODE_SKIP_MANTLE_AUTH",
    "CLAUDE_CODE_SKIP_VERTEX_AUTH",
    "CLAUDE_CODE_SUBAGENT_MODEL",
    "CLAUDE_CODE_SUBPROCESS_ENV_SCRUB",
    "CLAUDE_CODE_TMPDIR",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_SECURESTORAGE_CONFIG_DIR",
];

/// Other variables that load code into the agent or its shells, or lift its own guards: removed.
const REMOVED: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "ENV",
    "GCONV_PATH",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GLIBC_TUNABLES",
    "IS_SANDBOX",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "PROMPT_COMMAND",
    "PS4",
    "SHELLOPTS",
];
const REMOVED_PREFIXES: &[&[u8]] = &[b"BASH_FUNC_", b"BUN_", b"CLAUDE", b"GIT_CONFIG", b"LD_"];

/// Variables that somebody sets to change how calls run or are asked about: dropping them in silence would be worse.
const REFUSED_VARIABLES: &[(&str, &str)] = &[
    ("BUN_BE_BUN", "the agent's executable would run as another program"),
    ("CLAUDE_CODE_MANAGED_SETTINGS_PATH", "it names settings that can undo the gate"),
    ("CLAUDE_CODE_REMOTE_SETTINGS_PATH", "it names settings that can undo the gate"),
    ("CLAUDE_CODE_SAFE_MODE", "it changes which settings hold"),
    ("CLAUDE_CODE_SHELL_PREFIX", "it would run another program than the one that was judged"),
    ("CLAUDE_CODE_SIMPLE", "it cuts tools and the user's login and changes which settings hold"),
];

/// What the recipe sets whatever the caller has.
const SET: &[(&str, &str)] = &[
    ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1"),
    ("CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
    ("GIT_CONFIG_COUNT", "1"),
    ("GIT_CONFIG_KEY_0", "core.fsmonitor"),
    ("GIT_CONFIG_VALUE_0", "false"),
];

/// The recipe; see the table above.
pub fn launch(r: &LaunchRequest) -> Result<Launch, Error> {
    let chosen = arguments(&r.args)?;
    let settings = json!({
        "permissions": {"ask": ["*"], "disableBypassPermissionsMode": "disable"},
        "disableAllHooks": true,
        "disableAutoMode": "disable",
        "includeGitInstructions": false,
    });
    let mut args: Vec<String> = [
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--include-partial-messages",
        "--verbose",
        "--permission-prompt-tool=stdio",
        "--setting-sources=",
        "--strict-mcp-config",
    ]
    .map(String::from)
    .to_vec();
    args.push(format!("--settings={settings}"));
    args.push(format!("{}={}", if r.goes_on { "--resume" } else { "--session-id" }, r.agent_session_id));
    // why not with those: a channel that was loosened may not ask about the calls of these tools.
    let tools = r.host_tools && r.unsafe_args.is_empty();
    if tools && r.mcp_config.as_ref().is_some_and(names_ours) {
        return Err(refused("--mcp-config", OUR_NAME));
    }
    if let Some(servers) = &r.mcp_config {
        args.push(format!("--mcp-config={servers}"));
    }
    if let Some(model) = r.model.as_deref().filter(|_| !chosen.passed.iter().any(|a| a.starts_with("--model="))) {
        args.push(format!("--model={model}"));
    }
    let appended: Vec<&str> = r.instructions.as_deref().into_iter().chain(chosen.appended.as_deref()).collect();
    if !appended.is_empty() {
        args.push(format!("--append-system-prompt={}", appended.join("\n\n")));
    }
    args.extend(chosen.passed);
    let (mediation, mediation_note) = super::lowered(&r.unsafe_args);
    let transcript = transcript(r);
    // why: without its own record there is nothing to resume from; a channel that was loosened is not built upon.
    let resumes = transcript.is_some() && r.unsafe_args.is_empty();
    let holds = r.hold && resumes;
    args.extend(r.unsafe_args.iter().cloned());
    if let Some(long) = args.iter().find(|a| a.len() > ARGUMENT_MAX) {
        return Err(refused(name_of(long), "its value is longer than the 131,071 bytes that one argument may have"));
    }
    Ok(Launch {
        program: r.program.clone().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| AGENT.into()),
        args: args.into_iter().map(Into::into).collect(),
        env: environment(&r.env)?,
        frames: super::opening(r.prompt.as_deref(), &r.context, Callbacks { hold: holds, results: r.results, tools }),
        mediation,
        mediation_note,
        keep_stdin: true,
        transcript,
        holds,
        resumes,
    })
}

/// The agent writes its record below its configuration folder, one file a conversation, unless it is told to write none.
fn transcript(r: &LaunchRequest) -> Option<TranscriptNamed> {
    if r.args.iter().chain(&r.unsafe_args).any(|a| a == "--no-session-persistence") {
        return None;
    }
    let set = |name: &str| r.env.get(OsStr::new(name)).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = set("CLAUDE_CONFIG_DIR").or_else(|| set("HOME").map(|h| h.join(".claude")))?;
    let root = r.cwd.join(config).join("projects");
    Some(TranscriptNamed { root: root.to_str()?.to_owned(), conversation: r.agent_session_id.clone(), written: 0 })
}

/// Whether the operator's servers have one whose tools could be taken for the host's own.
fn names_ours(servers: &serde_json::Value) -> bool {
    let inner = servers.get("mcpServers").and_then(serde_json::Value::as_object);
    servers.as_object().into_iter().chain(inner).flat_map(|o| o.keys()).any(|name| mcp::is_taken(name))
}

struct Arguments {
    /// One token each, `--name` or `--name=value`, so that no value can be taken for an option.
    passed: Vec<String>,
    appended: Option<String>,
}

fn arguments(given: &[String]) -> Result<Arguments, Error> {
    let mut out = Arguments { passed: Vec::new(), appended: None };
    let mut rest = given.iter();
    while let Some(arg) = rest.next() {
        let name = name_of(arg);
        let Some(&(_, takes_value)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
            return Err(refused(name, why_refused(name)));
        };
        if !takes_value {
            // why: `--debug=filter` is the one flag with an optional value.
            if arg.len() > name.len() && name != "--debug" {
                return Err(refused(arg, "this argument takes no value"));
            }
            out.passed.push(arg.clone());
            continue;
        }
        let value = match arg.split_once('=') {
            Some((_, v)) => v,
            None => rest.next().map(String::as_str).ok_or_else(|| refused(name, "its value is missing"))?,
        };
        match name {
            "--append-system-prompt" => out.appended = Some(value.to_owned()),
            "--permission-mode" if !matches!(value, "default" | "plan") => {
                return Err(refused(&format!("{name}={value}"), MODE));
            }
            _ => out.passed.push(format!("{name}={value}")),
        }
    }
    Ok(out)
}

fn name_of(arg: &str) -> &str {
    arg.split_once('=').map_or(arg, |(n, _)| n)
}

fn why_refused(name: &str) -> &'static str {
    if !name.starts_with('-') {
        return "a bare word is a prompt or a subcommand to the agent; give the prompt to the host";
    }
    REFUSED.iter().find(|(n, _)| *n == name).map_or("it is not on the list of arguments known to leave the gate whole", |(_, w)| w)
}

fn refused(arg: &str, why: &'static str) -> Error {
    Error::RefusedArgument { agent: AGENT, arg: arg.chars().take(128).collect(), why }
}

fn environment(given: &BTreeMap<OsString, OsString>) -> Result<BTreeMap<OsString, OsString>, Error> {
    let mut env = BTreeMap::new();
    for (name, value) in given {
        if let Some((name, why)) = REFUSED_VARIABLES.iter().find(|(n, _)| name == *n) {
            if !matches!(value.as_bytes(), b"" | b"0" | b"false") {
                return Err(Error::RefusedEnvironment { agent: AGENT, name: (*name).to_owned(), why });
            }
            continue;
        }
        if name == "PATH" {
            env.insert(name.clone(), absolute_only(value));
        } else if passes(name) {
            env.insert(name.clone(), value.clone());
        }
    }
    env.extend(SET.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))));
    Ok(env)
}

fn passes(name: &OsStr) -> bool {
    if KEPT.iter().any(|k| name == *k) {
        return true;
    }
    let prefixed = REMOVED_PREFIXES.iter().any(|p| name.as_bytes().starts_with(p));
    !prefixed && !REMOVED.iter().any(|r| name == *r)
}

/// `PATH` without empty and relative entries, which mean the working directory.
fn absolute_only(path: &OsStr) -> OsString {
    let kept: Vec<&[u8]> = path.as_bytes().split(|b| *b == b':').filter(|p| p.starts_with(b"/")).collect();
    OsString::from_vec(kept.join(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mediation;

    fn request() -> LaunchRequest {
        LaunchRequest { agent_session_id: "11111111-1111-4111-8111-111111111111".into(), ..Default::default() }
    }

    fn with(args: &[&str]) -> LaunchRequest {
        LaunchRequest { args: args.iter().map(|a| (*a).to_owned()).collect(), ..request() }
    }

    fn has(l: &Launch, arg: &str) -> bool {
        l.args.iter().any(|a| a == arg)
    }

    #[test]
    fn the_bare_recipe() {
        let l = launch(&request()).expect("launch");
        assert_eq!(l.program, std::path::Path::new("claude"));
        for a in ["-p", "--setting-sources=", "--strict-mcp-config", "--permission-prompt-tool=stdio"] {
            assert!(has(&l, a), "{a}");
        }
        let settings = l.args.iter().find_map(|a| a.to_str()?.strip_prefix("--settings=")).expect("settings");
        let settings: serde_json::Value = serde_json::from_str(settings).expect("json");
        assert_eq!(settings["permissions"]["ask"], json!(["*"]));
        assert_eq!((&settings["disableAllHooks"], &settings["includeGitInstructions"]), (&json!(true), &json!(false)));
        assert_eq!((l.mediation, l.mediation_note, l.keep_stdin, l.frames.len()), (Mediation::Gate, None, true, 1));
    }

    #[test]
    fn values_become_one_token_and_instructions_come_first() {
        let mut r = with(&["--model", "--settings={}", "--append-system-prompt", "mine", "--tools=Bash,Read"]);
        r.model = Some("other".into());
        r.instructions = Some("repo".into());
        r.mcp_config = Some(json!({"mcpServers": {}}));
        r.prompt = Some("go".into());
        let l = launch(&r).expect("launch");
        for a in ["--model=--settings={}", "--append-system-prompt=repo\n\nmine", "--tools=Bash,Read", r#"--mcp-config={"mcpServers":{}}"#]
        {
            assert!(has(&l, a), "{a}");
        }
        assert!(!has(&l, "--model=other"));
        assert_eq!(l.frames.len(), 2);
    }

    #[test]
    fn what_undoes_the_gate_is_refused_and_named() {
        let names = REFUSED.iter().map(|(n, _)| *n).chain([
            "--unheard-of",
            "--settings={}",
            "update",
            "--permission-mode=bypassPermissions",
            "--model",
            "-x",
            "--",
        ]);
        for arg in names {
            let e = launch(&with(&[arg])).expect_err(arg);
            assert_eq!(e.code(), "BDL-AGENT-002");
            assert!(e.to_string().contains(name_of(arg)) && !e.to_string().contains("{}"), "{e}");
        }
        assert!(ALLOWED.iter().all(|(n, _)| !REFUSED.iter().any(|(r, _)| r == n)));
        assert!(launch(&with(&["--disable-slash-commands=x"])).is_err());
        let long = "x".repeat(ARGUMENT_MAX);
        assert!(launch(&with(&["--system-prompt", &long])).is_err());
    }

    #[test]
    fn the_hosts_own_tools_are_named_in_the_handshake_and_by_no_argument() {
        let with = |servers: serde_json::Value, unsafe_args: &[&str]| LaunchRequest {
            host_tools: true,
            mcp_config: Some(servers),
            unsafe_args: unsafe_args.iter().map(|a| (*a).to_owned()).collect(),
            ..request()
        };
        let others = json!({"mcpServers": {"notes": {"command": "n"}}});
        let l = launch(&with(others.clone(), &[])).expect("launch");
        assert!(String::from_utf8_lossy(&l.frames[0]).contains(r#""sdkMcpServers":["beadle"]"#));
        assert_eq!(l.args, launch(&LaunchRequest { host_tools: false, ..with(others.clone(), &[]) }).expect("launch").args);
        for named in ["beadle", "beadle__x"] {
            let e = launch(&with(json!({"mcpServers": {named: {"command": "n"}}}), &[])).expect_err(named);
            assert!(e.to_string().contains("--no-host-tools"), "{e}");
        }
        assert!(launch(&LaunchRequest { host_tools: false, ..with(json!({"mcpServers": {"beadle": {}}}), &[]) }).is_ok());
        let loosened = launch(&with(others, &["--bare"])).expect("launch");
        assert!(!String::from_utf8_lossy(&loosened.frames[0]).contains("sdkMcpServers"), "a loosened channel may not ask");
    }

    #[test]
    fn unsafe_arguments_end_the_promise() {
        let mut r = request();
        r.unsafe_args = vec!["--settings={\"secret\":1}".into(), "--bare".into()];
        let l = launch(&r).expect("launch");
        assert_eq!(l.mediation, Mediation::None);
        let note = l.mediation_note.expect("a note");
        assert!(note.contains("--settings") && note.contains("--bare") && !note.contains("secret"), "{note}");
        assert_eq!(l.args.last().map(|a| a.to_string_lossy().into_owned()).as_deref(), Some("--bare"));
    }

    #[test]
    fn environment_keeps_the_login_and_drops_loaders() {
        let mut r = request();
        for (k, v) in [
            ("HOME", "/h"),
            ("PATH", ":/usr/bin:.:bin:/bin:"),
            ("CLAUDE_CONFIG_DIR", "/c"),
            ("ANTHROPIC_API_KEY", "k"),
            ("CLAUDE_CODE_OAUTH_TOKEN", "t"),
            ("CLAUDECODE", "1"),
            ("CLAUDE_ENV_FILE", "/e"),
            ("CLAUDE_CODE_ENTRYPOINT", "cli"),
            ("LD_PRELOAD", "x"),
            ("BASH_ENV", "x"),
            ("BASH_FUNC_ls%%", "x"),
            ("NODE_OPTIONS", "x"),
            ("NODE_EXTRA_CA_CERTS", "/ca"),
            ("GIT_CONFIG_PARAMETERS", "x"),
            ("GIT_CONFIG_COUNT", "7"),
            ("CLAUDE_CODE_SIMPLE", "0"),
        ] {
            r.env.insert(k.into(), v.into());
        }
        let env = launch(&r).expect("launch").env;
        let get = |k: &str| env.get(OsStr::new(k)).map(|v| v.to_string_lossy().into_owned());
        for (k, v) in [
            ("HOME", "/h"),
            ("PATH", "/usr/bin:/bin"),
            ("CLAUDE_CONFIG_DIR", "/c"),
            ("ANTHROPIC_API_KEY", "k"),
            ("CLAUDE_CODE_OAUTH_TOKEN", "t"),
            ("NODE_EXTRA_CA_CERTS", "/ca"),
            ("GIT_CONFIG_COUNT", "1"),
        ] {
            assert_eq!(get(k).as_deref(), Some(v), "{k}");
        }
        assert_eq!(env.len(), 6 + SET.len());
    }

    #[test]
    fn variables_that_change_the_gate_are_refused() {
        for (name, _) in REFUSED_VARIABLES {
            let mut r = request();
            r.env.insert((*name).into(), "1".into());
            let e = launch(&r).expect_err(name);
            assert!(e.code() == "BDL-AGENT-003" && e.to_string().contains(name), "{e}");
        }
    }
}
