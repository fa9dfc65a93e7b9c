//! Says in the plugin's log why it panicked, before the instance ends: the host knows which functions were running, and this is the rest.
//!
//! Called by the exports, before any code of the plugin runs.

use crate::log::{self, Level};

/// The beginning by which the host knows such a line, and puts it into what it says of the failed call.
const MARK: &str = "panicked at ";

pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        log::write(Level::Error, &format!("{MARK}{place}: {}", info.payload_as_str().unwrap_or("not with a text")));
    }));
}
