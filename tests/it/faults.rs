//! The executed fault matrix: every component in every state of trouble at every point of a call's life.
//!
//! A cell is one session of the built-in agent through the real binaries. A failpoint holds the daemon at the point; the component is
//! brought into its state; what must not happen is watched; then the trouble ends and the proof of `Rig::prove` is made: the marks
//! that calls left when they *really ran* are exactly those that the log allowed before, each once; every event that a follower was
//! shown is still there with the same hash; the log proves itself; no process is left. Cells that cannot be executed are named with
//! the reason. `BEADLE_FAULTS=all` runs all, else one for each component and state; `BEADLE_FAULTS_ONLY` those with these words in
//! their name; `BEADLE_FAULTS_OUT` names a file for the table.
//!
//! That the matrix fails when the host is broken was tried by hand, with a patch that was thrown away: in `session::run::commit` the
//! frames were sent and the hook clients answered right before the failpoint `appended`, so before the sync. With
//! `BEADLE_FAULTS_ONLY='killed at appended'` every cell failed, those of the gate by a call that ran while the daemon was held
//! (`[0] ran, and only [] may have`), the one by hook by a client that was told what was not durable; `hung at appended` the same.

mod act;
mod hooked;
mod rig;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const COMPONENTS: [&str; 8] = ["daemon", "shim", "hook client", "plugin", "store", "agent", "terminal", "daemon by hook"];
pub const STATES: [&str; 5] = ["killed", "hung", "slow", "full disk", "restarted"];
pub const POINTS: [&str; 8] = ["requested", "decided", "appended", "synced", "sent", "taken", "ran", "reported"];
/// Cells that run at the same time.
const AT_ONCE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    component: usize,
    state: usize,
    point: usize,
}

impl Cell {
    pub fn component(self) -> &'static str {
        COMPONENTS[self.component]
    }

    pub fn state(self) -> &'static str {
        STATES[self.state]
    }

    pub fn point(self) -> &'static str {
        POINTS[self.point]
    }

    fn name(self) -> String {
        format!("{} {} at {}", self.component(), self.state(), self.point())
    }
}

fn cells() -> impl Iterator<Item = Cell> {
    (0..COMPONENTS.len())
        .flat_map(|component| (0..STATES.len()).flat_map(move |state| (0..POINTS.len()).map(move |point| Cell { component, state, point })))
}

/// One cell for each component and state, the points in turn.
fn is_sample(c: Cell) -> bool {
    let points: Vec<usize> = (0..POINTS.len()).filter(|point| act::impossible(Cell { point: *point, ..c }).is_none()).collect();
    !points.is_empty() && points[(c.component * STATES.len() + c.state) % points.len()] == c.point
}

/// Runs cells side by side; gives those that failed with what they said.
#[allow(clippy::print_stdout)] // why: the slowest cells are found in the test's output.
fn run(cells: &[Cell]) -> BTreeMap<Cell, String> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = std::time::Instant::now();
                    let done = catch_unwind(AssertUnwindSafe(|| act::execute(*cell, &cell.name())));
                    println!("{:>6} ms  {}", begun.elapsed().as_millis(), cell.name());
                    if let Err(why) = done {
                        let text = why.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
                        failed.lock().expect("no panic under it").insert(*cell, text);
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no panic under it")
}

/// The table as Markdown; the same for the same results on every machine.
fn table(failed: &BTreeMap<Cell, String>) -> String {
    let mut out = String::from("# Fault matrix\n\n");
    let count = cells().filter(|c| act::impossible(*c).is_none()).count();
    let _ = writeln!(
        out,
        "Made by `BEADLE_FAULTS=all BEADLE_FAULTS_OUT=FILE cargo test --release --test it faults::` (`tests/it/faults.rs`): {count} cells executed, \
         {} not executable, {} failed.\n\nIn an executed cell that *held*, no denied or undecided call ran, each allowed call ran at most once, and no \
         acknowledged event was lost. The points are those of a call's life: a question is *requested*, *decided* by policy, its decision \
         *appended* and *synced*, the answer *sent* and *taken*, the call *ran* and was *reported*.\n",
        cells().count() - count,
        failed.len()
    );
    for (i, component) in COMPONENTS.iter().enumerate() {
        let _ = writeln!(out, "## {component}\n\n| | {} |\n| --- |{}", POINTS.join(" | "), " --- |".repeat(POINTS.len()));
        let mut notes = Vec::new();
        for (j, state) in STATES.iter().enumerate() {
            let _ = write!(out, "| {state} |");
            for k in 0..POINTS.len() {
                let c = Cell { component: i, state: j, point: k };
                let word = match (act::impossible(c), failed.contains_key(&c)) {
                    (Some(_), _) => "n/a",
                    (None, true) => "**FAILED**",
                    (None, false) => "held",
                };
                let _ = write!(out, " {word} |");
            }
            out.push('\n');
            let c = Cell { component: i, state: j, point: 0 };
            notes.push(match act::impossible(c) {
                Some(why) => format!("- {state}: not executable: {why}"),
                None => format!("- {state}: {}", act::words(c)),
            });
        }
        let last = Cell { component: i, state: 0, point: POINTS.len() - 1 };
        if let (None, Some(why)) = (act::impossible(Cell { point: 0, ..last }), act::impossible(last)) {
            notes.push(format!("- from `sent` on: not executable: {why}"));
        }
        let _ = writeln!(out, "\n{}\n", notes.join("\n"));
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

#[test]
#[allow(clippy::print_stdout)] // why: how much of the matrix was executed belongs into the test's output.
fn no_cell_lets_a_call_run_undecided_or_loses_an_event() {
    let all = std::env::var("BEADLE_FAULTS").is_ok_and(|v| v == "all");
    let only = std::env::var("BEADLE_FAULTS_ONLY").unwrap_or_default();
    let chosen: Vec<Cell> = cells()
        .filter(|c| act::impossible(*c).is_none() && (all || !only.is_empty() || is_sample(*c)) && c.name().contains(&only))
        .collect();
    let begun = std::time::Instant::now();
    let failed = run(&chosen);
    let named = cells().filter(|c| act::impossible(*c).is_some()).count();
    println!("{} cells executed in {} s, {named} not executable, {} failed", chosen.len(), begun.elapsed().as_secs(), failed.len());
    if let (true, Some(path)) = (all, std::env::var_os("BEADLE_FAULTS_OUT")) {
        std::fs::write(path, table(&failed)).expect("the table");
    }
    let said: Vec<String> = failed.iter().map(|(c, why)| format!("{}: {why}", c.name())).collect();
    assert!(said.is_empty(), "{} cells failed:\n{}", said.len(), said.join("\n\n"));
    assert!(!chosen.is_empty());
}

#[test]
fn the_table_in_the_repository_is_of_these_cells() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/FAULTS.md");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == table(&BTreeMap::new()), "tests/FAULTS.md differs from what the matrix is now; make it anew with BEADLE_FAULTS=all");
}
