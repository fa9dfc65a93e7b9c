//! Nothing here: `decision.rs` beside this file is the program.
