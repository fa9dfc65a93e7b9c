//! Many followers of events at once: each is given all in order, memory stays flat, a slow one is told what it missed, tokens outlive the daemon.

use beadle::api::client::{Client, Item};
use beadle::api::types::{EventsQuery, TaskRequest};
use beadle::config::Folders;
use serde_json::Value;

use crate::support::{PATIENCE, TestHost, runtime};

fn client(host: &TestHost) -> Client {
    let home = host.beadle_home();
    let folders = Folders { config: home.join("config"), data: home.join("data"), cache: home.join("cache"), runtime: home.join("run") };
    Client::without_start(folders)
}

fn idle(host: &TestHost) -> String {
    let args = ["--json", "run", "--detach", "--", "sh", "-c", "until [ -e end ]; do sleep 0.05; done"];
    host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

async fn add(client: &Client, id: &str, n: u64, bytes: usize) {
    for i in 0..n {
        let request = TaskRequest {
            title: Some(format!("task {i}")),
            note: Some("x".repeat(bytes)).filter(|n| !n.is_empty()),
            ..TaskRequest::default()
        };
        client.add_task(id, &request).await.expect("a task");
    }
}

/// The titles of `n` tasks as they come, with the token behind the last.
async fn take(stream: &mut beadle::api::client::EventStream, n: usize) -> (Vec<String>, String) {
    let (mut out, mut token) = (Vec::new(), String::new());
    while out.len() < n {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time").expect("no end").expect("no error") {
            Item::Event(e) => {
                token = e.cursor.clone().expect("a token");
                let body: Value = serde_json::from_str(e.body.get()).expect("JSON");
                out.push(body["title"].as_str().unwrap_or_default().to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    (out, token)
}

fn tasks() -> EventsQuery {
    EventsQuery { kinds: Some("task_updated".to_owned()), ..EventsQuery::default() }
}

#[test]
fn five_hundred_followers_get_all_in_order_over_a_restart_and_memory_stays_flat() {
    const FOLLOWERS: usize = 500;
    const EVENTS: u64 = 60;
    let host = TestHost::new();
    let id = idle(&host);
    let pid = host.daemon();
    let client = client(&host);
    let want = |from: u64, to: u64| (from..to).map(|i| format!("task {i}")).collect::<Vec<_>>();
    let (grown, tokens) = runtime().block_on(async {
        let mut streams = Vec::new();
        for _ in 0..FOLLOWERS {
            streams.push(client.stream(None, tasks()).await.expect("a stream"));
        }
        let before = resident(pid);
        let mut readers = tokio::task::JoinSet::new();
        for mut s in streams {
            readers.spawn(async move { take(&mut s, EVENTS as usize).await });
        }
        add(&client, &id, EVENTS, 0).await;
        let mut tokens = Vec::new();
        while let Some(got) = readers.join_next().await {
            let (titles, token) = got.expect("no panic");
            assert_eq!(titles, want(0, EVENTS));
            tokens.push(token);
        }
        (resident(pid).saturating_sub(before), tokens)
    });
    assert_eq!(tokens.len(), FOLLOWERS);
    assert!(tokens.iter().all(|t| *t == tokens[0]), "one place, one token");
    // 64 KiB each at most, with what a connection's buffers take.
    assert!(grown < FOLLOWERS as u64 * 64, "{grown} KiB more");
    // Another daemon: the token still is the place.
    host.kill_daemon();
    host.daemon();
    runtime().block_on(async {
        let mut streams = Vec::new();
        for token in tokens.iter().take(100) {
            streams.push(client.stream_after(token, tasks()).await.expect("a stream"));
        }
        for i in EVENTS..EVENTS + 10 {
            let request = TaskRequest { title: Some(format!("task {i}")), ..TaskRequest::default() };
            client.add_task(&id, &request).await.expect("a task");
        }
        for mut s in streams {
            assert_eq!(take(&mut s, 10).await.0, want(EVENTS, EVENTS + 10), "nothing twice, nothing missing");
        }
        assert!(client.stream_after("999999999", tasks()).await.is_err(), "another host's token");
        assert!(client.stream_after("nonsense", tasks()).await.is_err());
    });
    let mut follow = host.spawn(["--json", "events", "-f", "--after", &tokens[0], "--kinds", "task_updated"]);
    let lines = crate::support::Lines::of(&mut follow);
    let first = lines.next("the first event behind the token");
    assert!(first["body"]["title"] == format!("task {EVENTS}") && first["cursor"].as_str().is_some(), "{first:#}");
    follow.kill().expect("killed");
    let _ = follow.wait();
    host.beadle(["kill", &id]).ok();
}

#[test]
fn a_slow_follower_is_told_what_it_missed_and_gets_it_by_its_token() {
    const EVENTS: u64 = 600;
    let host = TestHost::new();
    let id = idle(&host);
    let pid = host.daemon();
    let client = client(&host);
    runtime().block_on(async {
        let lagging = EventsQuery { max_lag: Some(20), ..tasks() };
        let mut slow = client.stream(None, lagging.clone()).await.expect("a stream");
        let mut of_one = client.stream(Some(&id), lagging).await.expect("a stream");
        let mut patient = client.stream(None, tasks()).await.expect("a stream");
        add(&client, &id, 5, 0).await;
        // It reads on until the link is up, then not at all while more comes than any buffer on the way holds.
        let (_, token) = take(&mut slow, 5).await;
        let before = resident(pid);
        add(&client, &id, EVENTS, 4_000).await;
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < 40 << 10, "three slow followers cost {grown} KiB");
        for stream in [&mut slow, &mut of_one] {
            let (mut given, mut missed) = (0, None);
            while missed.is_none() {
                match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time").expect("no end").expect("no error") {
                    Item::Event(_) => given += 1,
                    Item::Missed(m) => missed = Some(m),
                    other => panic!("{other:?}"),
                }
            }
            let m = missed.expect("told");
            assert!(m.why == "lag" && m.count > 20 && given < EVENTS, "{m:?} after {given}");
        }
        // What it missed is there, behind its last token.
        let mut again = client.stream_after(&token, tasks()).await.expect("a stream");
        let want: Vec<_> = (0..EVENTS).map(|i| format!("task {i}")).collect();
        assert_eq!(take(&mut again, EVENTS as usize).await.0, want);
        // Who did not say so is given all, however late.
        let got = take(&mut patient, EVENTS as usize + 5).await.0;
        assert_eq!(got[5..], want[..]);
    });
    host.beadle(["kill", &id]).ok();
}

#[test]
fn events_of_a_removed_session_are_told_as_gone() {
    let host = TestHost::new();
    let id = idle(&host);
    host.beadle(["run", "--wait", "--name", "short", "--", "true"]).ok();
    let client = client(&host);
    host.beadle(["task", "add", &id, "before"]).ok();
    let token = runtime().block_on(async {
        let mut s = client.stream(None, tasks()).await.expect("a stream");
        host.beadle(["task", "add", &id, "the token"]).ok();
        take(&mut s, 1).await.1
    });
    let gone = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json();
    host.beadle(["task", "add", &id, "after"]).ok();
    host.beadle(["rm", gone["id"].as_str().expect("an id")]).ok();
    runtime().block_on(async {
        let mut s = client.stream_after(&token, EventsQuery::default()).await.expect("a stream");
        let first = tokio::time::timeout(PATIENCE, s.next()).await.expect("in time").expect("no end").expect("no error");
        let Item::Missed(m) = first else { panic!("{first:?}") };
        assert!(m.why == "gone" && m.count == gone["last_seq"].as_u64().expect("a seq") && m.after == token, "{m:?}");
        let (titles, _) = take(&mut s, 1).await;
        assert_eq!(titles, ["after"]);
    });
    host.beadle(["kill", &id]).ok();
}
