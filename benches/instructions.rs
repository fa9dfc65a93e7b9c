//! WebAssembly instructions of the standard policy: the same on every machine, so that a regression shows where times are noise.
//!
//! Counts by fuel, one for each instruction that the guest executes: `configure` with the sample's 100 rules, and `decide` for each
//! of its calls in an instance that has just been configured. `--check` compares with `instructions.txt` and fails above 3 % more;
//! `--write` writes that file. CI checks.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::fmt::Write as _;

use beadle::plugin::standard;
use policy_rules::bench::{sample_calls, sample_config};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

mod guest {
    wasmtime::component::bindgen!({ path: "../wit/v0.1", world: "permission-policy" });
}

use guest::beadle::plugin::types;

mod convert;

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
    let (session, config) = (convert::session(), sample_config());
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
        let decision = policy.beadle_plugin_policy().call_decide(&mut store, &session, &convert::call(c))?;
        // Generated enums print with their type's name.
        let (said, wanted) = (format!("{:?}", decision.effect), format!("{effect:?}"));
        let last = |text: &str| text.rsplit("::").next().unwrap_or_default().to_lowercase();
        let name = format!("decide {}: {} with {} commands, {}", i + 1, c.tool, c.commands.len(), last(&said));
        anyhow::ensure!(last(&said) == last(&wanted), "{name}: the sample says {}", last(&wanted));
        rows.push((name, FULL - store.get_fuel()?));
    }
    Ok(rows)
}

const FULL: u64 = 1 << 40;
