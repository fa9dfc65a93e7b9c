//! A policy that also judges prompts.

beadle_plugin::export_policy!(moment_guests::Guest: JudgePrompt);
