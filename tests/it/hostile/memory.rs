//! Hostile calls leave no memory behind: rounds of them, until what the process holds does not change any more.
//!
//! Memory that is bounded fills first, and how soon differs between machines: the pool's slots keep some pages each and are met one
//! after the other, logs fill their rings, the allocator keeps what it once needed. So a single limit over everything says little.
//! A leak is what goes on: with one call in ten leaking, no round is like the one before. Three leaks on purpose show that each kind
//! is found. Measured in processes of their own, because other tests share this one.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use beadle::model::FailureCause;
use beadle::plugin::{Kind, Plugin};

use super::{AMPLE, LIAR, hostile_wasi, liar, load, module, question, section, with_module};

/// Makes a child of this test; its value says what leaks there.
const CHILD: &str = "BEADLE_TEST_MEMORY";
/// Rounds until it must have come to rest.
const ROUNDS: usize = 30;
/// So many rounds in a row like the one before are rest.
const REST: usize = 4;
/// What a round may add, or take away, and be like the one before, in KiB.
const SAME: u64 = 32;
/// One call in so many leaks, where a leak is asked for.
const LEAKS: usize = 10;
/// Ways of the guest with calls in one round: a thousand and some more.
const WAYS: [(&str, usize); 14] = [
    ("trap", 100),
    ("effect", 100),
    ("reason-outside", 100),
    ("utf8", 100),
    ("giant", 5),
    ("json-deep", 100),
    ("json-twice", 100),
    ("realloc-trap", 100),
    ("realloc-grow", 100),
    ("log-utf8", 100),
    ("log-giant", 5),
    ("after-trap", 100),
    ("memory-touch", 5),
    ("loop", 30),
];
/// Calls of the guest with WASI, and as many of one with two memories, which runs on the engine without a pool.
const OTHERS: usize = 100;

/// Memory that is this process's alone, in KiB; file pages come and go with the machine's load.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let of = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok())
    };
    of("RssAnon:").expect("a number") + of("VmSwap:").unwrap_or(0)
}

/// Every tenth call of a kind loses something.
struct Leak {
    what: String,
    calls: usize,
}

impl Leak {
    /// One call; false when the host had no room for it.
    fn call(&mut self, plugin: &Plugin, deadline: Duration, pooled: bool) -> bool {
        let (outcome, used) = plugin.decide_then(&question(), deadline);
        self.calls += 1;
        if self.calls.is_multiple_of(LEAKS) {
            match self.what.as_str() {
                "store in the pool" if pooled => std::mem::forget(used),
                "store" if !pooled => std::mem::forget(used),
                "page" => std::mem::forget(std::hint::black_box(vec![1u8; 4096])),
                _ => {}
            }
        }
        !outcome.is_err_and(|f| f.cause == FailureCause::Busy)
    }
}

/// Rounds until rest; says what was held after each.
#[allow(clippy::print_stdout)] // why: the parent reads it.
fn child(what: &str) {
    let plugins: Vec<(&str, usize, Arc<Plugin>)> = WAYS.iter().map(|(way, n)| (*way, *n, liar(way))).collect();
    let wasi = load(hostile_wasi(), "handles").expect("it loads");
    let large = load(with_module(LIAR, &module(&[section(5, &[1, 0, 1])])), "trap").expect("it loads");
    assert_eq!(large.engine().0, Kind::Large);
    let mut leak = Leak { what: what.to_owned(), calls: 0 };
    let (mut after, mut rest) = (Vec::new(), 0);
    while rest < REST && after.len() < ROUNDS {
        for (way, n, plugin) in &plugins {
            let deadline = if *way == "loop" { Duration::from_millis(1) } else { AMPLE };
            for _ in 0..*n {
                if !leak.call(plugin, deadline, true) && *way != "loop" {
                    println!("no room for {way} after {} rounds", after.len());
                    return;
                }
            }
        }
        for _ in 0..OTHERS {
            leak.call(&wasi, AMPLE, true);
        }
        for _ in 0..OTHERS {
            leak.call(&large, AMPLE, false);
        }
        let now = held();
        let same = after.last().is_some_and(|last: &u64| last.abs_diff(now) <= SAME);
        rest = if same { rest + 1 } else { 0 };
        after.push(now);
    }
    println!("{} after {} rounds: {after:?} KiB", if rest == REST { "at rest" } else { "still growing" }, after.len());
}

/// What a child with this leak says.
fn said(what: &str) -> String {
    let exe = std::env::current_exe().expect("a path");
    let mut c = Command::new(exe);
    c.args(["--exact", "hostile::memory::hostile_calls_leave_no_memory_behind", "--nocapture"]).env(CHILD, what);
    // why: else the allocator learns from large blocks to keep more, and has a heap for each thread.
    c.env("MALLOC_ARENA_MAX", "1").env("MALLOC_MMAP_THRESHOLD_", "131072").env("MALLOC_TRIM_THRESHOLD_", "131072");
    let out = c.output().expect("the tests start");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
#[allow(clippy::print_stdout)] // why: the numbers belong into the test's output.
fn hostile_calls_leave_no_memory_behind() {
    if let Ok(what) = std::env::var(CHILD) {
        return child(&what);
    }
    let sound = said("");
    println!("{sound}");
    assert!(sound.contains("at rest after"), "{sound}");
}

#[test]
#[allow(clippy::print_stdout)] // why: the numbers belong into the test's output.
fn a_leak_in_one_call_of_ten_is_found() {
    for (what, found) in [("store in the pool", "no room for"), ("store", "still growing after"), ("page", "still growing after")] {
        let text = said(what);
        println!("{what}: {text}");
        assert!(text.contains(found), "a leaked {what} is not found: {text}");
    }
}
