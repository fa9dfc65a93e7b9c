//! Lines of the optional moments: what policies made of a session, a prompt, a result, an attempt.

use super::{LINE_MAX, Line, Tone, brief, line};
use crate::model::{Event, Shown, Verdict};

/// The lines of one event of these; of others none.
pub fn lines(event: &Event) -> Vec<Line> {
    match event {
        Event::SessionJudged(j) => {
            let mut out: Vec<Line> = j
                .refused
                .iter()
                .map(|r| line(Tone::Bad, format!("✗ refused  this session  — {}: {}", brief(&r.policy, 60), brief(&r.reason, LINE_MAX))))
                .collect();
            for t in &j.tightened {
                let text = format!("· tightened: {} = {}", brief(&t.setting, 80), brief(&t.value.to_string(), 80));
                out.push(line(Tone::Plain, text));
            }
            for (key, value) in &j.labels {
                out.push(line(Tone::Plain, format!("· label {}={}", brief(key, 80), brief(value, 80))));
            }
            out.extend(j.ignored.iter().map(|i| line(Tone::Question, format!("! not taken: {}", brief(i, LINE_MAX)))));
            out
        }
        Event::PromptJudged(j) => {
            let mut out: Vec<Line> = j
                .refused
                .iter()
                .map(|r| line(Tone::Bad, format!("✗ refused  this prompt  — {}: {}", brief(&r.policy, 60), brief(&r.reason, LINE_MAX))))
                .collect();
            for c in &j.context {
                out.push(line(Tone::Plain, format!("  + {} adds: {}", brief(&c.policy, 60), brief(&c.text, LINE_MAX))));
            }
            out.extend(j.not_given.iter().map(|w| line(Tone::Question, format!("! context not given: {}", brief(w, LINE_MAX)))));
            out
        }
        Event::ResultJudged(j) => {
            let mut out = Vec::new();
            if j.shown != Shown::Whole {
                let tone = if matches!(j.shown, Shown::Stopped | Shown::Passed) { Tone::Bad } else { Tone::Changed };
                let why = j.because.as_ref().map(|r| format!("  — {}: {}", brief(&r.policy, 60), brief(&r.reason, LINE_MAX)));
                let text = format!("  ~ result of {} {}{}", brief(&j.tool, 60), j.shown.as_str(), why.unwrap_or_default());
                out.push(line(tone, text));
            }
            for f in &j.flags {
                out.push(line(Tone::Question, format!("  ! {}: {}", brief(&f.policy, 60), brief(&f.text, LINE_MAX))));
            }
            out
        }
        Event::AttemptVerified(v) => {
            let what = if v.given { "; the agent goes on" } else { "" };
            let tone = if v.verdict == Verdict::Accept { Tone::Good } else { Tone::Bad };
            let text = brief(v.verdict.text(), LINE_MAX);
            let said = if text.is_empty() { String::new() } else { format!(": {text}") };
            vec![line(tone, format!("· attempt: {}{said}{what}", v.verdict.as_str()))]
        }
        _ => vec![],
    }
}
