//! The store on a disk that lies: power cuts, torn and reordered writes, I/O errors, failed syncs.
//!
//! What holds: an acknowledged event is there after the cut, byte for byte, and the log proves itself. That the disk really lies is
//! shown by the same rounds with less than `synchronous = FULL`: they lose acknowledged events.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use beadle::model::{Event, SessionId};
use beadle::store::{Engine, Error, Options, Store};
use tempfile::TempDir;

use super::disk::{self, Fate, Fault, Random};
use super::{Result, batch, begin, note};

/// What was acknowledged: the text of each note by session and seq.
type Acked = BTreeMap<(SessionId, u64), String>;

fn options(synchronous: &'static str) -> Options {
    // Small numbers, so that short rounds see checkpoints and logs begun anew.
    let engine = Engine { vfs: Some(disk::VFS.to_owned()), synchronous, checkpoint_pages: 40, reset_frames: 60 };
    Options { head_every_events: 7, engine, ..Options::default() }
}

/// Opens the store. Another test that starts a process at this moment holds our lock for as long as the fork has not become its program.
fn open(dir: &Path, synchronous: &'static str) -> Result<Store, Error> {
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        match Store::open(dir, options(synchronous)) {
            Err(Error::InUse { .. }) if std::time::Instant::now() < end => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

/// Appends notes from several threads until the disk fails for good or `each` are written; gives what was acknowledged.
fn write(store: &Store, threads: u64, each: u64, random: &mut Random) -> Acked {
    let acked = Mutex::new(Acked::new());
    std::thread::scope(|s| {
        for t in 0..threads {
            let mut random = Random::new(random.below(u64::MAX));
            let acked = &acked;
            s.spawn(move || {
                let Ok(id) = begin(store, &format!("w{t}")) else { return };
                for n in 0..each {
                    let texts: Vec<String> =
                        (0..=random.below(4)).map(|i| format!("{t} {n} {i} {}", "x".repeat(random.below(3_000) as usize))).collect();
                    let events = texts.iter().map(|t| note(t).expect("a note")).collect();
                    let Ok(a) = store.append(batch(&id, events)).wait() else { return };
                    let mut acked = acked.lock().expect("no panic");
                    acked.extend((a.first_seq..).map(|seq| (id.clone(), seq)).zip(texts));
                }
            });
        }
    });
    acked.into_inner().expect("no panic")
}

/// How many acknowledged notes are not there as they were acknowledged.
fn missing(store: &Store, acked: &Acked) -> usize {
    let is_there = |id: &SessionId, seq: u64, text: &String| match store.events(id, seq, 1).as_deref() {
        Ok([e]) => e.envelope.seq == seq && matches!(&e.envelope.event, Event::Note(n) if n.text == *text),
        _ => false,
    };
    acked.iter().filter(|((id, seq), text)| !is_there(id, *seq, text)).count()
}

/// A store on a new folder after the power was cut in `dir`.
fn next(dir: &Path, fate: Fate, random: &mut Random) -> Result<TempDir> {
    let to = tempfile::tempdir()?;
    disk::after_the_cut(dir, to.path(), fate, random);
    Ok(to)
}

/// Rounds of writing and power cuts; gives how many acknowledged events were lost, at the first loss with the round.
fn rounds(synchronous: &'static str, rounds: u64, seed: u64) -> Result<usize> {
    let mut random = Random::new(seed);
    let fates = [Fate::Lost, Fate::Kept, Fate::Some, Fate::Torn];
    let mut dir = tempfile::tempdir()?;
    disk::insert(dir.path());
    let mut acked = Acked::new();
    let mut cuts_while_opening = 0;
    for round in 0..rounds {
        if round % 8 == 0 {
            dir = tempfile::tempdir()?;
            disk::insert(dir.path());
            acked.clear();
        }
        // In some rounds the power goes while the store opens, which is a few calls.
        let within = if round % 5 == 0 { 8 } else { 300 };
        disk::with(dir.path(), |d| d.cut_at = Some(d.calls + 1 + random.below(within)));
        match open(dir.path(), synchronous) {
            Ok(store) => {
                let threads = 1 + random.below(8);
                acked.extend(write(&store, threads, 40, &mut random));
                disk::with(dir.path(), |d| d.off = true);
            }
            // The power may go while it opens; nothing else may go wrong.
            Err(e) if disk::with(dir.path(), |d| d.off) => {
                assert!(matches!(e, Error::Engine { .. } | Error::Full { .. } | Error::Folder { .. } | Error::Closed), "{e}");
                cuts_while_opening += 1;
            }
            Err(e) if synchronous == "FULL" => panic!("round {round} of seed {seed}: {e}"),
            Err(_) => return Ok(acked.len().max(1)),
        }
        let fate = fates[random.below(4) as usize];
        dir = next(dir.path(), fate, &mut random)?;
        let store = match open(dir.path(), synchronous) {
            Ok(s) => s,
            Err(e) if synchronous == "FULL" => panic!("round {round} of seed {seed}, {fate:?}: {e}"),
            Err(_) => return Ok(acked.len().max(1)),
        };
        let lost = missing(&store, &acked);
        let report = store.verify(None)?;
        if synchronous != "FULL" && (lost > 0 || !report.is_sound()) {
            return Ok(lost.max(1));
        }
        assert_eq!(lost, 0, "round {round} of seed {seed}, {fate:?}: {lost} of {} acknowledged events are lost", acked.len());
        assert!(report.is_sound() && store.damaged().is_empty(), "round {round} of seed {seed}, {fate:?}: {:?}", report.findings);
    }
    assert!(synchronous != "FULL" || cuts_while_opening > 0, "no cut hit an opening");
    Ok(0)
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() -> Result {
    let n = std::env::var("BEADLE_POWER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(520);
    let results: Vec<_> = std::thread::scope(|s| {
        let all: Vec<_> = (1..=4u64).map(|seed| s.spawn(move || rounds("FULL", n / 4, seed).map_err(|e| e.to_string()))).collect();
        all.into_iter().map(|t| t.join()).collect()
    });
    for r in results {
        match r {
            Ok(lost) => assert_eq!(lost?, 0),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Ok(())
}

#[test]
fn with_less_than_full_synchronous_the_same_rounds_lose_events() -> Result {
    for synchronous in ["NORMAL", "OFF"] {
        assert!(rounds(synchronous, 60, 5)? > 0, "synchronous = {synchronous} lost nothing: the disk does not lie");
    }
    Ok(())
}

/// One fault at the `first` call from the start of the store on, then the power goes with everything unsynced. `true` when it was met.
fn faulty(first: u64, count: u64, fault: Fault) -> Result<bool> {
    let what = format!("{fault:?} at call {first}, {count} times");
    let dir = tempfile::tempdir()?;
    disk::insert(dir.path());
    disk::with(dir.path(), |d| d.fault = Some((first, count, fault)));
    let mut random = Random::new(first);
    let mut acked = Acked::new();
    let opened = open(dir.path(), "FULL");
    match &opened {
        Ok(store) => {
            acked.extend(write(store, 2, 12, &mut random));
            disk::with(dir.path(), |d| d.fault = None);
            // The disk is well again: so is the store.
            let id = begin(store, "after").map_err(|e| format!("{what}: {e}"))?;
            let a = store.append(batch(&id, vec![note("after")?])).wait().map_err(|e| format!("{what}: {e}"))?;
            acked.insert((id, a.last_seq), "after".to_owned());
            assert_eq!(missing(store, &acked), 0, "{what}: before the cut");
            let report = store.verify(None)?;
            assert!(report.is_sound(), "{what}: {:?}", report.findings);
        }
        Err(e) => assert!(matches!(e, Error::Engine { .. } | Error::Full { .. } | Error::Corrupt { .. }), "{what}: {e}"),
    }
    let met = disk::with(dir.path(), |d| {
        d.off = true;
        d.faults_hit > 0
    });
    drop(opened);
    let dir = next(dir.path(), Fate::Lost, &mut random)?;
    let store = open(dir.path(), "FULL").map_err(|e| format!("{what}: {e}"))?;
    assert_eq!(missing(&store, &acked), 0, "{what}: after the cut");
    let report = store.verify(None)?;
    assert!(report.is_sound(), "{what}: {:?}", report.findings);
    Ok(met)
}

/// Calls from the opening on that are made to fail; two writers make about this many.
const CALLS: u64 = 120;

#[test]
fn a_failing_disk_is_told_and_what_was_acknowledged_stays() -> Result {
    let some = |part: u64| -> Result<u64, String> {
        let mut met = 0;
        for first in (1..=CALLS).filter(|n| n % 4 == part) {
            // Once, and for a while.
            for (fault, count) in [(Fault::Error, 1), (Fault::Full, 1), (if first % 8 < 4 { Fault::Error } else { Fault::Full }, 3)] {
                met += u64::from(faulty(first, count, fault).map_err(|e| e.to_string())?);
            }
        }
        Ok(met)
    };
    let met: u64 = std::thread::scope(|s| {
        let all: Vec<_> = (0..4).map(|part| s.spawn(move || some(part))).collect();
        all.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).sum::<Result<u64, String>>()
    })?;
    assert!(met > CALLS * 2, "only {met} of {} faults were met", CALLS * 3);
    Ok(())
}
