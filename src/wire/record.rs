//! The exit record: the same text in the run folder's file and in the frame that tells of it. Called by `wire`.

use super::{Malformed, ProcessId, VERSION};

/// Who ended the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    Itself,
    Stop,
    Kill,
}

/// How the agent ended, as the shim that waited for it saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    pub agent: ProcessId,
    /// Exit code, when it exited.
    pub code: Option<i32>,
    /// Signal number, when a signal ended it.
    pub signal: Option<i32>,
    pub ended_by: EndedBy,
    /// CPU time of the agent and of descendants it waited for, in microseconds.
    pub user_us: u64,
    pub system_us: u64,
    /// Largest resident set, in KiB.
    pub max_rss_kb: u64,
    /// Milliseconds since the Unix epoch.
    pub ended_wall_ms: i64,
    /// Boot clock, in milliseconds.
    pub started_boot_ms: u64,
    pub ended_boot_ms: u64,
    /// Final length of the streams; all of it is in the segments.
    pub out_bytes: u64,
    pub err_bytes: u64,
    /// Descendants that could not be killed (uninterruptible), or were left on purpose.
    pub left: u32,
}

impl ExitRecord {
    /// `key=value` lines between a head and an `end` line; readable by people.
    pub fn encode(&self) -> String {
        let opt = |v: Option<i32>| v.map_or_else(|| "-".to_owned(), |v| v.to_string());
        let by = match self.ended_by {
            EndedBy::Itself => "itself",
            EndedBy::Stop => "stop",
            EndedBy::Kill => "kill",
        };
        format!(
            "beadle-exit {VERSION}\nagent_pid={}\nagent_start={}\ncode={}\nsignal={}\nended_by={by}\nuser_us={}\nsystem_us={}\nmax_rss_kb={}\n\
             ended_wall_ms={}\nstarted_boot_ms={}\nended_boot_ms={}\nout_bytes={}\nerr_bytes={}\nleft={}\nend\n",
            self.agent.pid,
            self.agent.start,
            opt(self.code),
            opt(self.signal),
            self.user_us,
            self.system_us,
            self.max_rss_kb,
            self.ended_wall_ms,
            self.started_boot_ms,
            self.ended_boot_ms,
            self.out_bytes,
            self.err_bytes,
            self.left,
        )
    }

    /// Refuses a record without its `end` line, with a missing key or with a number that is none.
    pub fn decode(text: &str) -> Result<Self, Malformed> {
        let body = text.strip_prefix("beadle-exit ").and_then(|t| t.strip_suffix("\nend\n")).ok_or(Malformed("exit record"))?;
        let get = |key: &'static str| body.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).ok_or(Malformed(key));
        fn num<T: std::str::FromStr>(v: &str) -> Result<T, Malformed> {
            v.parse().map_err(|_| Malformed("number in the exit record"))
        }
        let opt = |v: &str| if v == "-" { Ok(None) } else { num(v).map(Some) };
        Ok(Self {
            agent: ProcessId { pid: num(get("agent_pid")?)?, start: num(get("agent_start")?)? },
            code: opt(get("code")?)?,
            signal: opt(get("signal")?)?,
            ended_by: match get("ended_by")? {
                "itself" => EndedBy::Itself,
                "stop" => EndedBy::Stop,
                "kill" => EndedBy::Kill,
                _ => return Err(Malformed("ended_by in the exit record")),
            },
            user_us: num(get("user_us")?)?,
            system_us: num(get("system_us")?)?,
            max_rss_kb: num(get("max_rss_kb")?)?,
            ended_wall_ms: num(get("ended_wall_ms")?)?,
            started_boot_ms: num(get("started_boot_ms")?)?,
            ended_boot_ms: num(get("ended_boot_ms")?)?,
            out_bytes: num(get("out_bytes")?)?,
            err_bytes: num(get("err_bytes")?)?,
            left: num(get("left")?)?,
        })
    }
}
