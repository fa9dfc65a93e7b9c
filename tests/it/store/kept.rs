//! Archives, erasures and ways back in any order: what is read stays what was written, but for what was erased.

use std::collections::BTreeSet;

use beadle::store::Erase;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Append(u8),
    Archive(u64),
    Restore,
    Erase(u8),
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0u8..4).prop_map(Act::Append),
        3 => (1u64..30).prop_map(Act::Archive),
        1 => Just(Act::Restore),
        2 => (0u8..4).prop_map(Act::Erase),
        1 => Just(Act::Reopen),
    ];
    proptest::collection::vec(act, 1..25)
}

fn word(n: u8) -> String {
    format!("hush-{n}-zebra")
}

fn told(kind: &str, body: Value) -> Result<Event> {
    event(kind, body)
}

/// What a session's log should say: texts of notes, the erased ones without the word.
fn texts(store: &Store, id: &SessionId) -> Result<Vec<String>> {
    let events = store.events(id, 1, 10_000)?;
    Ok(events.into_iter().filter_map(|e| if let Event::Note(n) = e.envelope.event { Some(n.text) } else { None }).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn archives_and_erasures_in_any_order_change_nothing_else(acts in acts()) {
        run(acts).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

fn run(acts: Vec<Act>) -> Result {
    let dir = TempDir::new()?;
    let mut store = open(dir.path())?;
    let id: SessionId = "kept-1-bbbbb".parse()?;
    store.append(Batch { expected: Some(0), ..batch(&id, vec![created("kept", "x")?]) }).wait()?;
    let by = json!({ "role": "operator" });
    let mut want: Vec<String> = Vec::new();
    let mut erased: BTreeSet<u64> = BTreeSet::new();
    for act in acts {
        match act {
            Act::Append(n) => {
                let text = format!("a {} b", word(n));
                store.append(batch(&id, vec![note(&text)?])).wait()?;
                want.push(text);
            }
            Act::Archive(last) => match store.write_archive(&id, last, None) {
                Ok(a) => {
                    store.stage_archive(&a).wait()?;
                    let body = json!({ "first": a.first, "last": a.last, "file": a.file, "digest": a.digest.to_string(), "bytes": a.bytes, "by": by });
                    store.append(batch(&id, vec![told("session_archived", body)?])).wait()?;
                }
                Err(e) => assert_eq!(e.code(), "BDL-STORE-041"),
            },
            Act::Restore => {
                for a in store.archives(&id)?.into_iter().rev() {
                    store.restore_archive(&a, &mut || ())?;
                    store.drop_file(&a.path)?;
                }
            }
            Act::Erase(n) => {
                for seq in store.holding(&id, &word(n), 1_000)? {
                    let Some(r) = store.prepare_redaction(&id, seq, &Erase::Text(word(n)), &[seq])? else {
                        return Err("it was said to hold it".into());
                    };
                    store.stage_redaction(&r).wait()?;
                    let archive = r.archive.as_ref().map(|(a, _)| a.digest.to_string());
                    let body = json!({ "seq": seq, "reason": "a test", "by": by, "digest": r.digest.to_string(), "archive": archive });
                    store.append(batch(&id, vec![told("secret_redacted", body)?])).wait()?;
                    store.finish_redaction(&r)?;
                    erased.insert(seq);
                }
                want.iter_mut().for_each(|t| *t = t.replace(&word(n), "[erased]"));
            }
            Act::Reopen => {
                drop(store);
                store = reopened(dir.path())?;
            }
        }
        assert_eq!(texts(&store, &id)?, want);
        let report = store.verify(None)?;
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.erased, erased.len() as u64);
    }
    // One event at a time, and from the end: the same as all at once.
    let all = store.events(&id, 1, 10_000)?;
    for (i, e) in all.iter().enumerate() {
        assert_eq!(store.events(&id, i as u64 + 1, 1)?, std::slice::from_ref(e));
        assert_eq!(store.tail(&id, i + 1)?[..], all[all.len() - i - 1..]);
    }
    assert_eq!(replay(&store, &id)?, store.session(&id)?);
    Ok(())
}

#[test]
fn events_come_back_in_pieces_between_which_others_write_and_all_or_none() -> Result {
    let dir = TempDir::new()?;
    let store = open(dir.path())?;
    let (id, other): (SessionId, SessionId) = ("kept-1-bbbbb".parse()?, "live-1-ccccc".parse()?);
    for (id, name) in [(&id, "kept"), (&other, "live")] {
        store.append(Batch { expected: Some(0), ..batch(id, vec![created(name, "x")?]) }).wait()?;
    }
    // Long enough for two frames.
    for from in 0..5 {
        let notes = (0..500).map(|n| note(&format!("{} {}", from * 500 + n, "x".repeat(300)))).collect::<Result<_>>()?;
        store.append(batch(&id, notes)).wait()?;
    }
    let file = dir.path().join("mine.jsonl.zst");
    let archive = |last: u64, file: Option<&Path>| -> Result<beadle::store::Archive> {
        let a = store.write_archive(&id, last, file)?;
        store.stage_archive(&a).wait()?;
        let body = json!({ "first": a.first, "last": a.last, "file": a.file, "digest": a.digest.to_string(), "bytes": a.bytes, "by": { "role": "host" } });
        store.append(batch(&id, vec![told("session_archived", body)?])).wait()?;
        Ok(a)
    };
    archive(200, None)?;
    let a = archive(2_400, Some(&file))?;
    let was = store.events(&id, 1, 10_000)?;
    let in_database =
        || -> Result<i64> { Ok(sql(dir.path())?.query_row("SELECT count(*) FROM events WHERE session_no = 1", [], |r| r.get(0))?) };
    let beside = in_database()?;

    // A file that is changed at its end while it is read: what came back of it goes again.
    let (bytes, mut pieces) = (std::fs::read(&file)?, 0);
    let cut = store.restore_archive(&a, &mut || {
        pieces += 1;
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("written");
    });
    assert_eq!((code(cut), in_database()?), ("BDL-STORE-040", beside));
    std::fs::write(&file, &bytes)?;
    assert!(pieces >= 1 && store.events(&id, 1, 10_000)? == was);

    // Others write between two pieces, and read the log as it was.
    let mut written = 0;
    store.restore_archive(&a, &mut || {
        written += 1;
        store.append(batch(&other, vec![note("between").expect("a note")])).wait().expect("written");
        assert!(store.events(&id, 1, 10_000).expect("events") == was && store.verify(None).expect("a report").is_sound());
    })?;
    assert_eq!((written, store.archives(&id)?.len(), in_database()?), (3, 1, beside + 2_200));
    assert!(store.events(&id, 1, 10_000)? == was && store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn what_a_live_agent_has_not_taken_yet_is_known_and_goes_with_its_session() -> Result {
    let (_dir, store, a, b) = filled()?;
    let frames = vec![Frame { no: 1, bytes: b"{\"text\":\"say hush\"}\n".to_vec() }];
    store.append(Batch { frames, ..batch(&a, vec![]) }).wait()?;
    let holds = |id: &SessionId, text: &str| store.holds_untaken(id, &Erase::Text(text.to_owned()));
    assert_eq!((holds(&a, "hush")?, holds(&a, "else")?, holds(&b, "hush")?), (true, false, false));
    assert_eq!((store.holds_untaken(&a, &Erase::Whole)?, store.holds_untaken(&b, &Erase::Whole)?), (true, false));
    store.scrub().wait()?;
    assert!(holds(&a, "hush")?, "its agent is still to be told");
    store.append(batch(&a, vec![event("session_ended", json!({ "outcome": "succeeded" }))?])).wait()?;
    store.scrub().wait()?;
    assert!(!holds(&a, "hush")?);
    Ok(())
}

/// After a change of version every log is read anew; a file that somebody keeps elsewhere may not be there then.
#[test]
fn a_host_starts_without_an_archive_that_is_kept_elsewhere() -> Result {
    let (dir, store, a, b) = filled()?;
    let elsewhere = tempfile::tempdir()?;
    let file = elsewhere.path().join("a.jsonl.zst");
    let archive = store.write_archive(&a, 5, Some(&file))?;
    store.stage_archive(&archive).wait()?;
    let body = json!({ "first": 1, "last": 5, "file": archive.file, "digest": archive.digest.to_string(), "bytes": archive.bytes, "by": { "role": "host" } });
    store.append(batch(&a, vec![told("session_archived", body)?])).wait()?;
    let was = store.session(&a)?;
    drop(store);
    sql(dir.path())?.execute("DELETE FROM meta WHERE key = 'folded_by'", [])?;
    std::fs::rename(&file, elsewhere.path().join("away"))?;
    let store = open(dir.path())?;
    assert_eq!(store.damaged(), [a.to_string()]);
    assert_eq!((store.session(&a)?, code(store.events(&a, 1, 9))), (was, "BDL-STORE-040"));
    assert_eq!(store.events(&b, 1, 10)?.len(), 5);
    assert!(found(&store, &a, 1, What::ArchiveMissing)?);
    notes(&store, &a, 1)?;
    std::fs::rename(elsewhere.path().join("away"), &file)?;
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_followers_place_outlives_what_it_pointed_at() -> Result {
    let (dir, store, a, b) = filled()?;
    let newest = store.newest_row()?;
    for id in [&a, &b] {
        store.remove(id, &beadle::model::Actor::host()).wait()?;
    }
    let left = || sql(dir.path()).ok()?.query_row("SELECT count(*) FROM events", [], |r| r.get::<_, i64>(0)).ok();
    crate::support::until("the events are gone", || (left() == Some(0)).then_some(()));
    assert!(newest > 0 && store.newest_row()? >= newest);
    Ok(())
}

/// Moves the first events of a session into a file elsewhere.
fn archived(store: &Store, id: &SessionId, last: u64, file: &Path) -> Result {
    let a = store.write_archive(id, last, Some(file))?;
    store.stage_archive(&a).wait()?;
    let body =
        json!({ "first": 1, "last": last, "file": a.file, "digest": a.digest.to_string(), "bytes": a.bytes, "by": { "role": "host" } });
    store.append(batch(id, vec![told("session_archived", body)?])).wait()?;
    Ok(())
}

#[test]
fn an_erasure_that_fails_in_the_middle_fails_nobody_else() -> Result {
    let (dir, store, a, b) = filled()?;
    let elsewhere = tempfile::tempdir()?;
    let (file, away) = (elsewhere.path().join("a.zst"), elsewhere.path().join("away"));
    archived(&store, &a, 5, &file)?;
    let seq = store.append(batch(&a, vec![note("a hush-zebra b")?])).wait()?.last_seq;
    let what = Erase::Text("hush-zebra".into());
    let r = store.prepare_redaction(&a, seq, &what, &[seq])?.ok_or("it holds it")?;
    store.stage_redaction(&r).wait()?;
    let erase = || -> Result<Event> {
        told("secret_redacted", json!({ "seq": seq, "reason": "a test", "by": { "role": "host" }, "digest": r.digest.to_string() }))
    };
    for gone in [true, false] {
        // Gone, or damaged: of the same length, which is found only when it is read.
        std::fs::rename(&file, &away)?;
        if !gone {
            std::fs::write(&file, vec![0; usize::try_from(away.metadata()?.len())?])?;
        }
        // It is due, and is done before it is answered, whatever the group comes to.
        sql(dir.path())?.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('scrub', '')", [])?;
        let due = || -> Result<i64> { Ok(sql(dir.path())?.query_row("SELECT count(*) FROM meta WHERE key = 'scrub'", [], |r| r.get(0))?) };
        let tickets: Vec<_> = (0..400)
            .map(|n| Ok(store.append(if n == 200 { batch(&a, vec![erase()?]) } else { batch(&b, vec![note(&format!("n {n}"))?]) })))
            .collect::<Result<_>>()?;
        let done = store.scrub().wait()?;
        for (n, ticket) in tickets.into_iter().enumerate() {
            let code = code(ticket.wait());
            assert_eq!(code, if n == 200 { "BDL-STORE-040" } else { "ok" }, "gone {gone}, {n}");
        }
        assert_eq!((due()?, done), (0, true), "gone {gone}");
        std::fs::rename(&away, &file)?;
        assert!(store.verify(None)?.is_sound());
    }
    assert_eq!(store.session(&b)?.last_seq, 5 + 2 * 399);
    // Before it is begun, where that can be known.
    std::fs::rename(&file, &away)?;
    assert_eq!(code(store.prepare_redaction(&a, seq, &what, &[seq]).map(drop)), "BDL-STORE-040");
    std::fs::rename(&away, &file)?;
    store.append(batch(&a, vec![erase()?])).wait()?;
    assert_eq!(texts(&store, &a)?.last().map(String::as_str), Some("a [erased] b"));
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

/// A note that names a payload with the word in it; gives its seq and the payload's digest.
fn payload(store: &Store, id: &SessionId) -> Result<(u64, Hash)> {
    let bytes = format!("{} hush-zebra", "long ".repeat(100)).into_bytes();
    let digest = Hash::of(&bytes);
    let seq = store.append(Batch { blobs: vec![bytes], ..batch(id, vec![note(&digest.to_string())?]) }).wait()?.last_seq;
    Ok((seq, digest))
}

/// Erases the word from one event, up to where its payload is to be deleted.
fn erased(store: &Store, id: &SessionId, seq: u64) -> Result<Vec<Hash>> {
    let r = store.prepare_redaction(id, seq, &Erase::Text("hush-zebra".into()), &[seq])?.ok_or("it holds it")?;
    store.stage_redaction(&r).wait()?;
    let blobs: Vec<String> = r.blobs.iter().map(ToString::to_string).collect();
    let body = json!({ "seq": seq, "reason": "a test", "by": { "role": "host" }, "digest": r.digest.to_string(), "blobs": blobs });
    store.append(batch(id, vec![told("secret_redacted", body)?])).wait()?;
    Ok(r.blobs)
}

#[test]
fn a_payload_that_came_back_outlives_the_erasure_that_took_it() -> Result {
    let (dir, store, a, b) = filled()?;
    let waits =
        || -> Result<i64> { Ok(sql(dir.path())?.query_row("SELECT count(*) FROM meta WHERE key LIKE 'erased:%'", [], |r| r.get(0))?) };
    let (seq, digest) = payload(&store, &a)?;
    assert_eq!(erased(&store, &a, seq)?, [digest]);
    let (again, _) = payload(&store, &b)?;
    assert_eq!(waits()?, 1);
    assert_eq!(store.drop_erased()?, (vec![], vec![]));
    assert!(store.blob(&digest).is_ok() && waits()? == 0);

    // The same at the next start, where the host died before it was deleted.
    let (seq, _) = payload(&store, &a)?;
    assert_eq!(erased(&store, &b, again)?, Vec::<Hash>::new(), "the other event names it");
    assert_eq!(erased(&store, &a, seq)?, [digest]);
    let (again, _) = payload(&store, &b)?;
    drop(store);
    let store = reopened(dir.path())?;
    assert_eq!((waits()?, store.finish_erasures()?), (1, vec![]));
    assert!(store.blob(&digest).is_ok() && waits()? == 0 && store.verify(None)?.is_sound());
    assert_eq!(erased(&store, &b, again)?, [digest]);
    drop(store);
    let store = reopened(dir.path())?;
    store.finish_erasures()?;
    assert_eq!((code(store.blob(&digest)), waits()?), ("BDL-STORE-020", 0), "nobody names it");
    Ok(())
}

#[test]
fn a_payload_waits_for_an_archive_that_may_name_it() -> Result {
    let (dir, store, a, b) = filled()?;
    let elsewhere = tempfile::tempdir()?;
    let (file, away) = (elsewhere.path().join("b.zst"), elsewhere.path().join("away"));
    archived(&store, &b, 5, &file)?;
    std::fs::rename(&file, &away)?;
    let (seq, digest) = payload(&store, &a)?;
    assert_eq!(erased(&store, &a, seq)?, [digest]);
    for _ in 0..2 {
        let (gone, left) = store.drop_erased()?;
        assert!(gone.is_empty() && left.len() == 1 && left[0].0 == digest && left[0].1.contains("b.zst"), "{left:?}");
        assert!(store.blob(&digest).is_ok());
    }
    drop(store);
    let store = reopened(dir.path())?;
    assert_eq!(store.finish_erasures()?.len(), 1);
    assert!(store.blob(&digest).is_ok(), "nor does a start take it");
    std::fs::rename(&away, &file)?;
    assert_eq!(store.drop_erased()?, (vec![digest], vec![]));
    assert_eq!(code(store.blob(&digest)), "BDL-STORE-020");
    assert!(store.verify(None)?.is_sound());
    Ok(())
}
