//! What this executable would find if it became the daemon: asked before an upgrade, beside the daemon that runs.
//!
//! Invariants: takes no lock, serves nothing and changes nothing but the cache of compiled plugins, which it warms; a rehearsal works on a
//! copy of the database, which goes with it.
//! Called by `cli::daemon`.

use super::{Error, plugin_host};
use crate::config::{self, Folders};
use crate::model::{Event, OsEntropy};
use crate::policy::Chains;
use crate::store;

/// See the module.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The schema that this build brings the store to, and the one it has.
    pub schema: i64,
    pub found_schema: Option<i64>,
    /// The configured policies: loaded, or failed.
    pub policies: Vec<Event>,
}

/// Errors: what would keep the daemon from coming up.
pub async fn check(folders: Folders) -> Result<Checked, Error> {
    folders.create()?;
    let config = config::load_for(&folders, None, &|_, _| false)?.config;
    config.price_table(&folders.config)?;
    let (found_schema, schema) = store::schema_versions(&folders.data)?;
    let plugins = plugin_host(&folders, &OsEntropy, None)?;
    let chains = Chains::new(folders, plugins, Default::default());
    Ok(Checked { schema, found_schema, policies: chains.assemble(None, &[]).await?.events })
}

/// Brings a copy of the store to this build's schema and verifies it. Blocks, long for large stores. Errors: what would keep the daemon from
/// coming up.
pub fn rehearse(folders: &Folders) -> Result<store::Rehearsal, Error> {
    Ok(store::rehearse(&folders.data)?)
}
