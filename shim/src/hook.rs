//! The hook client: HTTP/1.1 requests over the daemon's socket until it gives an answer, which becomes output and exit code.
//!
//! Invariants:
//! - nothing is printed before the whole answer is there: a half answer could read as an allow;
//! - any failure is: empty stdout, one line on stderr, exit 2, which agents take for *blocked*; with `--observe` (events that wait
//!   for no decision) exit 1, which they take for nothing, because blocking those would only make the agent go round;
//! - a denial has its reason on stderr and an empty stdout;
//! - everything is bounded: input 18 MiB, answer 17 MiB (+ 64 KiB of headers), one deadline a request, one for waiting on a person.
//!
//! What is given as an option counts over the environment: a repository can set variables of an agent's hooks.
//!
//! Called by `main` when an agent runs `beadle-shim hook <agent>`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use crate::sys;

/// Longest hook input, in bytes.
const MAX_REQUEST: usize = 18 << 20;
/// Longest body of an answer, in bytes: a rewrite repeats the tool's input.
const MAX_ANSWER: usize = 17 << 20;
/// Longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// One request's deadline when it is not set.
const DEADLINE_MS: u64 = 5_000;
/// Part of a request's deadline that the daemon may hold it for while a person is awaited.
const HOLD_PART: (u64, u64) = (3, 5);
/// Pause before asking again when the daemon is away while a person is awaited.
const AGAIN_MS: libc::c_int = 50;
/// Longest name of an agent, in bytes.
const MAX_AGENT: usize = 64;
/// The exit code that blocks a call, and the one that is only noted.
const BLOCKED: u8 = 2;
const NOTED: u8 = 1;

type Result<T> = std::result::Result<T, String>;

/// How one request failed.
enum Failed {
    /// The daemon took the request and broke off: it may have been ended, and another one takes its place.
    Broken(String),
    Other(String),
}

/// What the command line says.
#[derive(Debug, Default, PartialEq)]
struct Options {
    socket: Option<Vec<u8>>,
    deadline_ms: Option<u64>,
    /// How long to wait for a person; 0: not at all.
    wait_ms: u64,
    observe: bool,
}

/// What the daemon says.
#[derive(Debug, PartialEq)]
enum Answer {
    Told(u8, Vec<u8>),
    /// A person is asked: ask again.
    Wait,
    /// This daemon gives none now, and why.
    Away(String),
}

/// Asks the daemon and repeats its answer with its exit code: on stdout when that is 0, else on stderr.
pub fn main(agent: &OsStr, args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match options(args) {
        Ok(o) => o,
        Err(why) => return failed(&why, BLOCKED),
    };
    let code = if options.observe { NOTED } else { BLOCKED };
    match ask(agent, &options) {
        Ok((0, body)) if sys::write_all_to(1, &body) => ExitCode::SUCCESS,
        Ok((0, _)) => failed("cannot write the answer to stdout", code),
        Ok((exit, body)) => {
            // The code alone says no; the reason is for people and models.
            sys::write_all_to(2, &body);
            ExitCode::from(exit)
        }
        Err(why) => failed(&why, code),
    }
}

fn failed(why: &str, code: u8) -> ExitCode {
    let line: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    let what = if code == BLOCKED { "blocked, because no decision was obtained" } else { "not recorded" };
    sys::write_all_to(2, format!("beadle: {what}: {line} (BDL-HOOK-001; see `beadle hook status`)\n").as_bytes());
    ExitCode::from(code)
}

fn options(mut args: impl Iterator<Item = OsString>) -> Result<Options> {
    let mut o = Options::default();
    while let Some(arg) = args.next() {
        let name = arg.to_string_lossy().into_owned();
        if name == "--observe" {
            o.observe = true;
            continue;
        }
        let value = args.next().filter(|v| !v.is_empty()).ok_or_else(|| format!("the option {name:?} has no value"))?;
        let number = || value.to_str().and_then(|v| v.parse().ok()).ok_or_else(|| format!("{name} is not a number of milliseconds"));
        match name.as_str() {
            "--socket" => o.socket = Some(value.as_bytes().to_vec()),
            "--deadline-ms" => o.deadline_ms = Some(number()?),
            "--wait-ms" => o.wait_ms = number()?,
            _ => return Err(format!("there is no option {name:?}")),
        }
    }
    Ok(o)
}

fn ask(agent: &OsStr, options: &Options) -> Result<(u8, Vec<u8>)> {
    let name = agent.to_str().unwrap_or_default();
    if name.is_empty() || name.len() > MAX_AGENT || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("the agent's name is not made of a-z A-Z 0-9 - _ .".to_owned());
    }
    let deadline = match (options.deadline_ms, std::env::var("BEADLE_HOOK_DEADLINE_MS")) {
        (Some(ms), _) => ms,
        (None, Err(_)) => DEADLINE_MS,
        (None, Ok(v)) => v.parse().map_err(|_| format!("BEADLE_HOOK_DEADLINE_MS is {v:?}, not a number of milliseconds"))?,
    };
    let begun = sys::boot_ms();
    let body = read_input(begun.saturating_add(deadline))?;
    let path = socket_path(options)?;
    let waits = if options.wait_ms > 0 { "x-beadle-wait: 1\r\n" } else { "" };
    let hold = deadline.saturating_mul(HOLD_PART.0) / HOLD_PART.1;
    let mut request = format!(
        "POST /v1/hooks/{name} HTTP/1.1\r\nhost: beadle\r\ncontent-type: application/json\r\n{waits}x-beadle-hold-ms: {hold}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let once = |until| -> std::result::Result<Answer, Failed> {
        let socket = connect(&path, until).map_err(Failed::Other)?;
        send(&socket, &request, until).map_err(Failed::Other)?;
        receive(&socket, until)
    };
    let mut until = begun.saturating_add(deadline);
    // Whether a daemon has the question on its record: then another one that takes its place goes on with it.
    let mut taken = false;
    loop {
        match once(until) {
            Ok(Answer::Told(code, body)) => return Ok((code, body)),
            Ok(Answer::Wait) if options.wait_ms == 0 => return Err("the daemon waits for a person, and this hook does not".to_owned()),
            Ok(Answer::Wait) => {
                if sys::boot_ms().saturating_sub(begun) >= options.wait_ms {
                    return Err("nobody answered in time".to_owned());
                }
                taken = true;
                until = sys::boot_ms().saturating_add(deadline);
            }
            Ok(Answer::Away(_)) | Err(Failed::Broken(_)) if options.wait_ms > 0 && sys::boot_ms() < until => {
                taken = true;
                let _ = sys::poll(&mut [], AGAIN_MS);
            }
            Err(Failed::Other(_)) if taken && sys::boot_ms() < until => {
                let _ = sys::poll(&mut [], AGAIN_MS);
            }
            Ok(Answer::Away(why)) | Err(Failed::Broken(why) | Failed::Other(why)) => return Err(why),
        }
    }
}

/// Waits for a descriptor; an error when the deadline is over.
fn wait(fd: RawFd, events: libc::c_short, until: u64, what: &str) -> Result<()> {
    loop {
        let left = until.saturating_sub(sys::boot_ms());
        let timeout = libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX);
        if sys::poll(&mut [libc::pollfd { fd, events, revents: 0 }], timeout) > 0 {
            return Ok(());
        }
        if left == 0 {
            return Err(format!("the deadline passed while {what}"));
        }
    }
}

fn read_input(until: u64) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    loop {
        let at = input.len();
        input.resize(at + (4096.max(at)).min(1 << 20), 0);
        wait(0, libc::POLLIN, until, "reading the hook's input")?;
        let n = sys::read(0, &mut input[at..]).map_err(|e| format!("cannot read the hook's input, errno {e}"))?;
        input.truncate(at + n);
        if n == 0 {
            return Ok(input);
        }
        if input.len() > MAX_REQUEST {
            return Err(format!("the hook's input is over {MAX_REQUEST} bytes"));
        }
    }
}

fn socket_path(options: &Options) -> Result<Vec<u8>> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(|v| v.as_bytes().to_vec());
    let given = options.socket.clone().or_else(|| var("BEADLE_SOCKET"));
    given
        .or_else(|| var("XDG_RUNTIME_DIR").map(|d| [&d[..], b"/beadle/beadle.sock"].concat()))
        .ok_or_else(|| "neither --socket nor BEADLE_SOCKET nor XDG_RUNTIME_DIR is given".to_owned())
}

fn connect(path: &[u8], until: u64) -> Result<OwnedFd> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    // Held until the connect below, because the short path goes through it.
    let mut folder = None;
    let (address, len) = match sys::unix_address(path) {
        Ok(a) => a,
        Err(_) => {
            let cut = path.iter().rposition(|b| *b == b'/').ok_or("the socket path is too long")?;
            let dir = std::ffi::CString::new(&path[..cut]).map_err(|_| "the socket path holds a NUL byte")?;
            let dir = sys::open(&dir, libc::O_PATH | libc::O_DIRECTORY).map_err(|e| format!("no folder for {}, errno {e}", shown()))?;
            let dir = folder.insert(dir);
            let short = [format!("/proc/self/fd/{}", dir.as_raw_fd()).as_bytes(), &path[cut..]].concat();
            sys::unix_address(&short).map_err(|_| "the socket's name is too long")?
        }
    };
    let socket = sys::unix_socket().map_err(|e| format!("cannot make a socket, errno {e}"))?;
    loop {
        // SAFETY: the address is valid for `len` bytes.
        match sys::check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) }) {
            Ok(_) => return Ok(socket),
            // The daemon's backlog is full; there is nothing to wait on but time.
            Err(libc::EAGAIN | libc::EINTR) if sys::boot_ms() < until => drop(sys::poll(&mut [], 2)),
            Err(e) => return Err(format!("no daemon answers at {}, errno {e}", shown())),
        }
    }
}

fn send(socket: &OwnedFd, mut bytes: &[u8], until: u64) -> Result<()> {
    let fd = socket.as_raw_fd();
    while !bytes.is_empty() {
        match sys::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(libc::EAGAIN) => wait(fd, libc::POLLOUT, until, "sending to the daemon")?,
            // It may have answered already and closed; its answer says more than our errno.
            Err(libc::EPIPE) => return Ok(()),
            Err(e) => return Err(format!("cannot send to the daemon, errno {e}")),
        }
    }
    Ok(())
}

fn receive(socket: &OwnedFd, until: u64) -> std::result::Result<Answer, Failed> {
    let fd = socket.as_raw_fd();
    let mut got = Vec::new();
    loop {
        if let Some(answer) = parse(&got).map_err(Failed::Other)? {
            return Ok(answer);
        }
        let at = got.len();
        got.resize(at + 8192.max(at), 0);
        let n = loop {
            match sys::read(fd, &mut got[at..]) {
                Err(libc::EAGAIN) => wait(fd, libc::POLLIN, until, "waiting for the daemon's decision").map_err(Failed::Other)?,
                r => break r.map_err(|e| Failed::Broken(format!("the daemon's answer broke off, errno {e}")))?,
            }
        };
        got.truncate(at + n);
        if n == 0 {
            return Err(Failed::Broken("the daemon closed the connection before its answer was whole".to_owned()));
        }
    }
}

/// A whole answer, or `None` when more bytes are needed.
fn parse(got: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if got.len() > MAX_HEAD { Err("the daemon's answer has too long a head".to_owned()) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&got[..end]).map_err(|_| "the daemon's answer is not HTTP")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.strip_prefix("HTTP/1.1 ")).ok_or("the daemon's answer is not HTTP/1.1")?;
    let header = |name: &str| {
        head.split("\r\n").skip(1).filter_map(|l| l.split_once(':')).find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    };
    if status == "202" || status.starts_with("202 ") {
        return Ok(Some(Answer::Wait));
    }
    // The daemon stops or is overrun: who waits may ask its successor.
    if status == "503" || status.starts_with("503 ") {
        return Ok(Some(Answer::Away(format!("the daemon answered {status}"))));
    }
    if !status.starts_with("200") || status.as_bytes().get(3).is_some_and(u8::is_ascii_digit) {
        return Err(format!("the daemon answered {status}"));
    }
    let code = match header("x-beadle-exit") {
        None => 0,
        Some(v) => v.parse().map_err(|_| format!("the daemon's x-beadle-exit is {v:?}"))?,
    };
    let rest = &got[end + 4..];
    let body = match (header("content-length"), header("transfer-encoding")) {
        (Some(n), None) => {
            let n: usize = n.parse().map_err(|_| "the daemon's content-length is not a number")?;
            if n > MAX_ANSWER {
                return Err(format!("the daemon's answer has {n} bytes, over {MAX_ANSWER}"));
            }
            rest.get(..n).map(<[u8]>::to_vec)
        }
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => unchunk(rest)?,
        // Without a length an answer that was cut off looks whole.
        _ => return Err("the daemon's answer has no length".to_owned()),
    };
    Ok(body.map(|b| Answer::Told(code, b)))
}

fn unchunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let bad = || "the daemon's answer is badly chunked".to_owned();
    let mut body = Vec::new();
    loop {
        let Some(eol) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&rest[..eol]).map_err(|_| bad())?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let n = usize::from_str_radix(size, 16).map_err(|_| bad())?;
        if n > MAX_ANSWER || body.len() + n > MAX_ANSWER {
            return Err(format!("the daemon's answer is over {MAX_ANSWER} bytes"));
        }
        let Some(chunk) = rest.get(eol + 2..eol + 2 + n + 2) else { return Ok(None) };
        if n == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(&chunk[..n]);
        rest = &rest[eol + 4 + n..];
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Options, options, parse};
    use std::ffi::OsString;

    #[test]
    fn whole_answers_are_taken() {
        let a = b"HTTP/1.1 200 OK\r\nX-Beadle-Exit: 2\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(a), Ok(Some(Answer::Told(2, b"{}".to_vec()))));
        let b = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n";
        assert_eq!(parse(b), Ok(Some(Answer::Told(0, b"{}".to_vec()))));
    }

    #[test]
    fn options_are_exact() {
        let of = |args: &[&str]| options(args.iter().map(OsString::from));
        let all = Options { socket: Some(b"/s".to_vec()), deadline_ms: Some(7), wait_ms: 9, observe: true };
        assert_eq!(of(&["--socket", "/s", "--deadline-ms", "7", "--wait-ms", "9", "--observe"]), Ok(all));
        assert_eq!(of(&[]), Ok(Options::default()));
        for bad in [&["--socket"][..], &["--socket", ""], &["--deadline-ms", "x"], &["--allow", "1"], &["x"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_202_is_a_wait() {
        assert_eq!(parse(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"), Ok(Some(Answer::Wait)));
        assert!(parse(b"HTTP/1.1 2020 x\r\ncontent-length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn no_cut_of_an_answer_is_an_answer() {
        for whole in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\":\"b\"}"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ] {
            for n in 0..whole.len() {
                assert_eq!(parse(&whole[..n]), Ok(None), "cut at {n}");
            }
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nx-beadle-exit: 300\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(&[b'x'; 70_000]).is_err());
    }
}
