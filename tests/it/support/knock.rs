//! Knocks on a unix socket from inside a session: this very test binary, started again by the agent's shell.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Environment: the socket to knock on, and what to say there (a request line, or nothing for eight bytes of noise).
const SOCKET: &str = "BEADLE_TEST_KNOCK";
const SAY: &str = "BEADLE_TEST_SAY";

fn knock(socket: &str, say: &str) -> String {
    let message = match say {
        "" => b"xxxxxxxx".to_vec(),
        line => format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").into_bytes(),
    };
    let talk = || -> std::io::Result<Vec<u8>> {
        let mut s = UnixStream::connect(socket)?;
        s.set_read_timeout(Some(Duration::from_secs(2)))?;
        s.write_all(&message)?;
        let mut answer = Vec::new();
        s.take(64 << 10).read_to_end(&mut answer)?;
        Ok(answer)
    };
    match talk() {
        Ok(answer) if answer.is_empty() => "no answer".to_owned(),
        Ok(answer) => format!("answer: {}", String::from_utf8_lossy(&answer)),
        Err(e) => format!("refused: {e}"),
    }
}

/// A shell command that knocks on every socket that `glob` names and appends what came back to `out`.
pub fn command(glob: &str, say: &str, out: &str) -> String {
    let me = std::env::current_exe().expect("a running binary has a path");
    format!(
        "h=$(dirname $(pwd)); for s in {glob}; do {SOCKET}=$s {SAY}='{say}' {} --exact support::knock::answers --nocapture; done >> {out} 2>&1",
        me.display()
    )
}

#[test]
#[allow(clippy::print_stdout)] // why: what it prints is read by the test that had it started.
fn answers() {
    if let Ok(socket) = std::env::var(SOCKET) {
        println!("\n{}", knock(&socket, &std::env::var(SAY).unwrap_or_default()));
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    let host =
        std::thread::spawn(move || listener.accept().and_then(|(mut s, _)| s.read_exact(&mut [0; 8]).and_then(|()| s.write_all(b"hello"))));
    assert_eq!(knock(&path.display().to_string(), ""), "answer: hello");
    assert!(host.join().is_ok_and(|r| r.is_ok()));
    assert!(knock("/nowhere", "").starts_with("refused"));
}
