//! The price table: the operator's own where there is one, else the one in the binary.
//!
//! Which file: `usage.prices`, else `prices.json` beside `beadle.toml`, else none. Called by `daemon` and by `cli` (`config check`).

use std::path::{Path, PathBuf};

use super::{Config, Error, project};
use crate::model::PriceTable;

/// The file beside `beadle.toml` that is taken by its name.
pub const PRICES_FILE: &str = "prices.json";

impl Config {
    /// Reads the table, and says from where; `folder` is the one of `beadle.toml`. A file that is named must be there and be good.
    pub fn price_table(&self, folder: &Path) -> Result<(PriceTable, Option<PathBuf>), Error> {
        let beside = folder.join(PRICES_FILE);
        let (path, is_named) = self.prices.as_ref().map_or((&beside, false), |p| (p, true));
        match project::read_text(path, rustix::fs::OFlags::empty())? {
            Some(text) => {
                let table = PriceTable::parse(text.as_bytes()).map_err(|source| Error::Prices { path: path.clone(), source })?;
                Ok((table, Some(path.clone())))
            }
            None if is_named => Err(Error::NoPrices { path: path.clone() }),
            None => Ok((PriceTable::embedded(), None)),
        }
    }
}
