//! `beadle account`: decisions joined with effects, one line a call. 0 when everything is explained, 1 when anything is not.

use super::args::AccountArgs;
use super::exit::Exit;
use super::printer::Tone;
use super::text::{brief, count, safe};
use super::{Context, Outcome};
use crate::api::types::{AccountCallDoc, AccountDoc, AccountQuery};
use crate::model::Mediation;

pub async fn account(cx: &mut Context, args: AccountArgs) -> Outcome {
    let doc = cx.client()?.account(&args.session, &AccountQuery { unexplained: args.unexplained }).await?;
    let exit = if doc.clean { Exit::Done } else { Exit::No };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(exit);
    }
    if !cx.printer.quiet() && !doc.calls.is_empty() {
        let rows: Vec<Vec<String>> = doc.calls.iter().map(row).collect();
        cx.printer.table(&["CALL", "TOOL", "DECIDED", "STREAM", "TRANSCRIPT", "HOOK", "END", "WHY"], &rows)?;
    }
    for b in &doc.breaches {
        let call = b.call.map(|c| format!(" of call {c}")).unwrap_or_default();
        let text = format!("! event {}: {}{call}: {} — {}", b.seq, brief(&b.what, 80), brief(&b.detail, 300), brief(&b.action, 20));
        cx.printer.toned(Tone::Bad, &text)?;
    }
    cx.printer.toned(if doc.clean { Tone::Good } else { Tone::Bad }, &summary(&doc))?;
    Ok(exit)
}

fn row(c: &AccountCallDoc) -> Vec<String> {
    let seen = |k: &str| c.seen.get(k).cloned().unwrap_or_else(|| "-".to_owned());
    let decided = match c.effect {
        Some(e) if c.changed => format!("{}, changed", e.as_str()),
        Some(e) => e.as_str().to_owned(),
        None => "-".to_owned(),
    };
    vec![
        c.call.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        brief(&c.tool, 40),
        decided,
        safe(&seen("stream")),
        safe(&seen("transcript")),
        safe(&seen("hook")),
        c.end.as_str().to_owned(),
        c.why.as_deref().map(|w| brief(w, 80)).unwrap_or_default(),
    ]
}

fn summary(doc: &AccountDoc) -> String {
    let ends: Vec<String> = doc.ends.iter().filter(|(_, n)| **n > 0).map(|(e, n)| format!("{} {}", count(*n), safe(e))).collect();
    let ends = if ends.is_empty() { "no call".to_owned() } else { ends.join(", ") };
    let unmediated = if doc.mediation == Mediation::None { "; the session is not mediated: its calls are not seen" } else { "" };
    let forgotten = match doc.forgotten_count {
        0 => String::new(),
        n => format!("; the oldest {} calls are not joined", count(n)),
    };
    let mark = if doc.clean { "✓ accounted" } else { "✗ not accounted" };
    let breaches = match doc.breach_count {
        0 => String::new(),
        n => format!(", {} breaches", count(n)),
    };
    format!("{mark}: {ends}; {} unexplained{breaches}{forgotten}{unmediated}", count(doc.unexplained_count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Effect;
    use crate::model::account::End;

    #[test]
    fn a_line_says_who_saw_what() {
        let seen = [("stream".to_owned(), "error".to_owned()), ("transcript".to_owned(), "ok".to_owned())].into();
        let doc = AccountCallDoc {
            call: Some(7),
            call_id: Some("t".into()),
            tool: "Bash\u{1b}[2J".into(),
            effect: Some(Effect::Deny),
            changed: false,
            end: End::Contradicted,
            seen,
            why: Some("a denied call has a result".into()),
        };
        let line = row(&doc);
        assert_eq!(line[2..], ["deny", "error", "ok", "-", "contradicted", "a denied call has a result"]);
        assert!(!line[1].contains('\u{1b}'));
    }
}
