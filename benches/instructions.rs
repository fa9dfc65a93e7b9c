//! WebAssembly instructions of the standard policy: the same on every machine, so that a regression shows where times are noise.
//!
//! Counts by fuel, one for each instruction that the guest executes: `configure` with the sample's 100 rules, and `decide` for each
//! of its calls in an instance that has just been configured. `--check` compares with `instructions.txt` and fails above 3 % more;
//! `--write` writes that file. CI checks.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::fmt::Write as _;

use beadle::plugin::standard;
use policy_rules::bench::{sample_calls, sample_config, sample_session};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

mod guest {
    wasmtime::component::bindgen!({ path: "../wit/v0.1", world: "permission-policy" });
}

use guest::beadle::plugin::types;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.txt");
/// Per mille above the golden count that is still the same.
const SLACK: u64 = 30;

impl guest::beadle::plugin::log::Host for () {
    fn log(&mut self, _level: guest::beadle::plugin::log::Level, _message: String) {}
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let rows = count()?;
    let mut text = String::new();
    for (name, n) in &rows {
        writeln!(text, "{n:>9}  {name}")?;
    }
    if args.iter().any(|a| a == "--write") {
        std::fs::write(GOLDEN, &text)?;
    }
    print!("{text}");
    if args.iter().any(|a| a == "--check") {
        check(&rows)?;
    }
    Ok(())
}

fn check(rows: &[(String, u64)]) -> anyhow::Result<()> {
    let golden = std::fs::read_to_string(GOLDEN)?;
    let mut worse = Vec::new();
    for (name, n) in rows {
        let line = golden.lines().find_map(|l| l.trim().split_once("  ").filter(|(_, at)| at == name));
        let Some((was, _)) = line else { anyhow::bail!("{name} is not in instructions.txt; run with --write") };
        let was: u64 = was.parse()?;
        if *n > was + was * SLACK / 1000 {
            worse.push(format!("{name}: {n} instructions, {was} before"));
        }
    }
    anyhow::ensure!(worse.is_empty(), "more work than before, run with --write if it is meant:\n{}", worse.join("\n"));
    println!("no row has more than {} % above instructions.txt", SLACK / 10);
    Ok(())
}

fn count() -> anyhow::Result<Vec<(String, u64)>> {
    let mut c = Config::new();
    c.consume_fuel(true).concurrency_support(false);
    let engine = Engine::new(&c)?;
    let mut linker = Linker::new(&engine);
    guest::beadle::plugin::log::add_to_linker::<_, wasmtime::component::HasSelf<()>>(&mut linker, |s| s)?;
    let component = Component::new(&engine, standard::RULES)?;
    let (session, config) = (session(), sample_config());
    let mut rows = Vec::new();
    for (i, (c, effect)) in sample_calls().iter().enumerate() {
        let mut store = Store::new(&engine, ());
        store.set_fuel(FULL)?;
        let policy = guest::PermissionPolicy::instantiate(&mut store, &component, &linker)?;
        policy.call_configure(&mut store, &config)?.map_err(anyhow::Error::msg)?;
        if i == 0 {
            rows.push(("configure, 100 rules".to_owned(), FULL - store.get_fuel()?));
        }
        store.set_fuel(FULL)?;
        let decision = policy.beadle_plugin_policy().call_decide(&mut store, &session, &call(c))?;
        let name = format!("decide {}: {} with {} commands, {:?}", i + 1, c.tool, c.commands.len(), decision.effect);
        anyhow::ensure!(format!("{:?}", decision.effect) == format!("Effect::{effect:?}"), "{name}: the sample says {effect:?}");
        rows.push((name, FULL - store.get_fuel()?));
    }
    Ok(rows)
}

const FULL: u64 = 1 << 40;

fn call(c: &beadle_plugin::Call) -> types::Call {
    let word = |w: &beadle_plugin::Word| types::Word { text: w.text.clone(), exact: w.exact };
    let access = |a| if a == beadle_plugin::Access::Read { types::Access::Read } else { types::Access::Write };
    let path = |p: &beadle_plugin::PathUse| types::PathUse {
        written: p.written.clone(),
        absolute: p.absolute.clone(),
        resolved: p.resolved.clone(),
        access: access(p.access),
        exact: p.exact,
    };
    let command = |c: &beadle_plugin::Command| types::Command {
        argv: c.argv.iter().map(word).collect(),
        env: Vec::new(),
        redirects: c.redirects.iter().map(|r| types::Redirect { target: word(&r.target), access: access(r.access) }).collect(),
        origin: c.origin.clone(),
        exact: c.exact,
    };
    types::Call {
        agent: "claude".to_owned(),
        tool: c.tool.clone(),
        kind: match c.tool.as_str() {
            "Bash" => types::ToolKind::Execute,
            "Read" => types::ToolKind::Read,
            _ => types::ToolKind::Edit,
        },
        input: c.input.clone(),
        cwd: c.cwd.clone(),
        write_root: None,
        paths: c.paths.iter().map(path).collect(),
        urls: c.urls.clone(),
        commands: c.commands.iter().map(command).collect(),
        parse: types::Parse::Complete,
        parse_reason: None,
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: types::Channel::Driver,
        at_ms: 0,
    }
}

fn session() -> types::Session {
    let s = sample_session();
    types::Session {
        id: "fix-the-build-m2k9x1a7-k3v9q".to_owned(),
        name: "test".to_owned(),
        agent: "claude".to_owned(),
        root: s.root,
        home: s.home,
        labels: Vec::new(),
        parent: None,
        attempt: 1,
        mediation: types::Mediation::Gate,
        created_at_ms: 0,
        calls: 0,
        denied: 0,
        sub_agents: 0,
        turns: 0,
        usage: types::Usage { input: 0, output: 0, cache_read: 0, cache_write: 0 },
        cost_nanousd: None,
        unpriced: 0,
        model: None,
    }
}
