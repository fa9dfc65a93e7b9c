//! The host's own tools for an agent, in the words of the Model Context Protocol (JSON-RPC 2.0): requests read, answers made.
//!
//! Invariants:
//! - total: any message is one of [`Request`], and none panics;
//! - what comes back of a message is its id alone, and that is short;
//! - reading says what is asked for, never that it may be done: that is a decision on record (`session::host_tools`).
//!
//! Called by `session::host_tools`, and by `cli` for the server's name and for `beadle mcp`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::{MemoryTier, TaskStatus};

/// The server's name, as an agent knows it.
pub const SERVER: &str = "beadle";
/// How the names of its tools begin where the agent asks about them.
const PREFIX: &str = "mcp__beadle__";
/// Versions of the protocol in which these few messages are the same, the newest first.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// The longest id and name taken from a message, in bytes.
const ID_MAX: usize = 256;
/// What a notification is answered with where its carrier waits for an answer.
const NOTED: u64 = 0;

const PARSE_ERROR: i64 = -32_700;
const INVALID_REQUEST: i64 = -32_600;
const UNKNOWN_METHOD: i64 = -32_601;
const INVALID_PARAMS: i64 = -32_602;
const UNAVAILABLE: i64 = -32_000;

/// The tools' own names.
pub const TOOLS: [&str; 8] = ["memory_add", "memory_search", "task_add", "task_list", "task_update", "handoff", "note", "report"];

/// Whether an agent's tool of this name is one of them, where the agent was given them.
pub fn is_own(tool: &str) -> bool {
    tool.strip_prefix(PREFIX).is_some_and(|name| TOOLS.contains(&name))
}

/// The name under which the agent asks about a tool.
pub fn full_name(tool: &str) -> String {
    format!("{PREFIX}{tool}")
}

/// Whether another server of this name would have tools that look like these.
pub fn is_taken(server: &str) -> bool {
    let plain: String = server.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    plain == SERVER || plain.starts_with("beadle__")
}

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Nothing: it only tells.
    Notification,
    Initialize {
        id: Value,
        version: Option<String>,
    },
    Ping {
        id: Value,
    },
    List {
        id: Value,
    },
    Call {
        id: Value,
        call: ToolCall,
    },
    /// The answer says why.
    Invalid {
        answer: Value,
    },
}

/// A call of one tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    pub name: String,
    /// An object.
    pub arguments: Value,
    /// The model's id of the call, where the agent says it.
    pub call_id: Option<String>,
}

/// Reads one message.
pub fn read(message: &Value) -> Request {
    let invalid = |id: Value, code: i64, why: &str| Request::Invalid { answer: error(&id, code, why) };
    let Value::Object(m) = message else { return invalid(Value::Null, INVALID_REQUEST, "not an object") };
    let id = match m.get("id") {
        None => None,
        Some(id @ Value::Number(_)) => Some(id.clone()),
        Some(Value::String(s)) if s.len() <= ID_MAX => Some(Value::from(s.as_str())),
        Some(_) => return invalid(Value::Null, INVALID_REQUEST, "an id that is neither a number nor a short text"),
    };
    if m.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return invalid(id.unwrap_or_default(), INVALID_REQUEST, "not JSON-RPC 2.0");
    }
    let Some(method) = m.get("method").and_then(Value::as_str) else {
        return invalid(id.unwrap_or_default(), INVALID_REQUEST, "without a method");
    };
    let Some(id) = id else { return Request::Notification };
    let none = Map::new();
    let params = m.get("params").and_then(Value::as_object).unwrap_or(&none);
    match method {
        "initialize" => {
            let version = params.get("protocolVersion").and_then(Value::as_str).filter(|v| v.len() <= ID_MAX);
            Request::Initialize { id, version: version.map(str::to_owned) }
        }
        "ping" => Request::Ping { id },
        "tools/list" => Request::List { id },
        "tools/call" => match tool_call(params) {
            Ok(call) => Request::Call { id, call },
            Err(why) => invalid(id, INVALID_PARAMS, why),
        },
        _ => invalid(id, UNKNOWN_METHOD, "this server has tools only"),
    }
}

fn tool_call(params: &Map<String, Value>) -> Result<ToolCall, &'static str> {
    let short = |v: &Value| v.as_str().filter(|s| !s.is_empty() && s.len() <= ID_MAX).map(str::to_owned);
    let name = params.get("name").and_then(short).ok_or("a call without a usable name")?;
    let arguments = match params.get("arguments") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(a @ Value::Object(_)) => a.clone(),
        Some(_) => return Err("arguments that are not an object"),
    };
    let call_id = match params.get("_meta").and_then(|m| m.get("claudecode/toolUseId")) {
        None | Some(Value::Null) => None,
        Some(id) => Some(short(id).ok_or("an unusable id of the call")?),
    };
    Ok(ToolCall { name, arguments, call_id })
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// The answer to `initialize`: the version that was asked for where it is known, else the newest that is.
pub fn initialized(id: &Value, asked: Option<&str>) -> Value {
    let version = VERSIONS.iter().find(|v| Some(**v) == asked).unwrap_or(&VERSIONS[0]);
    let about = json!({"name": SERVER, "version": env!("CARGO_PKG_VERSION")});
    result(id, json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}))
}

/// The answer to anything while the host cannot serve: an error, and why.
pub fn refused(id: &Value, why: &str) -> Value {
    error(id, UNAVAILABLE, why)
}

/// The answer to what is no JSON.
pub fn unreadable(why: &str) -> Value {
    error(&Value::Null, PARSE_ERROR, why)
}

/// The answer to `ping`.
pub fn pong(id: &Value) -> Value {
    result(id, json!({}))
}

/// What stands in the place of an answer to a notification.
pub fn noted() -> Value {
    result(&Value::from(NOTED), json!({}))
}

/// The answer to a call: a text for the model.
pub fn called(id: &Value, text: &str, is_error: bool) -> Value {
    result(id, json!({"content": [{"type": "text", "text": text}], "isError": is_error}))
}

/// The answer to `tools/list`. Each word of it is in every request to the model.
pub fn list(id: &Value) -> Value {
    let text = json!({"type": "string"});
    let tier = json!({"type": "string", "enum": MemoryTier::ALL.map(MemoryTier::as_str)});
    let status = json!({"type": "string", "enum": TaskStatus::ALL.map(TaskStatus::as_str)});
    let about = |name: &str| -> (&str, Value, Value) {
        match name {
            "memory_add" => (
                "Keep a short text for later sessions in this folder (tier working, the default: the oldest make room; session: for this one only).",
                json!({"text": text, "tier": tier, "tags": {"type": "array", "items": text}}),
                json!(["text"]),
            ),
            "memory_search" => (
                "Find kept texts by their words, best first.",
                json!({"query": text, "tier": tier, "tag": text, "limit": {"type": "integer"}}),
                json!(["query"]),
            ),
            "task_add" => ("Add a task to the session's list.", json!({"title": text, "note": text}), json!(["title"])),
            "task_list" => ("The session's tasks.", json!({}), json!([])),
            "task_update" => {
                ("Change a task.", json!({"id": text, "status": status, "title": text, "note": text, "owner": text}), json!(["id"]))
            }
            "handoff" => ("Record that another agent takes over.", json!({"to": text, "reason": text}), json!(["to"])),
            "note" => ("Write a note into the session's log.", json!({"text": text}), json!(["text"])),
            _ => ("Leave the session's report.", json!({"text": text}), json!(["text"])),
        }
    };
    let tools = TOOLS.map(|name| {
        let (description, properties, required) = about(name);
        let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        json!({"name": name, "description": description, "inputSchema": schema})
    });
    result(id, json!({"tools": tools}))
}

/// What a call of a tool asks to be done. Sizes are judged by who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    MemoryAdd(MemoryAdd),
    MemorySearch(MemorySearch),
    TaskAdd(TaskAdd),
    TaskList,
    TaskUpdate(TaskChanged),
    HandOff(HandedOff),
    Note(Text),
    Report(Text),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryAdd {
    pub text: String,
    #[serde(default)]
    pub tier: Option<MemoryTier>,
    #[serde(default)]
    pub tags: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySearch {
    pub query: String,
    #[serde(default)]
    pub tier: Option<MemoryTier>,
    #[serde(default)]
    pub tag: Option<String>,
    #[serde(default)]
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskAdd {
    pub title: String,
    #[serde(default)]
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskChanged {
    pub id: String,
    #[serde(default)]
    pub status: Option<TaskStatus>,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandedOff {
    pub to: String,
    #[serde(default)]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    pub text: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Act {
    /// Reads a call's arguments; the error is a text for the model.
    pub fn read(name: &str, arguments: &Value) -> Result<Self, String> {
        fn of<T: serde::de::DeserializeOwned>(arguments: &Value) -> Result<T, String> {
            T::deserialize(arguments).map_err(|e| format!("the arguments cannot be read: {e}"))
        }
        match name {
            "memory_add" => of(arguments).map(Self::MemoryAdd),
            "memory_search" => of(arguments).map(Self::MemorySearch),
            "task_add" => of(arguments).map(Self::TaskAdd),
            "task_list" => of::<Nothing>(arguments).map(|_| Self::TaskList),
            "task_update" => of(arguments).map(Self::TaskUpdate),
            "handoff" => of(arguments).map(Self::HandOff),
            "note" => of(arguments).map(Self::Note),
            "report" => of(arguments).map(Self::Report),
            _ => Err("there is no such tool".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(params: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    }

    #[test]
    fn what_claude_code_says_is_read() {
        let hello = json!({"method": "initialize", "jsonrpc": "2.0", "id": 0, "params":
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "claude-code", "version": "2.1.197"}}});
        let Request::Initialize { id, version } = read(&hello) else { panic!("{hello}") };
        let said = initialized(&id, version.as_deref());
        assert_eq!((&said["id"], &said["result"]["protocolVersion"]), (&json!(0), &json!("2025-06-18")));
        assert_eq!(initialized(&id, Some("2031-01-01"))["result"]["protocolVersion"], VERSIONS[0]);
        assert_eq!(read(&json!({"method": "notifications/initialized", "jsonrpc": "2.0"})), Request::Notification);
        assert_eq!(read(&json!({"method": "tools/list", "jsonrpc": "2.0", "id": "a"})), Request::List { id: json!("a") });
        assert_eq!(read(&json!({"method": "ping", "jsonrpc": "2.0", "id": 4})), Request::Ping { id: json!(4) });
        let meta = json!({"claudecode/toolUseId": "toolu_1", "progressToken": 2});
        let made = read(&call(json!({"name": "note", "arguments": {"text": "x"}, "_meta": meta})));
        let want = ToolCall { name: "note".into(), arguments: json!({"text": "x"}), call_id: Some("toolu_1".into()) };
        assert_eq!(made, Request::Call { id: json!(2), call: want });
        let bare = ToolCall { name: "task_list".into(), arguments: json!({}), call_id: None };
        assert_eq!(read(&call(json!({"name": "task_list"}))), Request::Call { id: json!(2), call: bare });
    }

    #[test]
    fn what_is_no_request_is_answered_with_an_error_and_only_a_short_id() {
        let long = "x".repeat(1 << 20);
        for (message, code, id) in [
            (json!([]), INVALID_REQUEST, json!(null)),
            (json!({"jsonrpc": "2.0", "id": 1}), INVALID_REQUEST, json!(1)),
            (json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}), INVALID_REQUEST, json!(1)),
            (json!({"jsonrpc": "2.0", "id": long, "method": "ping"}), INVALID_REQUEST, json!(null)),
            (json!({"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping"}), INVALID_REQUEST, json!(null)),
            (json!({"jsonrpc": "2.0", "id": 1, "result": {}}), INVALID_REQUEST, json!(1)),
            (json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read"}), UNKNOWN_METHOD, json!(1)),
            (call(json!({"name": ""})), INVALID_PARAMS, json!(2)),
            (call(json!({"name": long})), INVALID_PARAMS, json!(2)),
            (call(json!({"name": "note", "arguments": "x"})), INVALID_PARAMS, json!(2)),
            (call(json!({"name": "note", "_meta": {"claudecode/toolUseId": 7}})), INVALID_PARAMS, json!(2)),
        ] {
            let Request::Invalid { answer } = read(&message) else { panic!("{}", &message.to_string()[..60]) };
            assert_eq!((answer["error"]["code"].as_i64(), &answer["id"]), (Some(code), &id), "{answer}");
            assert!(answer.to_string().len() < 512, "{answer}");
        }
    }

    #[test]
    fn every_tool_is_listed_and_read_and_takes_nothing_else() {
        let listed = list(&json!(1));
        let tools = listed["result"]["tools"].as_array().expect("a list");
        assert_eq!(tools.iter().map(|t| t["name"].as_str().expect("a name")).collect::<Vec<_>>(), TOOLS);
        for t in tools {
            let name = t["name"].as_str().expect("a name");
            assert!(is_own(&full_name(name)), "{name}");
            let required = t["inputSchema"]["required"].as_array().expect("a list");
            let mut arguments: Map<String, Value> = required.iter().map(|r| (r.as_str().expect("a name").to_owned(), json!("x"))).collect();
            assert!(Act::read(name, &Value::Object(arguments.clone())).is_ok(), "{name}");
            assert_eq!(t["inputSchema"]["additionalProperties"], false);
            arguments.insert("namespace".into(), json!("other"));
            assert!(Act::read(name, &Value::Object(arguments)).is_err_and(|why| why.contains("namespace")), "{name}");
            let all = t["inputSchema"]["properties"].as_object().expect("properties");
            let null: Map<String, Value> =
                all.keys().map(|k| (k.clone(), if required.contains(&json!(k)) { json!("x") } else { Value::Null })).collect();
            assert!(Act::read(name, &Value::Object(null)).is_ok(), "{name}: what is left out may be null");
        }
        assert!(listed.to_string().len() < 2_500, "{} bytes that every request to the model carries", listed.to_string().len());
        assert!(Act::read("rm", &json!({})).is_err());
    }

    #[test]
    fn names_of_others_are_not_its_own() {
        for tool in ["mcp__beadle__", "mcp__beadle__rm", "mcp__beadle__x__note", "mcp__Beadle__note", "note", "mcp__other__note"] {
            assert!(!is_own(tool), "{tool}");
        }
        for server in ["beadle", "beadle__x", "beadle._x"] {
            assert!(is_taken(server), "{server}");
        }
        for server in ["beadle_x", "Beadle", "my-beadle", "doctor"] {
            assert!(!is_taken(server), "{server}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
            prop::sample::select(vec!["2.0", "tools/call", "initialize", "ping", "note", "memory_add"]).prop_map(Value::from),
        ];
        let key = prop::sample::select(vec!["jsonrpc", "id", "method", "params", "name", "arguments", "_meta", "text", "tier", "x"]);
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_message_is_read_and_any_arguments_are(v in values(), name in prop::sample::select(TOOLS.to_vec())) {
            for message in [v.clone(), call(v.clone()), json!({"jsonrpc": "2.0", "id": v.clone(), "method": "ping"})] {
                if let Request::Call { call, .. } = read(&message) {
                    prop_assert!(call.arguments.is_object() && call.name.len() <= ID_MAX);
                    let _ = Act::read(&call.name, &call.arguments);
                }
            }
            let _ = Act::read(name, &v);
        }
    }
}
