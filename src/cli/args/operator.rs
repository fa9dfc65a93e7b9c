//! Arguments of `beadle operator`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum OperatorVerb {
    /// Keys by which persons are told apart
    #[command(subcommand)]
    Key(KeyVerb),
}

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Add a key made of a passphrase; the first at a terminal, each further one with a key that is there
    Add {
        /// Stands in the log beside what it approves
        name: String,
    },
    /// List keys
    Ls,
    /// Remove a key; needs a key that is there
    Rm { name: String },
}
