//! A policy that also judges results.

beadle_plugin::export_policy!(moment_guests::Guest: JudgeResult);
