//! Arguments of `host`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{GcArgs, RestoreArgs};
use crate::cli::args_check::duration;

#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Say how the daemon is
    Status,
    /// Print the daemon's own log
    Logs {
        #[arg(short, long)]
        follow: bool,
        /// Only the last so many lines
        #[arg(short, long, value_name = "LINES", default_value_t = 100)]
        tail: usize,
    },
    /// Read the configuration anew: new policies for live sessions, too; a broken one changes nothing
    ///
    /// Where policies change, the newest recorded calls are judged with those of before and after first: where the new ones are less
    /// strict, it is refused without --accept-changes, and what runs goes on with the configuration of before.
    ///
    /// This is the only way to bring it to sessions that run under this daemon: no signal does, nor a change of rules or plugins. A session
    /// that is started later, and a daemon that starts anew with all that it takes over, take the file as it is, without a replay;
    /// `policy replay` tries it before.
    Reload {
        /// Although recorded calls would be decided less strictly
        #[arg(long)]
        accept_changes: bool,
    },
    /// Let another executable take over; sessions go on, and what is not as it was is taken back
    Upgrade {
        /// The new executable; without it, this one
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Also when policies fail in the new one that are in force now
        #[arg(long)]
        force: bool,
        /// How long the new one may take to listen: 1m without it, and longer where the store is large
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        within: Option<u64>,
    },
    /// Remove what nobody needs any more, and sessions by age, size and outcome
    Gc(GcArgs),
    /// Copy everything while sessions go on: to a new folder, or a new file whose name ends in .tar.zst
    Backup { to: PathBuf },
    /// Put a backup in the place of the data folder, while no daemon runs. Sessions that waited in the queue when it was made wait
    /// again, those too that were run since: the next daemon starts them
    Restore(RestoreArgs),
    /// End the daemon; sessions go on and are adopted by the next one
    Stop,
    /// Print a systemd user unit that keeps a daemon running, from the start of the machine on; its first lines say how to enable it
    Unit,
}
