//! Arguments of `beadle queue`, and those of `run` that put a session there.

use clap::{Args, Subcommand};

use crate::api::types::QueueRequest;
use crate::cli::args_check::{duration, session_id, time};

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Queue")]
pub struct RunQueueArgs {
    /// Wait for a place in this lane instead of starting at once; without a name, in the one named default
    #[arg(long, value_name = "LANE", num_args = 0..=1, require_equals = true, default_missing_value = "default")]
    pub queue: Option<String>,
    /// Higher goes first within its lane
    #[arg(long, value_name = "N", requires = "queue", default_value_t = 0, allow_negative_numbers = true)]
    pub priority: i32,
    /// Not before this time: 2026-01-31T08:00:00Z, or a day
    #[arg(long, value_name = "TIME", requires = "queue", conflicts_with = "delay", value_parser = time)]
    pub at: Option<String>,
    /// Not before so long from now: 500ms, 90s, 10m, 2h, 1d
    #[arg(long = "in", id = "delay", value_name = "DURATION", requires = "queue", value_parser = duration)]
    pub delay: Option<u64>,
    /// Not before this session has ended ok (succeeded or exited), or as named: any, failed, ...; may be repeated
    #[arg(long, value_name = "SESSION[:OUTCOME]", requires = "queue", value_parser = session_id)]
    pub after: Vec<String>,
}

impl RunQueueArgs {
    pub fn request(self) -> Option<QueueRequest> {
        let Self { queue, priority, at, delay, after } = self;
        queue.map(|lane| QueueRequest { lane: Some(lane), priority, at, delay_ms: delay, after })
    }
}

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// List sessions that wait, and those from the queue that run
    Ls(QueueLaneArgs),
    /// Show each lane in numbers
    Stats,
    /// Let a lane, or the whole queue, go on
    Start(QueueLaneArgs),
    /// Take nothing more from a lane, or from any; what runs goes on, what comes waits
    Pause(QueueLaneArgs),
    /// The same, and refuse what comes
    Stop(QueueLaneArgs),
    /// End a session that waits, or that a worker has; its log stays
    Rm {
        #[arg(value_parser = session_id, required = true)]
        sessions: Vec<String>,
    },
    /// Change where a waiting session stands
    Move(QueueMoveArgs),
    /// List dead letters: sessions of the queue that ended badly, with the reason
    Dead(QueueLaneArgs),
    /// Queue the request of a dead letter again, as a new session
    Retry {
        #[arg(value_parser = session_id, required = true)]
        sessions: Vec<String>,
    },
    /// As a worker: take a session of an external or hybrid lane
    Lease(LeaseArgs),
    /// As a worker: say that it works on
    Heartbeat(LeaseWordArgs),
    /// As a worker: say that it is done
    Complete {
        #[command(flatten)]
        of: LeaseWordArgs,
        /// What came of it; `-` reads it from standard input
        #[arg(short, long, value_name = "TEXT")]
        output: Option<String>,
        #[arg(long, value_name = "CODE", allow_negative_numbers = true)]
        exit_code: Option<i32>,
    },
    /// As a worker: say that it failed; it is tried again while its lane has tries left
    Fail {
        #[command(flatten)]
        of: LeaseWordArgs,
        #[arg(short, long, value_name = "TEXT")]
        reason: String,
        #[arg(long, value_name = "CODE", allow_negative_numbers = true)]
        exit_code: Option<i32>,
        /// No further try
        #[arg(long)]
        last: bool,
    },
    /// As a worker: give it back undone; no try is counted
    Release {
        #[command(flatten)]
        of: LeaseWordArgs,
        #[arg(short, long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct QueueLaneArgs {
    /// All when absent
    pub lane: Option<String>,
}

#[derive(Debug, Args)]
pub struct QueueMoveArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    #[arg(long)]
    pub lane: Option<String>,
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i32>,
    /// Not before this time
    #[arg(long, value_name = "TIME", conflicts_with = "delay", value_parser = time)]
    pub at: Option<String>,
    /// Not before so long from now
    #[arg(long = "in", id = "delay", value_name = "DURATION", value_parser = duration)]
    pub delay: Option<u64>,
    /// In place of all that it waits for; may be repeated
    #[arg(long, value_name = "SESSION[:OUTCOME]", value_parser = session_id)]
    pub after: Vec<String>,
    /// It shall wait for no session any more
    #[arg(long, conflicts_with = "after")]
    pub after_none: bool,
}

#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// Lanes to take from; all that workers serve when absent
    pub lanes: Vec<String>,
    /// This worker's name; default: worker-PID of the caller
    #[arg(short, long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Wait so long for one: 500ms, 30s (at most)
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    pub wait: u64,
}

#[derive(Debug, Args)]
pub struct LeaseWordArgs {
    #[arg(value_parser = session_id)]
    pub session: String,
    /// The number that `lease` printed
    pub lease: u64,
}
