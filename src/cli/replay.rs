//! How a replay is told: a line a changed call, and what it comes to.
//!
//! Called by `policy replay`, `plugin upgrade` and `host reload`.

use super::Context;
use super::printer::Tone;
use super::text::{brief, safe};
use crate::model::{REPLAY_LIMITS, Replay, ReplayChange};

/// Characters of a subject that are shown.
const ABOUT_SHOWN: usize = 100;

/// One changed call.
pub fn line(c: &ReplayChange) -> String {
    let how = if c.input_differs { "other input".to_owned() } else { format!("{} -> {}", c.was.as_str(), c.would.as_str()) };
    let mark = if c.loosens { "looser  " } else { "stricter" };
    let why = c.rule.as_deref().map_or_else(|| brief(&c.reason, ABOUT_SHOWN), |r| format!("rule {}", brief(r, ABOUT_SHOWN)));
    let failed = if c.failed.is_empty() { String::new() } else { format!("; failed: {}", safe(&c.failed.join(", "))) };
    format!("{mark}  {how}  {}:{}  {} {}  ({why}{failed})", safe(&c.session), c.call, safe(&c.tool), brief(&c.about, ABOUT_SHOWN))
}

/// What is told before a change: nothing where no call was judged.
pub fn tell(cx: &mut Context, r: &Replay) -> anyhow::Result<()> {
    if r.judged == 0 {
        return Ok(());
    }
    for c in &r.changes {
        cx.printer.notice(Tone::Plain, &line(c))?;
    }
    cx.printer.notice(Tone::Plain, &summary(r, r.changes.len() as u64))?;
    if r.changed > 0 {
        cx.printer.notice(Tone::Plain, REPLAY_LIMITS)?;
    }
    Ok(())
}

/// What it comes to, where so many changes were told.
pub fn summary(r: &Replay, told: u64) -> String {
    let part = if r.partial { "; there are more calls, which were not judged" } else { "" };
    let hidden = r.changed.saturating_sub(told);
    let more = if hidden > 0 { format!("; {hidden} more changes are not shown") } else { String::new() };
    let skipped = if r.skipped > 0 { format!("; {} were not the chain's to decide", r.skipped) } else { String::new() };
    format!(
        "{} recorded calls judged anew: {} decided otherwise, {} of them less strictly{skipped}{more}{part}",
        r.judged, r.changed, r.loosened
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Effect;

    #[test]
    fn a_change_is_one_line_and_acts_on_no_terminal() {
        let c = ReplayChange {
            session: "a-1".into(),
            call: 7,
            tool: "Bash".into(),
            about: "git push\u{1b}[2J\nx".into(),
            was: Effect::Deny,
            would: Effect::Allow,
            input_differs: false,
            was_rule: None,
            rule: Some("version 2".into()),
            reason: String::new(),
            failed: vec![],
            loosens: true,
        };
        let line = line(&c);
        assert!(line.starts_with("looser    deny -> allow  a-1:7  Bash git push") && line.ends_with("(rule version 2)"), "{line}");
        assert!(!line.contains('\u{1b}') && !line.contains('\n'), "{line:?}");
        let r = Replay { judged: 3, skipped: 1, changed: 1, loosened: 1, partial: true, changes: vec![] };
        assert!(summary(&r, 0).contains("3 recorded calls judged anew: 1 decided otherwise, 1 of them less strictly; 1 were not"));
    }
}
