//! An audit sink.

beadle_plugin::export_sink!(moment_guests::Drain);
