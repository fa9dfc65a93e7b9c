//! Guests that attack the host: lies in the canonical ABI, bombs, floods, damaged and swollen components. Each way has the
//! failure that it deserves, the host goes on, and nothing stays behind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use beadle::model::{Effect, FailureCause, Grants};
use beadle::plugin::{Error, Host, HostOptions, Kind, Limits, LoadSpec, Plugin, QuarantineOptions, Question, standard};
use serde_json::{Value, json};

use crate::plugin::{HOSTILE, call, hostile_wasi, session};
use crate::support::{Model, TestHost, bash, rules};

mod memory;

/// Speaks the canonical ABI by hand; see `tests/guests/liar`.
const LIAR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/liar.wasm"));

/// Far longer than any of these calls takes, also on a busy machine.
const AMPLE: Duration = Duration::from_secs(20);
/// For guests that do not end by themselves.
const SHORT: Duration = Duration::from_millis(20);

/// One host for all, without quarantine: each way is a plugin of its own.
fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let quarantine = QuarantineOptions { after: u32::MAX, pause: Duration::ZERO };
        Host::new(HostOptions { quarantine, ..HostOptions::default() }).expect("an engine")
    })
}

fn load(wasm: impl Into<Cow<'static, [u8]>>, way: &str) -> Result<Arc<Plugin>, Error> {
    host().load(LoadSpec {
        name: way.to_owned(),
        wasm: wasm.into(),
        config: way.to_owned(),
        limits: Limits::default(),
        grants: Grants::default(),
    })
}

fn liar(way: &str) -> Arc<Plugin> {
    load(LIAR, way).unwrap_or_else(|e| panic!("{way}: {e}"))
}

fn question() -> Question {
    Question::new(&session(), &call(&["git", "push", "origin"]), 1_700_000_000_123)
}

fn refused(wasm: impl Into<Cow<'static, [u8]>>, way: &str) -> Error {
    match load(wasm, way) {
        Ok(_) => panic!("{way}: this must not load"),
        Err(e) => e,
    }
}

/// A good policy still answers.
fn host_goes_on() {
    let good = load(HOSTILE, "allow").expect("it loads");
    assert_eq!(good.decide_here(&question(), AMPLE).expect("served").effect, Effect::Allow);
}

#[test]
fn every_lie_in_an_answer_is_a_failure_with_its_cause() {
    use FailureCause::{BadAnswer, Deadline, Trap};
    for (way, cause, says) in [
        ("effect", BadAnswer, "discriminant"),
        ("effect-far", BadAnswer, "discriminant"),
        ("option", BadAnswer, "discriminant"),
        ("reason-outside", BadAnswer, "out of bounds"),
        ("reason-wraps", BadAnswer, "out of bounds"),
        ("reason-endless", BadAnswer, ""),
        ("rule-outside", BadAnswer, "out of bounds"),
        ("input-outside", BadAnswer, "out of bounds"),
        ("answer-outside", BadAnswer, ""),
        ("answer-odd", BadAnswer, "aligned"),
        ("answer-edge", BadAnswer, ""),
        ("utf8", BadAnswer, "utf-8"),
        ("utf8-surrogate", BadAnswer, "utf-8"),
        ("utf8-rule", BadAnswer, "utf-8"),
        ("utf8-input", BadAnswer, "utf-8"),
        ("giant", BadAnswer, "fuel"),
        ("giant-input", BadAnswer, "fuel"),
        ("json-deep", BadAnswer, "recursion"),
        ("json-nan", BadAnswer, "not JSON"),
        ("json-infinite", BadAnswer, "not JSON"),
        ("json-surrogate", BadAnswer, "not JSON"),
        ("json-trailing", BadAnswer, "not JSON"),
        ("json-mark", BadAnswer, "not JSON"),
        ("json-integer", BadAnswer, "not JSON"),
        ("after-trap", Trap, ""),
        ("after-log", Trap, "leave"),
        ("after-loop", Deadline, ""),
        ("trap", Trap, "unreachable"),
        ("loop", Deadline, ""),
    ] {
        let deadline = if cause == Deadline { SHORT } else { AMPLE };
        let f = liar(way).decide_here(&question(), deadline).expect_err(way);
        assert_eq!(f.cause, cause, "{way}: {f}");
        assert!(f.detail.contains(says), "{way}: {f}");
        assert!(f.detail.len() <= 1024, "{way}: {}", f.detail.len());
    }
    host_goes_on();
}

#[test]
fn odd_answers_that_are_no_lies_stand() {
    let answer = |way: &str| liar(way).decide_here(&question(), AMPLE).unwrap_or_else(|f| panic!("{way}: {f}"));
    // One and the same bytes as reason, rule and input.
    let d = answer("overlap");
    assert_eq!((d.reason.as_str(), d.rule.as_deref(), d.updated_input), ("{\"a\":1}", Some("{\"a\":1}"), Some(json!({"a": 1}))));
    // What is judged again and sent to the agent is this value, so there is no second reading of the text.
    assert_eq!(answer("json-twice").updated_input, Some(json!({"command": "false"})));
    assert_eq!(answer("json-blank").updated_input, Some(json!({})));
    assert_eq!(answer("memory-touch").effect, Effect::Allow);
    // A million digits are read in a moment.
    let begun = Instant::now();
    let d = answer("json-digits");
    assert!(begun.elapsed() < AMPLE / 4 && d.updated_input.is_some(), "{:?}", begun.elapsed());
    // The answer's own frame as text: bytes are bytes.
    match liar("overlap-answer").decide_here(&question(), AMPLE) {
        Ok(d) => assert_eq!(d.reason.len(), 36),
        Err(f) => assert_eq!(f.cause, FailureCause::BadAnswer, "{f}"),
    }
}

#[test]
fn no_trick_of_the_allocator_reaches_the_host() {
    use FailureCause::{BadAnswer, Deadline, Trap};
    for (way, cause) in [
        ("realloc-outside", BadAnswer),
        ("realloc-edge", BadAnswer),
        ("realloc-odd", BadAnswer),
        ("realloc-trap", Trap),
        ("realloc-log", Trap),
        ("realloc-loop", Deadline),
    ] {
        // The arguments of `configure` go through it as well, but the way is known only after them.
        let plugin = liar(way);
        let deadline = if cause == Deadline { SHORT } else { AMPLE };
        let f = plugin.decide_here(&question(), deadline).expect_err(way);
        assert_eq!(f.cause, cause, "{way}: {f}");
    }
    // The guest spoils nothing but its own memory: an answer of it is an answer, anything else its own failure.
    for way in ["realloc-null", "realloc-same", "realloc-statics", "realloc-grow"] {
        match liar(way).decide_here(&question(), AMPLE) {
            Ok(d) => assert!(d.reason.len() <= 4096, "{way}"),
            Err(f) => assert!(matches!(f.cause, BadAnswer | Trap | FailureCause::Memory), "{way}: {f}"),
        }
    }
    host_goes_on();
}

#[test]
fn lies_at_load_are_told_and_refused() {
    let lies = |letters: &str| {
        let mut wasm = LIAR.to_vec();
        let at = wasm.windows(16).position(|w| w == b"describe:honest.").expect("the letters are in the file");
        wasm[at + 9..at + 15].copy_from_slice(letters.as_bytes());
        wasm
    };
    for (letters, cause) in [
        ("loops.", FailureCause::Deadline),
        ("traps.", FailureCause::Trap),
        ("nouser", FailureCause::BadAnswer),
        ("utf8..", FailureCause::BadAnswer),
        ("wants.", FailureCause::BadAnswer),
        ("large.", FailureCause::BadAnswer),
        ("nobody", FailureCause::BadAnswer),
    ] {
        let limits = Limits { configure: Duration::from_millis(300), ..Limits::default() };
        let spec =
            LoadSpec { name: letters.to_owned(), wasm: lies(letters).into(), config: String::new(), limits, grants: Grants::default() };
        match host().load(spec).err().unwrap_or_else(|| panic!("{letters} loads")) {
            Error::Describe { failure, .. } => assert_eq!(failure.cause, cause, "{letters}: {failure}"),
            e => panic!("{letters}: {e}"),
        }
    }
    for way in ["configure-discriminant", "configure-outside", "configure-reason-outside", "configure-reason-utf8"] {
        match refused(LIAR, way) {
            Error::Configure { failure, .. } => assert_eq!(failure.cause, FailureCause::BadAnswer, "{way}: {failure}"),
            e => panic!("{way}: {e}"),
        }
    }
    // Logging there is allowed, and a flood of it is a missed deadline or nothing.
    let plugin = liar("configure-log");
    assert!(plugin.log().read().0.iter().any(|l| l.text == "from configure"));
    match load(LIAR, "configure-flood") {
        Ok(p) => assert!(p.log().read().0.len() <= 256),
        Err(e) => assert_eq!(e.code(), "BDL-PLUGIN-011", "{e}"),
    }
    assert_eq!(liar("configure-grow").decide_here(&question(), AMPLE).expect("an answer").effect, Effect::Allow);
}

#[test]
fn floods_and_lies_of_the_log_are_bounded() {
    for way in ["log-outside", "log-utf8", "log-level", "log-giant"] {
        let f = liar(way).decide_here(&question(), AMPLE).expect_err(way);
        assert_eq!(f.cause, FailureCause::Trap, "{way}: {f}");
    }
    for way in ["log-million", "log-large"] {
        let plugin = liar(way);
        let begun = Instant::now();
        let outcome = plugin.decide_here(&question(), Duration::from_millis(200));
        assert!(begun.elapsed() < AMPLE, "{way} blocks");
        assert!(outcome.is_ok() || outcome.is_err_and(|f| f.cause == FailureCause::Deadline), "{way}");
        let (lines, dropped) = plugin.log().read();
        assert!(!lines.is_empty() && lines.len() <= 256 && dropped > 100, "{way}: {} {dropped}", lines.len());
        assert!(lines.iter().all(|l| l.text.len() <= 1024), "{way}");
    }
}

#[test]
fn a_std_guest_with_wasi_gets_nothing_and_blocks_nobody() {
    let load = |way: &str| load(hostile_wasi(), way).unwrap_or_else(|e| panic!("{way}: {e}"));
    let said = |way: &str| load(way).decide_here(&question(), AMPLE).unwrap_or_else(|f| panic!("{way}: {f}")).reason;
    assert_eq!(said("poll-far"), "woke", "a wait of a hundred years is over at once");
    assert!(said("input").starts_with("Ok(0) "), "standard input is closed");
    for way in ["connect", "listen", "datagram", "resolve"] {
        assert!(said(way).starts_with("Err"), "{way}");
    }
    for way in ["handles", "exit"] {
        let f = load(way).decide_here(&question(), AMPLE).expect_err(way);
        assert_eq!(f.cause, FailureCause::Trap, "{way}: {f}");
    }
    let plugin = load("print-flood");
    let _ = plugin.decide_here(&question(), Duration::from_millis(300));
    let (lines, dropped) = plugin.log().read();
    assert!(lines.len() <= 256 && dropped > 0, "{} {dropped}", lines.len());
}

/// What a small, hand-made module does beside a policy in one component.
mod beside {
    /// An unsigned number as the binary format has it.
    pub fn leb(mut n: usize) -> Vec<u8> {
        let mut out = vec![];
        while n >= 0x80 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    }

    pub fn section(id: u8, body: &[u8]) -> Vec<u8> {
        [&[id][..], &leb(body.len()), body].concat()
    }

    pub fn module(sections: &[Vec<u8>]) -> Vec<u8> {
        [&b"\0asm\x01\0\0\0"[..], &sections.concat()].concat()
    }

    pub fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [&b"\0asm\x0d\0\x01\0"[..], &sections.concat()].concat()
    }

    /// Sections of one kind in a component.
    pub fn count(component: &[u8], kind: u8) -> usize {
        let (mut at, mut n) = (8, 0);
        while at < component.len() {
            let id = component[at];
            at += 1;
            let (mut len, mut shift) = (0, 0);
            loop {
                let b = component[at];
                at += 1;
                len |= usize::from(b & 0x7f) << shift;
                shift += 7;
                if b & 0x80 == 0 {
                    break;
                }
            }
            at += len;
            n += usize::from(id == kind);
        }
        n
    }

    /// The policy with one more core module, which is instantiated beside it.
    pub fn with_module(policy: &[u8], module: &[u8]) -> Vec<u8> {
        let index = leb(count(policy, 1));
        [policy, &section(1, module), &section(2, &[&[1, 0][..], &index, &[0]].concat())].concat()
    }

    /// One function without parameters that is run at the start, and what it needs.
    pub fn starting(before: &[Vec<u8>], code: &[u8]) -> Vec<u8> {
        let body = [&[0][..], code, &[0x0b]].concat();
        let code = section(10, &[&[1][..], &leb(body.len()), &body].concat());
        let ty = section(1, &[1, 0x60, 0, 0]);
        // Types, functions, then tables and memories, start, code.
        module(&[vec![ty, section(3, &[1, 0])], before.to_vec(), vec![section(8, &[0]), code]].concat())
    }
}

use beside::{component, leb, module, section, starting, with_module};

#[test]
fn bombs_in_a_second_module_do_not_start() {
    let memory = |pages: usize| section(5, &[&[1, 0][..], &leb(pages)].concat());
    let many = |n: usize| section(5, &[leb(n), [0, 1].repeat(n)].concat());
    let table = |n: usize| section(4, &[&[1, 0x70, 0][..], &leb(n)].concat());
    let forever = |code: &[u8]| [&[0x03, 0x40][..], code, &[0x0c, 0, 0x0b]].concat();
    let grow_memory = forever(&[0x41, 1, 0x40, 0, 0x1a]);
    let grow_table = forever(&[0xd0, 0x70, 0x41, 0xe4, 0x00, 0xfc, 0x0f, 0, 0x1a]);
    let start = |m: Vec<u8>| {
        let limits = Limits { configure: Duration::from_millis(300), ..Limits::default() };
        host().load(LoadSpec {
            name: "bomb".to_owned(),
            wasm: with_module(LIAR, &m).into(),
            config: "allow".to_owned(),
            limits,
            grants: Grants::default(),
        })
    };
    for (what, bomb, causes) in [
        ("endless start", starting(&[], &forever(&[])), &[FailureCause::Deadline][..]),
        ("start that traps", starting(&[], &[0x00]), &[FailureCause::Trap]),
        ("memory of 4 GiB", module(&[memory(65_536)]), &[FailureCause::Memory]),
        ("a hundred memories", module(&[many(100)]), &[FailureCause::Memory, FailureCause::BadAnswer]),
        ("table of 9 million", module(&[table(9_000_000)]), &[FailureCause::Memory]),
        ("memory that grows", starting(&[memory(1)], &grow_memory), &[FailureCause::Memory]),
        ("table that grows", starting(&[table(1)], &grow_table), &[FailureCause::Memory]),
    ] {
        match start(bomb) {
            Err(Error::Start { failure, .. }) => assert!(causes.contains(&failure.cause), "{what}: {failure}"),
            // More memories than a store may have is found before anything starts.
            Err(Error::WrongShape { detail, .. }) if what == "a hundred memories" => assert!(detail.contains("memor"), "{detail}"),
            Err(e) => panic!("{what}: {e}"),
            Ok(_) => panic!("{what} loads"),
        }
    }
    // What stays within the limits is served, on the engine that it fits.
    let p = start(module(&[memory(1)])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.engine().0, Kind::Large, "two memories");
    assert_eq!(p.decide_here(&question(), AMPLE).expect("served").effect, Effect::Allow);
    host_goes_on();
}

#[test]
fn a_composed_component_keeps_nothing_between_calls() {
    let inner = component(&[section(1, &module(&[section(5, &[1, 0, 1])])), section(2, &[1, 0, 0, 0])]);
    let index = leb(beside::count(LIAR, 4));
    let nested = [LIAR, &section(4, &inner), &section(5, &[&[1, 0][..], &index, &[0]].concat())].concat();
    let two = with_module(LIAR, &module(&[]));
    for (what, wasm) in [("nested", nested), ("two instances", two), ("plain", LIAR.to_vec())] {
        let plugin = load(wasm, "count").unwrap_or_else(|e| panic!("{what}: {e}"));
        for _ in 0..100 {
            assert_eq!(plugin.decide_here(&question(), AMPLE).expect("a count").reason, "1", "{what}");
        }
        match what {
            "plain" => assert!(plugin.snapshotted(), "{:?}", plugin.snapshot_note()),
            _ => assert!(plugin.snapshotted() != plugin.snapshot_note().is_some(), "{what}: it says why not"),
        }
    }
}

#[test]
fn swollen_components_are_loaded_or_refused_in_bounded_time() {
    let n = 10_000;
    let name = |i: usize, p: &str| {
        let s = format!("{p}{i}");
        [leb(s.len()), s.into_bytes()].concat()
    };
    let nothing = [&leb(n)[..], &[2, 0, 0x0b].repeat(n)].concat();
    let functions = vec![section(1, &[1, 0x60, 0, 0]), section(3, &[leb(n), vec![0; n]].concat())];
    let core_exports = [leb(n), (0..n).flat_map(|i| [name(i, "f"), vec![0], leb(i)].concat()).collect()].concat();
    let exporting = module(&[functions.clone(), vec![section(7, &core_exports), section(10, &nothing)]].concat());
    let core_types = module(&[section(1, &[leb(n), [0x60, 0, 0].repeat(n)].concat())]);
    let own = leb(beside::count(LIAR, 1));
    let with = |sections: &[Vec<u8>]| [LIAR, &sections.concat()].concat();
    let exported = |i: usize| [&[0][..], &name(i, "a"), &[0, 0x11], &own, &[0]].concat();
    let exports = |n: usize| section(11, &[leb(n), (0..n).flat_map(exported).collect::<Vec<u8>>()].concat());
    for (what, wasm) in [
        ("core functions and exports", with_module(LIAR, &exporting)),
        ("core types", with_module(LIAR, &core_types)),
        ("types", with(&[section(7, &[leb(n), vec![0x7f; n]].concat())])),
        ("exports", with(&[section(1, &module(&[])), exports(900)])),
        ("names", with(&[section(0, &[&b"\x04name"[..], &vec![0; 16 << 20]].concat())])),
    ] {
        let begun = Instant::now();
        match load(wasm, "allow") {
            Ok(p) => assert_eq!(p.decide_here(&question(), AMPLE).expect("served").effect, Effect::Allow, "{what}"),
            // Only where the machine is so busy that the budget is over.
            Err(e) => assert_eq!(e.code(), "BDL-PLUGIN-012", "{what}: {e}"),
        }
        assert!(begun.elapsed() < Limits::default().compile + AMPLE, "{what} takes {:?}", begun.elapsed());
    }
    // Imports: each has to be one that the host gives, and the refusal is short.
    let importing = |n: usize| {
        let imports = [leb(n), (0..n).flat_map(|i| [&[0][..], &name(i, "evil:net/raw"), &[5, 0]].concat()).collect()].concat();
        refused(component(&[section(7, &[1, 0x42, 0]), section(10, &imports)]), "imports")
    };
    let e = importing(900).to_string();
    assert!(e.contains("evil:net/raw0") && e.contains("892 more") && e.len() < 1024, "{e}");
    assert_eq!(importing(n).code(), "BDL-PLUGIN-004", "more than the format's reader takes");
    // More exports than the format's reader takes of a component, or one name twice.
    let many = refused(with(&[section(1, &module(&[])), exports(n)]), "exports");
    assert!(many.code() == "BDL-PLUGIN-004" && many.to_string().contains("limit"), "{many}");
    let twice = with(&[section(1, &module(&[])), section(11, &[&[2][..], &exported(1), &exported(1)].concat())]);
    assert_eq!(refused(twice, "twice").code(), "BDL-PLUGIN-004");
}

#[test]
fn features_are_as_the_engine_says() {
    let ty = section(1, &[1, 0x60, 0, 0]);
    let running = |code: &[u8]| {
        let body = [&[0][..], code, &[0x0b]].concat();
        module(&[ty.clone(), section(3, &[1, 0]), section(10, &[&[1][..], &leb(body.len()), &body].concat())])
    };
    let mut v128 = vec![0xfd, 0x0c];
    v128.extend([0; 16]);
    v128.push(0x1a);
    for (what, m, may) in [
        ("simd", running(&v128), true),
        ("tail calls", running(&[0x12, 0]), true),
        ("multi-memory", module(&[section(5, &[2, 0, 0, 0, 0])]), true),
        ("64-bit memory", module(&[section(5, &[1, 4, 1])]), false),
        ("shared memory", module(&[section(5, &[1, 3, 1, 1])]), false),
        ("garbage collected structs", module(&[section(1, &[1, 0x5f, 0])]), false),
        ("exceptions", module(&[ty.clone(), section(13, &[1, 0, 0])]), false),
        ("typed function references", module(&[section(1, &[2, 0x60, 0, 0, 0x60, 1, 0x64, 0, 0])]), false),
        ("custom page sizes", module(&[section(5, &[1, 8, 0, 0])]), false),
        ("wide arithmetic", running(&[0x42, 0, 0x42, 0, 0x42, 0, 0x42, 0, 0xfc, 0x13, 0x1a, 0x1a]), false),
    ] {
        match load(with_module(LIAR, &m), "allow") {
            Ok(_) => assert!(may, "{what} is let in"),
            Err(e) => assert!(!may && e.code() == "BDL-PLUGIN-004", "{what}: {e}"),
        }
    }
    // Asynchronous component functions: `subtask.drop` and `waitable-set.new` as core functions.
    for canon in [0x0d, 0x1f] {
        let e = refused([LIAR, &section(8, &[1, canon])].concat(), "async");
        assert_eq!(e.code(), "BDL-PLUGIN-004", "{e}");
    }
}

#[test]
fn damaged_components_never_do_more_than_fail() {
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for i in 0..64 {
        // Every cut is refused: the exports stand last.
        let e = refused(LIAR[..LIAR.len() * i / 64].to_vec(), "allow");
        *codes.entry(e.code()).or_default() += 1;
    }
    assert!(codes.keys().all(|c| ["BDL-PLUGIN-002", "BDL-PLUGIN-004", "BDL-PLUGIN-006"].contains(c)), "{codes:?}");
    let limits = Limits { configure: Duration::from_millis(200), ..Limits::default() };
    // Always the same positions, spread over the file and its bits.
    for i in 0..96usize {
        let mut wasm = LIAR.to_vec();
        let at = 8 + (i * 7919) % (wasm.len() - 8);
        wasm[at] ^= 1 << (i % 8);
        let spec = LoadSpec {
            name: "flipped".to_owned(),
            wasm: wasm.into(),
            config: "count".to_owned(),
            limits: limits.clone(),
            grants: Grants::default(),
        };
        match host().load(spec) {
            Ok(p) => match p.decide_here(&question(), SHORT) {
                Ok(d) => assert!(d.reason.len() <= 4096),
                Err(f) => assert!(f.is_plugins_own(), "byte {at}: {f}"),
            },
            Err(Error::Engine { detail } | Error::NotWasm { found: detail, .. }) => panic!("byte {at}: {detail}"),
            Err(e) => assert!(e.to_string().len() < 4096, "byte {at}: {e}"),
        }
    }
    host_goes_on();
}

#[test]
fn a_hostile_project_is_denied_quarantined_on_record_and_alone_in_it() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(touch:*)"], &[], &[]));
    std::fs::write(host.beadle_home().join("liar.wasm"), LIAR).expect("written");
    let good = Model::start(&json!({ "steps": [bash("touch good"), { "text": "done" }] }));
    let id = host.run_demo(&good, "go", &[]);
    host.ended(&id);
    assert!(host.work().join("good").exists());
    // From here on the project has a policy that lies.
    let plugin = host.file("liar.wasm", "");
    std::fs::write(&plugin, LIAR).expect("written");
    host.file("beadle.toml", "[[policy]]\nname = \"liar\"\nplugin = \"./liar.wasm\"\n[policy.config]\nway = \"utf8\"\n");
    let mut steps: Vec<Value> = (0..7).map(|n| bash(&format!("touch bad{n}"))).collect();
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert!((0..7).all(|n| !host.work().join(format!("bad{n}")).exists()));
    let causes: Vec<String> = host.events_of(&id, "plugin_failed").iter().map(|e| e["body"]["cause"].to_string()).collect();
    assert_eq!(causes, [vec!["\"bad_answer\""; 5], vec!["\"quarantined\""; 2]].concat(), "five failures, then not asked");
    let decided = host.events_of(&id, "tool_decided");
    assert_eq!(decided.len(), 7);
    for d in &decided {
        assert_eq!(d["body"]["effect"], "deny");
        assert!(d["body"]["reason"].as_str().is_some_and(|r| r.contains("policy liar failed")), "{d}");
    }
    // The daemon and sessions elsewhere go on.
    std::fs::remove_file(host.work().join("beadle.toml")).expect("removed");
    let good = Model::start(&json!({ "steps": [bash("touch again"), { "text": "done" }] }));
    let id = host.run_demo(&good, "go", &[]);
    host.ended(&id);
    assert!(host.work().join("again").exists());
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn slow_plugins_run_apart_and_the_others_are_served() {
    let options =
        HostOptions { threads: 2, quarantine: QuarantineOptions { after: u32::MAX, pause: Duration::ZERO }, ..HostOptions::default() };
    let host = Host::new(options).expect("an engine");
    let load = |wasm: &'static [u8], config: &str| {
        let spec = LoadSpec {
            name: config.to_owned(),
            wasm: wasm.into(),
            config: config.to_owned(),
            limits: Limits::default(),
            grants: Grants::default(),
        };
        host.load(spec).expect("it loads")
    };
    // Three plugins that loop: more than there are threads for quick calls.
    let looping: Vec<_> = (0..3).map(|_| load(LIAR, "loop")).collect();
    let good = load(standard::RULES, "{}");
    let question = Arc::new(question());
    crate::support::runtime().block_on(async {
        let calls: Vec<_> = looping
            .iter()
            .flat_map(|p| (0..4).map(|_| Arc::clone(p)))
            .map(|p| {
                let q = Arc::clone(&question);
                tokio::spawn(async move { p.decide(&q, Duration::from_secs(3)).await })
            })
            .collect();
        let end = Instant::now() + AMPLE;
        while !looping.iter().all(|p| p.slow()) {
            assert!(Instant::now() < end, "not moved");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..100 {
            good.decide(&question, Duration::from_secs(2)).await.expect("served");
        }
        assert!(!good.slow() && looping.iter().all(|p| p.running() <= 1));
        for c in calls {
            let f = c.await.expect("joined").expect_err("it loops");
            assert!(matches!(f.cause, FailureCause::Deadline | FailureCause::Busy), "{f}");
        }
    });
}
