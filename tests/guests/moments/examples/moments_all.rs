//! A policy with every moment.

beadle_plugin::export_policy!(moment_guests::Guest: JudgeSession, JudgePrompt, JudgeResult, JudgeAttempt);
