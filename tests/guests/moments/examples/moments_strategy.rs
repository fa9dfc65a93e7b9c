//! A compaction strategy.

beadle_plugin::export_strategy!(moment_guests::Masks);
