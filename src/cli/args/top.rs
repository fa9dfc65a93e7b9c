//! Arguments of `top`.

use clap::Args;

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    pub interval: u64,
}
