//! OpenTelemetry through the real daemon, into a receiver that decodes what comes: the tree of spans, sums of metrics, failures, `kill -9`,
//! rejected spans, real Claude Code; and that the dashboard in `examples` names what there is.

use std::collections::{HashMap, HashSet};

use beadle::otlp::conventions::{METRICS, SCHEMA_URL};
use beadle::otlp::ids;
use beadle::otlp::message::{Span, SpanKind, StatusCode};
use serde_json::{Value, json};

use crate::support::otlp::{Answers, Numbers, Otlp, Sent, attribute, text};
use crate::support::{Model, TestHost, bash, rules, until};

fn sink(to: &Otlp, more: &str, config: &str) -> String {
    format!(
        "[[sink]]\nname = \"otel\"\nkind = \"otlp\"\ntimeout_ms = 10000\nretry_max_ms = 200\n{more}\n\
         [sink.config]\nurl = \"http://127.0.0.1:{}\"\ninterval_ms = 200\n{config}\n",
        to.port
    )
}

fn host(sinks: &str) -> TestHost {
    let host = TestHost::new();
    host.config(&format!("{sinks}\n{}", rules(&["Bash(echo:*)"], &[], &["Bash(curl:*)"])));
    host
}

/// A session with an allowed and a denied call each round, to its end.
fn session(host: &mut TestHost, rounds: usize, more: &[&str]) -> String {
    let mut steps: Vec<Value> = (0..rounds).flat_map(|n| [bash(&format!("echo sesame-{n}")), bash("curl sesame")]).collect();
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "open sesame", more);
    host.ended(&id);
    id
}

fn status(host: &TestHost) -> Value {
    let said = host.beadle(["--json", "sink", "status", "otel"]);
    assert!(said.code < 2, "{}", said.err);
    said.json()
}

fn until_delivered(host: &TestHost) -> Value {
    until("it has everything", || Some(status(host)).filter(|s| s["lag_events"] == 0))
}

/// Ids of the spans that the log of a session means, each with the name that it begins with.
fn meant(host: &TestHost, id: &str) -> HashMap<Vec<u8>, String> {
    let mut out = HashMap::new();
    for e in host.events(id) {
        let (seq, attempt) = (e["seq"].as_u64().expect("a seq"), u32::try_from(e["attempt"].as_u64().unwrap_or(0)).expect("small"));
        let b = &e["body"];
        let (span, name) = match e["kind"].as_str().expect("a kind") {
            "tool_requested" => {
                let call = b["call"]["call_id"].as_str().expect("an id");
                (ids::call(id, attempt, call), format!("execute_tool {}", b["call"]["tool"].as_str().expect("a tool")))
            }
            "tool_decided" => (ids::event(id, seq), "decide ".to_owned()),
            "model_responded" => (ids::event(id, seq), "chat ".to_owned()),
            "attempt_ended" => (ids::attempt(id, attempt), format!("attempt {attempt}")),
            "session_ended" => (ids::session(id), "invoke_agent ".to_owned()),
            _ => continue,
        };
        out.insert(span, name);
    }
    out
}

/// Every span that the logs mean came, below one that came too, in the trace of its session.
fn assert_told(host: &TestHost, otlp: &Otlp, all: &[String]) -> HashMap<Vec<u8>, Span> {
    let spans = otlp.spans();
    for id in all {
        let meant = meant(host, id);
        for (span, name) in &meant {
            let s = spans.get(span).unwrap_or_else(|| panic!("{name} of {id} is missing"));
            assert!(s.name.starts_with(name), "{} is not {name}", s.name);
        }
        let of: Vec<&Span> = spans.values().filter(|s| s.trace_id == ids::trace(id)).collect();
        assert!(of.len() >= meant.len());
        for s in of {
            assert!(s.end_time_unix_nano >= s.start_time_unix_nano && s.start_time_unix_nano > 1_600_000_000_000_000_000);
            if s.span_id == ids::session(id) {
                assert!(s.parent_span_id.is_empty());
            } else {
                let parent = spans.get(&s.parent_span_id).unwrap_or_else(|| panic!("the parent of {} is missing", s.name));
                assert_eq!(parent.trace_id, s.trace_id, "{}", s.name);
            }
        }
    }
    spans
}

fn count(host: &TestHost, ids: &[String], kind: &str, is: impl Fn(&Value) -> bool) -> u64 {
    ids.iter().flat_map(|id| host.events_of(id, kind)).filter(|e| is(&e["body"])).count() as u64
}

/// The last push holds what the logs say.
fn assert_counted(host: &TestHost, otlp: &Otlp, ids: &[String]) -> Numbers {
    let effect = |want: &'static str| move |b: &Value| b["effect"] == want;
    #[allow(clippy::cast_precision_loss)] // why: small numbers.
    let want: Vec<(&str, &str, f64)> = vec![
        ("beadle.tool.decisions", "effect=allow", count(host, ids, "tool_decided", effect("allow")) as f64),
        ("beadle.tool.decisions", "effect=deny", count(host, ids, "tool_decided", effect("deny")) as f64),
        ("beadle.session.ends", "outcome=succeeded", ids.len() as f64),
        ("beadle.attempt.ends", "", count(host, ids, "attempt_ended", |_| true) as f64),
    ];
    let (responses, results) = (count(host, ids, "model_responded", |_| true), count(host, ids, "tool_ended", |_| true));
    let tokens: u64 = ids.iter().map(|id| host.show(id)["usage"]["output"].as_u64().expect("tokens")).sum();
    until("the sums are pushed", || {
        let last = otlp.pushes().pop()?;
        let is_whole = want.iter().all(|(name, holds, n)| (last.total(name, holds).1 - n).abs() < 1e-9);
        #[allow(clippy::cast_precision_loss)]
        let counted = last.total("gen_ai.client.token.usage", "gen_ai.token.type=output");
        let chats = last.total("gen_ai.client.operation.duration", "gen_ai.operation.name=chat").0;
        let tools = |holds| last.total("gen_ai.client.operation.duration", holds).0;
        let timed = [tools("gen_ai.tool.name=Bash"), tools("gen_ai.operation.name=execute_tool")] == [results; 2];
        #[allow(clippy::cast_precision_loss)]
        let is_right = counted == (responses, tokens as f64) && chats == responses && timed;
        (is_whole && is_right).then_some(last)
    })
}

/// One request of ten goes wrong, each time in another way.
fn one_of_ten(n: usize, _: &Sent) -> Answers {
    match (n % 10, n / 10 % 4) {
        (3, 0) => Answers::Status(503, "retry-after: 0\r\n".to_owned()),
        (3, 1) => Answers::Closes,
        (3, 2) => Answers::TakesAndCloses,
        (3, _) => Answers::Status(500, String::new()),
        _ => Answers::Takes,
    }
}

#[test]
fn a_session_is_a_trace_of_attempts_calls_and_decisions() {
    let otlp = Otlp::start(|_, _| Answers::Takes);
    let mut host = host(&sink(&otlp, "", "resource = [\"deployment.environment.name=test\"]\nheaders_file = \"keys\"\n"));
    let keys = host.beadle_home().join("config/keys");
    std::fs::write(&keys, "x-scope-orgid: team\n").expect("written");
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    let id = session(&mut host, 1, &["--label", "team=x", "--owner", "ana"]);
    until_delivered(&host);
    let spans = assert_told(&host, &otlp, std::slice::from_ref(&id));
    let root = &spans[&ids::session(&id)];
    let shown = host.show(&id);
    assert_eq!(attribute(root, "gen_ai.operation.name"), "invoke_agent");
    assert_eq!((attribute(root, "beadle.label.team").as_str(), attribute(root, "beadle.owner").as_str()), ("x", "ana"));
    assert_eq!(attribute(root, "gen_ai.conversation.id"), id);
    assert_eq!(attribute(root, "gen_ai.usage.output_tokens"), shown["usage"]["output"].to_string());
    assert_eq!(root.status.as_ref().map(|s| s.code), Some(StatusCode::Ok.into()));
    let chats: Vec<&Span> = spans.values().filter(|s| s.name.starts_with("chat ")).collect();
    let output: u64 = chats.iter().map(|s| attribute(s, "gen_ai.usage.output_tokens").parse::<u64>().expect("a number")).sum();
    assert_eq!(Some(output), shown["usage"]["output"].as_u64(), "tokens of the parts are those of the whole");
    assert!(chats.iter().all(|s| s.kind == i32::from(SpanKind::Client) && s.parent_span_id == ids::attempt(&id, 1)));
    let calls: Vec<&Span> = spans.values().filter(|s| s.name == "execute_tool Bash").collect();
    assert_eq!(calls.len(), 2);
    let denied = calls.iter().find(|s| attribute(s, "beadle.decision.effect") == "deny").expect("the denied call");
    assert_eq!(denied.status.as_ref().map(|s| s.code), Some(StatusCode::Error.into()));
    assert_eq!((attribute(denied, "error.type").as_str(), attribute(denied, "gen_ai.tool.name").as_str()), ("denied", "Bash"));
    let decision = spans.values().find(|s| s.parent_span_id == denied.span_id && s.name == "decide Bash").expect("its decision");
    assert_eq!(
        (attribute(decision, "beadle.decision.policy").as_str(), attribute(decision, "beadle.decision.by").as_str()),
        ("rules", "policy")
    );
    assert!(attribute(decision, "beadle.decision.rule").contains("curl"));
    assert_counted(&host, &otlp, std::slice::from_ref(&id));
    for r in otlp.requests() {
        assert_eq!((r.header("content-type"), r.header("x-scope-orgid")), ("application/x-protobuf", "team"));
        assert!(["/v1/traces", "/v1/metrics"].contains(&r.path.as_str()), "{}", r.path);
        assert!(!r.body.windows(6).any(|w| w == b"sesame"), "no word of a prompt, a call or a result leaves");
        for of in r.traces.iter().flat_map(|t| &t.resource_spans) {
            let resource: HashMap<String, String> =
                of.resource.iter().flat_map(|r| &r.attributes).map(|a| (a.key.clone(), text(a))).collect();
            assert_eq!((of.schema_url.as_str(), resource["service.name"].as_str()), (SCHEMA_URL, "beadle"));
            assert_eq!((resource["deployment.environment.name"].as_str(), resource["service.instance.id"].len()), ("test", 64));
        }
    }
    let s = status(&host);
    assert_eq!((s["kind"].as_str(), s["dead_letters"].as_u64(), s["failures"].as_u64()), (Some("otlp"), Some(0), Some(0)), "{s}");
}

#[test]
fn no_span_is_lost_and_repeated_ones_are_the_same_through_failures_and_kills() {
    let otlp = Otlp::start(one_of_ten);
    let mut host = host(&sink(&otlp, "batch_events = 3", ""));
    let mut all = Vec::new();
    for round in 0..4 {
        all.push(session(&mut host, 3, &[]));
        if round % 2 == 0 {
            host.kill_daemon();
        }
    }
    until_delivered(&host);
    assert_told(&host, &otlp, &all);
    assert_counted(&host, &otlp, &all);
    // What a receiver of metrics sees only grows, from one start, through every daemon there was.
    let pushes = otlp.pushes();
    let mut before: HashMap<&(String, String), (u64, u64, f64)> = HashMap::new();
    for (series, point) in pushes.iter().flat_map(|p| &p.0) {
        if let Some(b) = before.insert(series, *point) {
            assert!(b.0 == point.0 && b.1 <= point.1 && b.2 <= point.2, "{series:?}: {b:?} then {point:?}");
        }
    }
    let starts: HashSet<u64> = before.values().map(|p| p.0).collect();
    assert!(starts.len() == 1 && pushes.len() > 2, "{starts:?}, {} pushes", pushes.len());
    let s = status(&host);
    assert!(s["dead_letters"] == 0 && otlp.requests().len() > otlp.taken().len(), "some were tried again: {s}");
}

#[test]
fn a_receiver_that_is_down_holds_nothing_up() {
    let otlp = Otlp::start(|_, _| Answers::Status(503, String::new()));
    let mut host = host(&sink(&otlp, "", ""));
    let id = session(&mut host, 2, &[]);
    let s = until("it says that it is behind", || {
        Some(status(&host)).filter(|s| s["lag_events"].as_u64() > Some(0) && s["failures"].as_u64() > Some(0))
    });
    assert!(s["last_error"]["message"].as_str().is_some_and(|m| m.contains("503")) && s["delivered"] == 0, "{s}");
    otlp.plan(|_, _| Answers::Takes);
    host.beadle(["sink", "retry", "otel"]).ok();
    until_delivered(&host);
    assert_told(&host, &otlp, std::slice::from_ref(&id));
    assert_counted(&host, &otlp, &[id]);
}

#[test]
fn rejected_spans_are_dead_letters_and_the_others_come_through() {
    let is_bad = |s: &Span| s.name.starts_with("decide ") && attribute(s, "beadle.decision.effect") == "deny";
    let otlp = Otlp::start(move |_, r| match r.spans().iter().filter(|s| is_bad(s)).count() {
        0 => Answers::Takes,
        n => Answers::Rejects(i64::try_from(n).expect("small"), "no denials here".to_owned()),
    });
    let mut host = host(&sink(&otlp, "", ""));
    let id = session(&mut host, 2, &[]);
    let denied = count(&host, std::slice::from_ref(&id), "tool_decided", |b| b["effect"] == "deny");
    let s = until_delivered(&host);
    assert!(denied > 0 && s["dead_letters"].as_u64() == Some(denied), "{s}");
    let letters = host.beadle(["--json", "sink", "dead-letters", "otel"]).ok().lines();
    assert!(letters.iter().all(|l| l["kind"] == "tool_decided" && l["reason"].as_str().is_some_and(|r| r.contains("no denials here"))));
    // In the sums they are: what happened, happened. And they come when they are asked for.
    assert_counted(&host, &otlp, std::slice::from_ref(&id));
    otlp.plan(|_, _| Answers::Takes);
    let said = host.beadle(["--json", "sink", "retry", "otel", "--dead-letters"]).ok().json();
    assert_eq!((said["redelivered"].as_u64(), said["dead_letters"].as_u64()), (Some(denied), Some(0)), "{said}");
    assert_told(&host, &otlp, std::slice::from_ref(&id));
    assert_counted(&host, &otlp, &[id]);
}

#[test]
fn words_go_along_where_the_operator_says_so_and_a_child_names_its_parent() {
    let otlp = Otlp::start(|_, _| Answers::Takes);
    let mut host = host(&sink(&otlp, "", "content = true"));
    let top = session(&mut host, 1, &[]);
    let child = session(&mut host, 1, &["--parent", &top]);
    until_delivered(&host);
    let spans = assert_told(&host, &otlp, &[top.clone(), child.clone()]);
    let call = spans.values().find(|s| s.name == "execute_tool Bash" && attribute(s, "beadle.decision.effect") == "allow").expect("a call");
    assert!(attribute(call, "gen_ai.tool.call.arguments").contains("echo sesame-0"));
    assert!(attribute(call, "gen_ai.tool.call.result").contains("sesame-0"));
    let root = &spans[&ids::session(&child)];
    assert!(attribute(root, "beadle.prompt").contains("open sesame"));
    assert_ne!(root.trace_id, ids::trace(&top));
    let link = &root.links[0];
    assert_eq!((&link.trace_id, &link.span_id), (&ids::trace(&top), &spans[&ids::session(&top)].span_id));
}

#[test]
fn real_claude_code_gives_model_calls_and_tools_with_its_own_numbers() {
    let Some((mut host, program)) = crate::claude::host("real_claude_code_gives_model_calls_and_tools_with_its_own_numbers") else {
        return;
    };
    let otlp = Otlp::start(|_, _| Answers::Takes);
    host.config(&format!("{}\n{}", sink(&otlp, "", ""), rules(&["Bash(echo yes:*)"], &[], &["Bash(echo no:*)"])));
    let usage = |out: u64| json!({ "in": 12, "out": out, "cache_read": 9000 });
    let model = Model::start(&json!({ "steps": [
        { "tool": "Bash", "input": { "command": "echo yes" }, "usage": usage(80) },
        { "tool": "Bash", "input": { "command": "echo no" }, "usage": usage(90) },
        { "text": "done", "usage": usage(7) },
    ]}));
    let id = crate::claude::run(&mut host, &program, &model, &[]);
    let shown = host.ended(&id);
    until_delivered(&host);
    let spans = assert_told(&host, &otlp, std::slice::from_ref(&id));
    let mut chats: Vec<(String, String, String)> = spans
        .values()
        .filter(|s| s.name.starts_with("chat "))
        .map(|s| {
            let of = |k: &str| attribute(s, k);
            (of("gen_ai.usage.output_tokens"), of("gen_ai.usage.input_tokens"), of("gen_ai.usage.cache_read.input_tokens"))
        })
        .collect();
    chats.sort();
    let want = |n: &str| (n.to_owned(), "9012".to_owned(), "9000".to_owned());
    assert!(["7", "80", "90"].iter().all(|n| chats.contains(&want(n))), "{chats:?}");
    let root = &spans[&ids::session(&id)];
    assert_eq!(attribute(root, "gen_ai.usage.output_tokens"), shown["usage"]["output"].to_string());
    assert_eq!((attribute(root, "gen_ai.agent.name").as_str(), attribute(root, "gen_ai.provider.name").as_str()), ("claude", "anthropic"));
    let mut calls: Vec<String> = spans.values().filter(|s| s.name == "execute_tool Bash").map(|s| attribute(s, "error.type")).collect();
    calls.sort();
    assert_eq!(calls, ["", "denied"]);
    assert_counted(&host, &otlp, &[id]);
}

/// Names of metrics in a text: words that begin as ours do.
fn named(text: &str) -> HashSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| ["beadle_", "gen_ai_", "process_"].iter().any(|p| w.starts_with(p)) && !w.ends_with('_')).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_names_metrics_that_there_are() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("beadle.json")).expect("a dashboard")).expect("JSON");
    let metrics = beadle::metrics::Metrics::new(0);
    let looked = beadle::metrics::Looked {
        sinks: vec![beadle::metrics::SinkNumbers { name: "s".into(), ..Default::default() }],
        lanes: vec![beadle::metrics::QueueNumbers { lane: "l".into(), wait_p99_ms: Some(1), ..Default::default() }],
        ..Default::default()
    };
    let mut known: HashSet<String> = METRICS.iter().flat_map(|m| m.prometheus()).collect();
    for line in metrics.text(&looked).lines() {
        let name = line.strip_prefix("# TYPE ").map_or(line, |rest| rest.split(' ').next().unwrap_or_default());
        let name = name.split(['{', ' ']).next().unwrap_or_default();
        known.insert(name.to_owned());
        match line.rsplit(' ').next() {
            Some("counter") => drop(known.insert(format!("{name}_total"))),
            Some("histogram") => known.extend(["_bucket", "_count", "_sum"].map(|s| format!("{name}{s}"))),
            _ => {}
        }
    }
    // Names of labels, as the collector writes attributes.
    let labels = ["beadle_decision_effect", "beadle_outcome", "beadle_approval_state", "beadle_result", "gen_ai_request_model"];
    let labels = labels.into_iter().chain(["gen_ai_token_type", "gen_ai_operation_name", "beadle_token_kind"]);
    let labels: HashSet<String> = labels.map(str::to_owned).collect();
    let (mut asked, mut traces) = (HashSet::new(), 0);
    let panels = dashboard["panels"].as_array().expect("panels");
    for target in panels.iter().flat_map(|p| p["targets"].as_array().into_iter().flatten()) {
        match target["expr"].as_str() {
            Some(expr) => asked.extend(named(expr)),
            None => {
                let query = target["query"].as_str().expect("a query of metrics or of traces");
                assert!(query.contains("resource.service.name = \"beadle\""), "{query}");
                traces += 1;
            }
        }
    }
    let missing: Vec<&String> = asked.iter().filter(|n| !known.contains(*n) && !labels.contains(*n)).collect();
    assert!(missing.is_empty(), "the dashboard names what is not there: {missing:?}");
    assert!(asked.iter().filter(|n| known.contains(*n)).count() >= 12 && traces > 0, "{asked:?}, {traces}");
    let titles: HashSet<&str> = panels.iter().filter_map(|p| p["title"].as_str()).collect();
    assert_eq!(titles.len(), panels.len(), "each panel has a title of its own");
    let collector = std::fs::read_to_string(folder.join("collector.yaml")).expect("a configuration");
    assert!(collector.contains("4318") && collector.contains("otlp:") && collector.contains("prometheus"), "{collector}");
}
