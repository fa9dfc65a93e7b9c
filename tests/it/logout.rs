//! The end of a login: the terminal hangs up, its leader dies, the runtime folder is removed. Daemon and sessions go on.

use std::process::Command;

use crate::support::{Terminal, TestHost, alive, lines_of, until};

#[test]
fn daemon_and_sessions_outlive_the_login_that_started_them_and_are_found_by_the_second_socket() {
    let host = TestHost::new();
    let ticks = || lines_of(&host.work().join("ticks")).len();
    let tick = "until [ -e end ]; do echo tick >> ticks; sleep 0.02; done";
    let beadle = env!("CARGO_BIN_EXE_beadle");
    // The daemon is started by this shell's command, too: it has this terminal, this session, this group to leave.
    let script = format!("{beadle} --json run --detach -- sh -c '{tick}' > id.json && echo up; exec sleep 600");
    let like = host.command(["ls"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(host.work()).env_clear();
    shell.envs(like.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))));
    let terminal = Terminal::start(shell);
    terminal.wait_for("up");
    let doc: serde_json::Value = serde_json::from_str(&lines_of(&host.work().join("id.json")).concat()).expect("a session");
    let id = doc["id"].as_str().expect("an id").to_owned();
    until("it ticks", || (ticks() > 0).then_some(()));
    let daemon = host.daemon();
    terminal.hang_up();
    std::fs::remove_dir_all(host.beadle_home().join("run")).expect("the runtime folder");
    let before = ticks();
    until("it ticks on", || (ticks() > before + 4).then_some(()));
    assert!(alive(daemon));
    assert_eq!(host.daemon(), daemon, "the same daemon is found");
    assert_eq!(host.show(&id)["status"], "running");
    // What needs the runtime folder finds it gone, and what is started now is a session like any other.
    let more = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json();
    assert_eq!((more["outcome"].as_str(), host.daemon()), (Some("exited"), daemon));
    host.file("end", "");
    assert_eq!(host.ended(&id)["outcome"], "exited");
}
