//! A policy that also judges sessions.

beadle_plugin::export_policy!(moment_guests::Guest: JudgeSession);
