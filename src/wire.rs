//! The wire between daemon and shim: spec, frames, exit record, process identity. No dependencies: the shim compiles these very files.
//!
//! Invariants:
//! - a frame is `u32 length (little-endian, of what follows) · u8 kind · fields`; a field of bytes is `u32 length · bytes`;
//! - fields are only ever appended to a kind and readers ignore what they do not know, because a newer daemon adopts older shims;
//! - every length is checked against a cap before memory is taken;
//! - environment values travel in the spec over a socketpair only: never in argv, never on disk.
//!
//! Called by `process` (daemon side) and by the `beadle-shim` package. (`#[path]` on the modules below, so that both find the same file.)

#[path = "wire/record.rs"]
mod record;
#[path = "wire/stat.rs"]
mod stat;

use std::fmt;

pub use record::{EndedBy, ExitRecord};
pub use stat::Stat;

/// Version of spec and frames; a spec of another version is refused, frames grow compatibly.
pub const VERSION: u8 = 1;
/// Longest spec (arguments and environment together), in bytes. The kernel's own limit is about 6 MiB.
pub const MAX_SPEC: usize = 8 << 20;
/// Longest input frame payload, in bytes.
pub const MAX_INPUT: usize = 32 << 20;
/// Input that the shim holds for an agent that does not read, in bytes; one frame is always taken when nothing is held.
pub const MAX_QUEUED_INPUT: usize = 32 << 20;
/// Longest frame of any kind, in bytes.
pub const MAX_FRAME: usize = MAX_INPUT + 64;
/// Longest exit record, in bytes.
pub const MAX_EXIT_RECORD: usize = 4096;
/// File in the run folder whose lock means: this shim lives.
pub const LOCK_FILE: &str = "lock";
/// Unix socket in the run folder; short, because a socket path holds 107 bytes.
pub const SOCKET_FILE: &str = "s";
/// The exit record in the run folder.
pub const EXIT_FILE: &str = "exit";
/// Environment variable that marks every process of a session.
pub const MARKER_ENV: &str = "BEADLE_SESSION";

/// Bytes that are not what this file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Caps of one run; tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of one segment file, in bytes, at least 1.
    pub segment_bytes: u64,
    /// Unread output of a gated agent at which the shim stops reading it, in bytes.
    pub unread_bytes: u64,
    /// Output kept for `logs` after it was read (gated) or at all (ungated), in bytes.
    pub retain_bytes: u64,
    /// How long an ended shim waits for the daemon to take its exit record, in milliseconds.
    pub linger_ms: u64,
}

/// All that a shim must know to run one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub run_dir: Vec<u8>,
    pub marker: Vec<u8>,
    /// With a slash: that file (relative to `cwd`); without: looked up in the `PATH` of `env`.
    pub program: Vec<u8>,
    /// Arguments after the program's own name.
    pub args: Vec<Vec<u8>>,
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    pub cwd: Vec<u8>,
    pub umask: u32,
    /// Unread output blocks the agent; else the oldest output is dropped.
    pub gated: bool,
    /// Stdin is a channel for input frames; else `/dev/null`.
    pub keep_stdin: bool,
    /// Leave descendants alone that outlive the agent.
    pub keep_tree: bool,
    pub limits: Limits,
}

impl Spec {
    /// The spec as one block, without the length in front.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = vec![VERSION];
        for part in [&self.run_dir, &self.marker, &self.program, &self.cwd] {
            put_bytes(&mut w, part);
        }
        put_u32(&mut w, self.args.len() as u32);
        for a in &self.args {
            put_bytes(&mut w, a);
        }
        put_u32(&mut w, self.env.len() as u32);
        for (k, v) in &self.env {
            put_bytes(&mut w, k);
            put_bytes(&mut w, v);
        }
        put_u32(&mut w, self.umask);
        w.extend([u8::from(self.gated), u8::from(self.keep_stdin), u8::from(self.keep_tree)]);
        let l = self.limits;
        for n in [l.segment_bytes, l.unread_bytes, l.retain_bytes, l.linger_ms] {
            put_u64(&mut w, n);
        }
        w
    }

    /// Reads a block back; refuses another version, bytes left over and NUL bytes.
    pub fn decode(block: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(block);
        if r.u8()? != VERSION {
            return Err(Malformed("spec version"));
        }
        let (run_dir, marker, program, cwd) = (r.text()?, r.text()?, r.text()?, r.text()?);
        let args = (0..r.u32()?).map(|_| r.text()).collect::<Result<Vec<_>, _>>()?;
        let env = (0..r.u32()?).map(|_| Ok((r.text()?, r.text()?))).collect::<Result<Vec<_>, _>>()?;
        let umask = r.u32()?;
        let (gated, keep_stdin, keep_tree) = (r.u8()? != 0, r.u8()? != 0, r.u8()? != 0);
        let limits = Limits { segment_bytes: r.u64()?.max(1), unread_bytes: r.u64()?, retain_bytes: r.u64()?, linger_ms: r.u64()? };
        if !r.0.is_empty() {
            return Err(Malformed("spec: bytes left over"));
        }
        Ok(Self { run_dir, marker, program, args, env, cwd, umask, gated, keep_stdin, keep_tree, limits })
    }
}

/// What the daemon tells a shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToShim {
    /// Bytes for the agent's stdin; numbered from 1 without gaps over the shim's life.
    Input {
        no: u64,
        bytes: Vec<u8>,
    },
    /// Closes the agent's stdin after what is queued; numbered with the inputs.
    CloseInput {
        no: u64,
    },
    /// The agent's stdout was read up to this offset.
    Ack {
        offset: u64,
    },
    /// TERM to the whole tree, KILL after the grace.
    Stop {
        grace_ms: u64,
    },
    Kill,
    /// Asks for a [`FromShim::Status`].
    Status,
    /// The exit record is stored: the shim may go.
    AckExit,
    /// STOP to the whole tree; only to shims whose status says that they know how.
    Freeze,
    /// CONT to whatever `Freeze` stopped.
    Thaw,
}

/// What a shim tells the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromShim {
    /// First message on every connection (unless the launch failed), and the answer to `Status`.
    Status(Status),
    /// The launch failed; the shim exits.
    Failed(Failure),
    /// Bytes written so far, over all segments of each stream.
    Written {
        out: u64,
        err: u64,
    },
    /// The answer to an input frame: the number last taken. A repeat or gap leaves it as it was.
    Taken {
        last: u64,
    },
    /// The input queue is full; the frame was not taken. `Ready` follows.
    Full {
        last: u64,
    },
    Ready {
        last: u64,
    },
    /// Segments cannot be written (an errno), or can again (0). The agent waits meanwhile.
    Blocked {
        errno: i32,
    },
    Exited(ExitRecord),
    /// A kind that this version does not know; to be ignored.
    Unknown(u8),
}

/// Where a live shim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    pub shim: ProcessId,
    pub agent: ProcessId,
    /// Number of the input frame last taken.
    pub taken: u64,
    pub out_bytes: u64,
    pub err_bytes: u64,
    /// Read offset last acknowledged.
    pub acked: u64,
    /// Errno that keeps segments from being written, or 0.
    pub blocked: i32,
    /// The agent has ended; the exit record follows or was sent.
    pub ended: bool,
    pub frozen: Frozen,
}

/// Whether a tree is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Frozen {
    /// The shim is older than this question.
    #[default]
    Unknown = 0,
    No = 1,
    Yes = 2,
    /// Some process did not stop in time.
    Partly = 3,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProcessId {
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start: u64,
}

/// The step at which a launch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Spec = 1,
    RunDir = 2,
    Lock = 3,
    Socket = 4,
    Fork = 5,
    Confine = 6,
    Cwd = 7,
    Exec = 8,
    Other = 255,
}

impl Stage {
    fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Spec,
            2 => Self::RunDir,
            3 => Self::Lock,
            4 => Self::Socket,
            5 => Self::Fork,
            6 => Self::Confine,
            7 => Self::Cwd,
            8 => Self::Exec,
            _ => Self::Other,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "reading the spec",
            Self::RunDir => "opening the run folder",
            Self::Lock => "taking the lock",
            Self::Socket => "making sockets",
            Self::Fork => "forking",
            Self::Confine => "confining the agent",
            Self::Cwd => "entering the working directory",
            Self::Exec => "executing the program",
            Self::Other => "an unknown step",
        }
    }
}

/// Why no agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub errno: i32,
}

impl ToShim {
    /// The whole frame, length included.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = frame(match self {
            Self::Input { .. } => 1,
            Self::CloseInput { .. } => 2,
            Self::Ack { .. } => 3,
            Self::Stop { .. } => 4,
            Self::Kill => 5,
            Self::Status => 6,
            Self::AckExit => 7,
            Self::Freeze => 8,
            Self::Thaw => 9,
        });
        match self {
            Self::Input { no, bytes } => {
                put_u64(&mut w, *no);
                w.extend_from_slice(bytes);
            }
            Self::CloseInput { no: n } | Self::Ack { offset: n } | Self::Stop { grace_ms: n } => put_u64(&mut w, *n),
            Self::Kill | Self::Status | Self::AckExit | Self::Freeze | Self::Thaw => {}
        }
        finish(w)
    }

    /// Reads what follows the length. An unknown kind is an error: a shim is never newer than its daemon for long.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(body);
        Ok(match r.u8()? {
            1 => Self::Input { no: r.u64()?, bytes: r.0.to_vec() },
            2 => Self::CloseInput { no: r.u64()? },
            3 => Self::Ack { offset: r.u64()? },
            4 => Self::Stop { grace_ms: r.u64()? },
            5 => Self::Kill,
            6 => Self::Status,
            7 => Self::AckExit,
            8 => Self::Freeze,
            9 => Self::Thaw,
            _ => return Err(Malformed("kind of a frame to the shim")),
        })
    }
}

impl FromShim {
    /// The whole frame, length included.
    pub fn encode(&self) -> Vec<u8> {
        let mut w;
        match self {
            Self::Status(s) => {
                w = frame(1);
                put_u32(&mut w, s.shim.pid);
                put_u64(&mut w, s.shim.start);
                put_u32(&mut w, s.agent.pid);
                put_u64(&mut w, s.agent.start);
                for n in [s.taken, s.out_bytes, s.err_bytes, s.acked] {
                    put_u64(&mut w, n);
                }
                put_u32(&mut w, s.blocked as u32);
                w.extend([u8::from(s.ended), s.frozen as u8]);
            }
            Self::Failed(f) => {
                w = frame(2);
                w.push(f.stage as u8);
                put_u32(&mut w, f.errno as u32);
            }
            Self::Written { out, err } => {
                w = frame(3);
                put_u64(&mut w, *out);
                put_u64(&mut w, *err);
            }
            Self::Taken { last } => {
                w = frame(4);
                put_u64(&mut w, *last);
            }
            Self::Full { last } => {
                w = frame(5);
                put_u64(&mut w, *last);
            }
            Self::Ready { last } => {
                w = frame(6);
                put_u64(&mut w, *last);
            }
            Self::Blocked { errno } => {
                w = frame(7);
                put_u32(&mut w, *errno as u32);
            }
            Self::Exited(record) => {
                w = frame(8);
                w.extend_from_slice(record.encode().as_bytes());
            }
            Self::Unknown(kind) => w = frame(*kind),
        }
        finish(w)
    }

    /// Reads what follows the length.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader(body);
        Ok(match r.u8()? {
            1 => Self::Status(Status {
                shim: ProcessId { pid: r.u32()?, start: r.u64()? },
                agent: ProcessId { pid: r.u32()?, start: r.u64()? },
                taken: r.u64()?,
                out_bytes: r.u64()?,
                err_bytes: r.u64()?,
                acked: r.u64()?,
                blocked: r.u32()? as i32,
                ended: r.u8()? != 0,
                // why no error: shims of earlier versions end here.
                frozen: match r.u8() {
                    Ok(1) => Frozen::No,
                    Ok(2) => Frozen::Yes,
                    Ok(3) => Frozen::Partly,
                    _ => Frozen::Unknown,
                },
            }),
            2 => Self::Failed(Failure { stage: Stage::from_u8(r.u8()?), errno: r.u32()? as i32 }),
            3 => Self::Written { out: r.u64()?, err: r.u64()? },
            4 => Self::Taken { last: r.u64()? },
            5 => Self::Full { last: r.u64()? },
            6 => Self::Ready { last: r.u64()? },
            7 => Self::Blocked { errno: r.u32()? as i32 },
            8 => Self::Exited(ExitRecord::decode(std::str::from_utf8(r.0).map_err(|_| Malformed("exit record"))?)?),
            kind => Self::Unknown(kind),
        })
    }
}

/// Length of the first frame of `buf` without its 4 length bytes, when those are there; refuses empty frames and frames over [`MAX_FRAME`].
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(head) = buf.first_chunk::<4>() else { return Ok(None) };
    match u32::from_le_bytes(*head) as usize {
        0 => Err(Malformed("frame: empty")),
        n if n > MAX_FRAME => Err(Malformed("frame: over the length cap")),
        n => Ok(Some(n)),
    }
}

fn frame(kind: u8) -> Vec<u8> {
    vec![0, 0, 0, 0, kind]
}

fn finish(mut w: Vec<u8>) -> Vec<u8> {
    let n = (w.len() - 4) as u32;
    w[..4].copy_from_slice(&n.to_le_bytes());
    w
}

fn put_u32(w: &mut Vec<u8>, n: u32) {
    w.extend_from_slice(&n.to_le_bytes());
}

fn put_u64(w: &mut Vec<u8>, n: u64) {
    w.extend_from_slice(&n.to_le_bytes());
}

fn put_bytes(w: &mut Vec<u8>, b: &[u8]) {
    put_u32(w, b.len() as u32);
    w.extend_from_slice(b);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed("frame: too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let (low, high) = (self.u32()?, self.u32()?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn text(&mut self) -> Result<Vec<u8>, Malformed> {
        let n = self.u32()? as usize;
        let b = self.take(n)?;
        if b.contains(&0) { Err(Malformed("spec: a NUL byte")) } else { Ok(b.to_vec()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            run_dir: b"/r".to_vec(),
            marker: b"m".to_vec(),
            program: b"sh".to_vec(),
            args: vec![b"-c".to_vec(), b"".to_vec()],
            env: vec![(b"A".to_vec(), b"1".to_vec())],
            cwd: b"/".to_vec(),
            umask: 0o22,
            gated: true,
            keep_stdin: false,
            keep_tree: true,
            limits: Limits { segment_bytes: 1, unread_bytes: 2, retain_bytes: 3, linger_ms: 4 },
        }
    }

    fn record() -> ExitRecord {
        ExitRecord {
            agent: ProcessId { pid: 7, start: 9 },
            code: None,
            signal: Some(15),
            ended_by: EndedBy::Stop,
            user_us: 1,
            system_us: 2,
            max_rss_kb: 3,
            ended_wall_ms: -4,
            started_boot_ms: 5,
            ended_boot_ms: 6,
            out_bytes: u64::MAX,
            err_bytes: 8,
            left: 0,
        }
    }

    #[test]
    fn specs_round_trip_and_every_cut_is_refused() {
        let block = spec().encode();
        assert_eq!(Spec::decode(&block), Ok(spec()));
        for n in 0..block.len() {
            assert!(Spec::decode(&block[..n]).is_err(), "cut at {n}");
        }
        let mut longer = block;
        longer.push(0);
        assert!(Spec::decode(&longer).is_err());
    }

    #[test]
    fn nul_bytes_in_a_spec_are_refused() {
        let mut s = spec();
        s.args.push(b"a\0b".to_vec());
        assert_eq!(Spec::decode(&s.encode()), Err(Malformed("spec: a NUL byte")));
    }

    #[test]
    fn a_shim_of_before_says_nothing_of_freezing() {
        let mut bytes = FromShim::Status(Status { frozen: Frozen::Yes, ..Status::default() }).encode();
        bytes.pop();
        assert_eq!(FromShim::decode(&bytes[4..]), Ok(FromShim::Status(Status::default())));
    }

    #[test]
    fn frames_round_trip() {
        let to = [
            ToShim::Input { no: u64::MAX, bytes: vec![0, 255] },
            ToShim::CloseInput { no: 2 },
            ToShim::Ack { offset: 1 << 40 },
            ToShim::Stop { grace_ms: 3 },
            ToShim::Kill,
            ToShim::Status,
            ToShim::AckExit,
            ToShim::Freeze,
            ToShim::Thaw,
        ];
        for f in to {
            let bytes = f.encode();
            assert_eq!(frame_len(&bytes), Ok(Some(bytes.len() - 4)));
            assert_eq!(ToShim::decode(&bytes[4..]), Ok(f));
        }
        let from = [
            FromShim::Status(Status { taken: 4, blocked: 28, ended: true, frozen: Frozen::Partly, ..Status::default() }),
            FromShim::Failed(Failure { stage: Stage::Exec, errno: 2 }),
            FromShim::Written { out: 1, err: 2 },
            FromShim::Taken { last: 1 },
            FromShim::Full { last: 1 },
            FromShim::Ready { last: 1 },
            FromShim::Blocked { errno: 28 },
            FromShim::Exited(record()),
            FromShim::Unknown(200),
        ];
        for f in from {
            let bytes = f.encode();
            assert_eq!(FromShim::decode(&bytes[4..]), Ok(f));
        }
    }

    #[test]
    fn fields_added_by_a_newer_shim_are_ignored() {
        let mut bytes = FromShim::Written { out: 1, err: 2 }.encode();
        bytes.extend([1, 2, 3]);
        assert_eq!(FromShim::decode(&bytes[4..]), Ok(FromShim::Written { out: 1, err: 2 }));
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        assert_eq!(frame_len(&[0, 0]), Ok(None));
        assert!(frame_len(&[0, 0, 0, 0]).is_err());
        assert!(frame_len(&u32::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn a_torn_exit_record_is_refused() {
        let text = record().encode();
        assert!(text.len() < MAX_EXIT_RECORD);
        assert_eq!(ExitRecord::decode(&text), Ok(record()));
        for n in 0..text.len() {
            assert!(ExitRecord::decode(&text[..n]).is_err(), "cut at {n}");
        }
    }

    #[test]
    fn stat_lines_survive_hostile_names() {
        let line = b"42 (a) R 1 (b) S 7 1 1 0 -1 4 1 0 0 0 11 12 0 0 20 0 1 0 12345 100 25 0";
        let s = Stat::parse(line).unwrap();
        assert_eq!((s.id, s.ppid, s.state), (ProcessId { pid: 42, start: 12345 }, 7, b'S'));
        assert_eq!((s.comm.as_str(), s.user_ticks, s.system_ticks, s.rss_pages), ("a) R 1 (b", 11, 12, 25));
        assert_eq!(Stat::parse(b"42 (a"), None);
        assert_eq!(Stat::parse(b""), None);
    }
}
