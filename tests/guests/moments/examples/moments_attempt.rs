//! A policy that also judges attempts.

beadle_plugin::export_policy!(moment_guests::Guest: JudgeAttempt);
