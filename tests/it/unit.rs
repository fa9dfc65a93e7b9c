//! `beadle host unit`: systemd takes it, and what it starts is a daemon that finds the folders of whoever printed it.

use std::process::{Command, Stdio};

use crate::support::{TestHost, until};

/// The value of the only line of this name, without its quotes and escapes.
fn value(unit: &str, name: &str) -> String {
    let lines: Vec<&str> = unit.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(lines.len(), 1, "{name} in\n{unit}");
    lines[0].replace('"', "").replace("%%", "%")
}

#[test]
#[allow(clippy::print_stderr)] // why: a test that cannot run must say so.
fn systemd_takes_the_unit() {
    let host = TestHost::new();
    let unit = host.beadle(["host", "unit"]).ok().out;
    let path = host.home().join("beadle.service");
    std::fs::write(&path, &unit).expect("a unit");
    // why a runtime folder: without one the user manager's reader does not begin.
    let verify = |file: &std::path::Path| {
        let mut c = Command::new("systemd-analyze");
        c.args(["--user", "verify"]).arg(file).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        c.env("HOME", host.home()).env("XDG_RUNTIME_DIR", host.home()).stdin(Stdio::null()).output()
    };
    let said = match verify(&path) {
        Ok(said) => said,
        Err(e) => return eprintln!("skipped unit::systemd_takes_the_unit: systemd-analyze: {e}"),
    };
    let words = |o: &std::process::Output| format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    // It says something of whatever it does not take, and only sometimes fails. Of other units of the machine it may say more.
    let ours = words(&said).lines().any(|l| l.contains("beadle.service"));
    assert!(said.status.success() && !ours, "{}\n{unit}", words(&said));
    let wrong = host.home().join("wrong.service");
    std::fs::write(&wrong, unit.replace("KillMode=process", "KillMode=nobody")).expect("a unit");
    assert!(words(&verify(&wrong).expect("it ran before")).contains("nobody"), "it looks at what the lines say");
}

#[test]
fn what_the_unit_starts_is_the_daemon_of_these_folders() {
    let host = TestHost::new();
    let unit = host.beadle(["--json", "host", "unit"]).ok().json();
    assert_eq!(unit["name"], "beadle.service");
    let unit = unit["unit"].as_str().expect("a unit");
    assert_eq!(unit, host.beadle(["host", "unit"]).ok().out);
    let (program, home) = (value(unit, "ExecStart"), value(unit, "Environment"));
    let program = program.strip_suffix(" daemon").expect("the daemon");
    assert_eq!(home, format!("BEADLE_HOME={}", host.beadle_home().display()));
    let (name, home) = home.split_once('=').expect("a variable");
    let mut c = Command::new(program);
    c.arg("daemon").current_dir(value(unit, "WorkingDirectory")).env_clear().env(name, home).env("HOME", host.home());
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let status = || host.beadle(["--json", "host", "status"]);
    until("the daemon answers", || (status().code == 0).then_some(()));
    assert_eq!(status().json()["pid"], child.id());
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", "until [ -e end ]; do sleep 0.01; done"]).ok().json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    // What systemd does to stop it, with this kill mode: it goes with a clean end, and its session goes on.
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is told");
    assert!(child.wait().expect("it ends").success(), "so it is not started again");
    assert_eq!(host.show(&id)["status"], "running");
    host.file("end", "");
    assert_eq!(host.ended(&id)["outcome"], "exited");
}
