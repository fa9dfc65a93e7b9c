//! The schema's history: one SQL file per version, never changed once released, only added to.

use std::path::Path;

use rusqlite::Connection;

use crate::store::error::{Doing, Error, Result};

/// Marks the file as ours: `BDLE`.
const APPLICATION_ID: i64 = 0x4244_4C45;
/// In order; the schema's version is how many were applied.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/20261121_first.sql")];
/// The version that this build writes.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// Creates the schema in an empty file. Errors: a newer version, another program's file, damage.
pub fn prepare(conn: &mut Connection, path: &Path) -> Result<()> {
    const DOING: &str = "reading its header";
    let number = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).doing(DOING);
    let found = number("PRAGMA user_version")?;
    let app = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    if (app, tables, found) == (0, 0, 0) {
        let tx = conn.transaction().doing("making its tables")?;
        for sql in MIGRATIONS {
            tx.execute_batch(sql).doing("making its tables")?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID).doing("making its tables")?;
        tx.pragma_update(None, "user_version", VERSION).doing("making its tables")?;
        return tx.commit().doing("making its tables");
    }
    if app != APPLICATION_ID {
        return Err(Error::NotOurs { path: path.to_owned(), detail: format!("its application id is {app}, not {APPLICATION_ID}") });
    }
    if found > VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found, known: VERSION });
    }
    if found < VERSION {
        // why: no older schema was ever released; such a file was cut short or changed by hand.
        return Err(Error::NotOurs { path: path.to_owned(), detail: format!("its schema version is {found}") });
    }
    Ok(())
}
