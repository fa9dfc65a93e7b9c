//! What the kernel says of a process in one line. Compiled into the shim too; see `wire`.

use super::ProcessId;

/// One line of `/proc/<pid>/stat`, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub id: ProcessId,
    pub comm: String,
    pub state: u8,
    pub ppid: u32,
    /// CPU time, in clock ticks.
    pub user_ticks: u64,
    pub system_ticks: u64,
    pub rss_pages: u64,
}

impl Stat {
    /// The name stands in parentheses and may itself hold spaces and parentheses, so fields count from the last one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim().parse().ok()?;
        let comm = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().take(22).collect();
        // `fields[0]` is field 3 of proc(5), the state.
        let num = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            id: ProcessId { pid, start: num(22)? },
            comm,
            state: *fields.first()?.as_bytes().first()?,
            ppid: u32::try_from(num(4)?).ok()?,
            user_ticks: num(14)?,
            system_ticks: num(15)?,
            rss_pages: num(24)?,
        })
    }

    /// Dead but not yet waited for: it runs nothing any more.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }

    /// In the kernel, where no signal but KILL reaches it.
    pub fn is_waiting(&self) -> bool {
        self.state == b'D'
    }

    /// It runs nothing until it is told to go on, and can start nothing either.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X')
    }
}
