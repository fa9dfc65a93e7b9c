//! A policy of the base world alone.

beadle_plugin::export_policy!(moment_guests::Guest);
