//! `beadle approvals`, `approve`, `deny`: what waits for a person, shown so that one can decide, and the answers.

use super::args::approvals::{ApprovalsArgs, ApproveArgs, DenyArgs, RuleReach};
use super::confirm::confirmed;
use super::exit::Exit;
use super::printer::Tone;
use super::text::{LINE_MAX, age, brief, safe, safe_lines};
use super::timeline::detail;
use super::{Context, Outcome};
use crate::api::client::{Client, Error, Item};
use crate::api::types::{
    AlwaysDoc, AlwaysReach, AlwaysRequest, AnswerDoc, ApprovalAnswer, ApprovalDetailDoc, ApprovalDoc, ApprovalsQuery, PAGE_MAX,
};
use crate::model::{ApprovalState, Clock, Effect, Mode, Parse, SystemClock, format_ms};

/// Up to so many are shown whole; more are a table.
const WHOLE_MAX: usize = 20;
/// Most characters of the agent's words that are shown.
const WORDS_MAX: usize = 600;

/// One line of a shown approval.
type Shown = (Tone, String);

pub async fn approvals(cx: &mut Context, args: ApprovalsArgs) -> Outcome {
    let client = cx.client()?;
    if let Some(key) = &args.approval {
        let doc = client.approval(&key.session, key.call).await?;
        if cx.printer.json() {
            cx.printer.document(&doc)?;
        } else {
            show(cx, &doc)?;
        }
        return Ok(Exit::Done);
    }
    if args.follow {
        return follow(cx, &client, args.session.as_deref()).await;
    }
    let list = read(&client, &args).await?;
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => list.iter().try_for_each(|d| cx.printer.document(d))?,
        (_, true) => list.iter().try_for_each(|d| cx.printer.line(&safe(&d.id)))?,
        _ if list.is_empty() => cx.printer.note(if args.all { "nothing was ever asked" } else { "nothing waits for an answer" })?,
        _ if args.all || list.len() > WHOLE_MAX => table(cx, &list)?,
        _ => {
            for d in &list {
                whole(cx, &client, d).await?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn read(client: &Client, args: &ApprovalsArgs) -> anyhow::Result<Vec<ApprovalDoc>> {
    let mut left = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut wanted = ApprovalsQuery { session: args.session.clone(), all: args.all, ..ApprovalsQuery::default() };
    let mut list = Vec::new();
    loop {
        wanted.limit = Some(left.min(PAGE_MAX));
        let page = client.approvals(&wanted).await?;
        left = left.saturating_sub(page.items.len());
        let empty = page.items.is_empty();
        list.extend(page.items);
        wanted.cursor = page.next;
        if left == 0 || empty || wanted.cursor.is_none() {
            return Ok(list);
        }
    }
}

async fn follow(cx: &mut Context, client: &Client, session: Option<&str>) -> Outcome {
    let mut stream = client.approval_stream(session).await?;
    while let Some(item) = stream.next().await {
        match item? {
            Item::Approval(d) if cx.printer.json() => cx.printer.document(&*d)?,
            Item::Approval(d) if cx.printer.quiet() => cx.printer.line(&format!("{} {}", safe(&d.id), d.state.as_str()))?,
            Item::Approval(d) if d.state == ApprovalState::Waiting => whole(cx, client, &d).await?,
            Item::Approval(d) => {
                let (tone, text) = answered(&d);
                cx.printer.toned(tone, &text)?;
            }
            Item::Ready => cx.printer.note("following; Ctrl-C ends")?,
            Item::Event(_) | Item::End(_) | Item::Missed(_) => {}
        }
    }
    Ok(Exit::Done)
}

/// One that was just listed; it may be gone with its session.
async fn whole(cx: &mut Context, client: &Client, d: &ApprovalDoc) -> anyhow::Result<()> {
    match client.approval(&d.session, d.call).await {
        Ok(doc) => show(cx, &doc)?,
        Err(Error::Refused { status: 404, .. }) => {}
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

fn show(cx: &mut Context, doc: &ApprovalDetailDoc) -> anyhow::Result<()> {
    for (tone, text) in card(doc, SystemClock.wall_ms()) {
        cx.printer.toned(tone, &text)?;
    }
    if doc.approval.state == ApprovalState::Waiting {
        cx.printer.toned(Tone::Dim, &format!("   {}", commands(&doc.approval.id)))?;
    }
    Ok(())
}

/// How to answer from another terminal.
pub fn commands(id: &str) -> String {
    format!("`beadle approve {0}` or `beadle deny {0} --reason TEXT`", safe(id))
}

fn table(cx: &mut Context, list: &[ApprovalDoc]) -> anyhow::Result<()> {
    let now = SystemClock.wall_ms();
    let row = |d: &ApprovalDoc| {
        let by = d.answer.as_ref().map_or_else(|| "-".to_owned(), |a| brief(&a.by.role, 40));
        vec![safe(&d.id), d.state.as_str().to_owned(), brief(&d.tool, 30), brief(&d.subject, 60), by, age(&d.requested_at, now)]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    Ok(cx.printer.table(&["ID", "STATE", "TOOL", "ABOUT", "BY", "AGE"], &rows)?)
}

/// What one needs to see before saying yes or no. Everything in it that an agent or a repository said is made safe here.
pub fn card(d: &ApprovalDetailDoc, now: i64) -> Vec<Shown> {
    let a = &d.approval;
    let mut out = Vec::new();
    let state = match a.state {
        // why the other way round: the time left is how old the end of it will be for someone there now.
        ApprovalState::Waiting => format!("waits {}, denied in {}", age(&a.requested_at, now), age(&format_ms(now), millis(&a.expires_at))),
        state => format!("{}, asked {} ago", state.as_str(), age(&a.requested_at, now)),
    };
    let agent = d.sub_agent.as_deref().map_or_else(|| safe(&d.agent), |s| format!("{}, sub-agent {}", safe(&d.agent), brief(s, 40)));
    out.push((Tone::Question, format!("?? {}  {state}", safe(&a.id))));
    out.push((Tone::Strong, format!("   {}  {}", brief(&a.tool, 60), brief(&a.subject, LINE_MAX))));
    out.push((Tone::Dim, format!("   {agent}, in {}", brief(&d.cwd, LINE_MAX))));
    if let Some(words) = &d.words {
        out.extend(indented(Tone::Plain, "   says: ", words, WORDS_MAX));
    }
    if let Some(text) = &d.description {
        out.push((Tone::Plain, format!("   describes it as: {}", brief(text, LINE_MAX))));
    }
    match (&d.diff, &d.input) {
        (Some(diff), _) => out.extend(coloured(diff, d.diff_cut)),
        // why equal to what is shown: a command that was shortened above must stand here whole.
        (None, Some(input)) if detail(input) == brief(&a.subject, LINE_MAX) => {}
        (None, Some(input)) => out.extend(detail(input).lines().map(|l| (Tone::Plain, format!("   {l}")))),
        (None, None) => out.push((
            Tone::Dim,
            format!("   its input is too long to be shown: `beadle events {} --from {} -t 1`", safe(&a.session), a.call),
        )),
    }
    if let Some(new) = &d.updated_input {
        out.push((Tone::Changed, "   changed by a policy to:".to_owned()));
        out.extend(detail(new).lines().map(|l| (Tone::Changed, format!("   {l}"))));
    }
    if d.parse != Parse::Complete {
        let why = d.parse_reason.as_deref().unwrap_or("something in it only the shell will know");
        out.push((Tone::Bad, format!("   not understood whole: {}", brief(why, LINE_MAX))));
    }
    let rule = |r: &Option<String>| r.as_deref().map(|r| format!(" (rule {})", brief(r, 100))).unwrap_or_default();
    out.push((Tone::Plain, format!("   why: {}{}", brief(&a.why, LINE_MAX), rule(&a.rule))));
    for p in &d.policies {
        let mode = if p.mode == Mode::Monitor { ", only monitoring" } else { "" };
        let failed = p.failed.map(|f| format!(", failed ({})", f.as_str())).unwrap_or_default();
        let reason = if p.reason.is_empty() { String::new() } else { format!(": {}", brief(&p.reason, LINE_MAX)) };
        out.push((
            Tone::Dim,
            format!("   policy {} says {}{mode}{failed}{}{reason}", brief(&p.policy, 60), p.effect.as_str(), rule(&p.rule)),
        ));
    }
    match &d.always {
        Some(AlwaysDoc::Rules(rules)) => out
            .push((Tone::Dim, format!("   always would add: {}", rules.iter().map(|r| brief(r, LINE_MAX)).collect::<Vec<_>>().join(", ")))),
        Some(AlwaysDoc::Refused(why)) => out.push((Tone::Dim, format!("   always would add no rule: {}", brief(why, LINE_MAX)))),
        None => {}
    }
    if a.two_person && a.answer.is_none() {
        out.push((Tone::Question, format!("   {}", second(a))));
    }
    if let Some(answer) = &a.answer {
        out.push((tone(answer.effect), format!("   {}", by(a.state, answer))));
    }
    out
}

/// One line: who answered what.
fn answered(d: &ApprovalDoc) -> Shown {
    let what = format!("{}  {}  {}", safe(&d.id), brief(&d.tool, 30), brief(&d.subject, 80));
    match &d.answer {
        Some(a) => (tone(a.effect), format!("{what}  — {}", by(d.state, a))),
        None => (Tone::Plain, format!("{what}  — {}", d.state.as_str())),
    }
}

fn by(state: ApprovalState, a: &AnswerDoc) -> String {
    let from: Vec<String> = [
        a.by.via.as_deref().map(safe),
        a.by.pid.map(|p| format!("pid {p}")),
        a.by.exe.as_deref().map(|e| brief(e, 100)),
        a.by.tty.as_deref().map(safe),
    ]
    .into_iter()
    .flatten()
    .collect();
    let from = if from.is_empty() { String::new() } else { format!(" ({})", from.join(", ")) };
    let rules = if a.rules.is_empty() {
        String::new()
    } else {
        format!(", with {}", a.rules.iter().map(|r| safe(r)).collect::<Vec<_>>().join(", "))
    };
    format!("{} by {}{from} at {}: {}{rules}", state.as_str(), brief(&a.by.role, 60), safe(&a.at), brief(&a.reason, LINE_MAX))
}

const fn tone(effect: Effect) -> Tone {
    if matches!(effect, Effect::Allow) { Tone::Good } else { Tone::Bad }
}

fn indented(tone: Tone, lead: &str, text: &str, max: usize) -> Vec<Shown> {
    let mut cut: String = text.trim().chars().take(max).collect();
    if text.trim().chars().nth(max).is_some() {
        cut.push('…');
    }
    let lines = safe_lines(&cut);
    lines.lines().enumerate().map(|(n, l)| (tone, if n == 0 { format!("{lead}{l}") } else { format!("   {l}") })).collect()
}

fn coloured(diff: &str, cut: bool) -> Vec<Shown> {
    let tone = |l: &str| match l.as_bytes().first() {
        Some(b'+') => Tone::Good,
        Some(b'-') => Tone::Bad,
        Some(b'@') => Tone::Dim,
        _ => Tone::Plain,
    };
    let mut out: Vec<Shown> = diff.lines().map(|l| (tone(l), format!("   {}", safe_lines(l)))).collect();
    if cut {
        out.push((Tone::Dim, "   … more is left out".to_owned()));
    }
    out
}

fn millis(at: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(at).map_or(0, |t| t.timestamp_millis())
}

/// Allows one pending call.
pub async fn approve(cx: &mut Context, args: ApproveArgs) -> Outcome {
    let client = cx.client()?;
    let reach = match args.reach {
        RuleReach::Session => AlwaysReach::Session,
        RuleReach::Folder => AlwaysReach::Folder,
        RuleReach::All => AlwaysReach::All,
    };
    let always = args.always.map(|rule| AlwaysRequest { rule: Some(rule).filter(|r| !r.is_empty()), reach });
    if always.as_ref().is_some_and(|a| a.rule.is_none()) && !cx.printer.json() {
        let shown = client.approval(&args.approval.session, args.approval.call).await?;
        if let Some(AlwaysDoc::Rules(rules)) = shown.always {
            rules.iter().try_for_each(|r| cx.printer.note(&format!("will add: allow {}", brief(r, LINE_MAX))))?;
        }
    }
    let answer = ApprovalAnswer { effect: Effect::Allow, reason: args.reason, always };
    let doc = confirmed(cx, None, async |client| client.answer(&args.approval.session, args.approval.call, &answer).await).await?;
    say(cx, &client, &doc).await
}

/// Denies one pending call.
pub async fn deny(cx: &mut Context, args: DenyArgs) -> Outcome {
    let client = cx.client()?;
    let doc = client.answer(&args.approval.session, args.approval.call, &ApprovalAnswer::new(Effect::Deny, args.reason)).await?;
    say(cx, &client, &doc).await
}

async fn say(cx: &mut Context, client: &Client, doc: &ApprovalDoc) -> Outcome {
    if cx.printer.json() {
        cx.printer.document(doc)?;
        return Ok(Exit::Done);
    }
    if doc.answer.is_none() {
        cx.printer.line(&format!("{} {}", safe(&doc.id), second(doc)))?;
        return Ok(Exit::Done);
    }
    let allowed = doc.answer.as_ref().is_some_and(|a| a.effect == Effect::Allow);
    cx.printer.line(&format!("{} {}", safe(&doc.id), if allowed { "allowed" } else { "denied" }))?;
    for line in added(client, doc).await? {
        cx.printer.line(&line)?;
    }
    Ok(Exit::Done)
}

/// Where a call stands that two persons must allow.
pub fn second(d: &ApprovalDoc) -> String {
    match d.endorsed.first() {
        Some(e) => {
            let who = e.by.name.as_deref().unwrap_or(&e.by.role);
            let why = if e.reason.is_empty() { String::new() } else { format!(" ({})", brief(&e.reason, LINE_MAX)) };
            format!("allowed by {}; needs a second person{why}", brief(who, 80))
        }
        None => "two persons must allow this".to_owned(),
    }
}

/// A line for each rule that an answer added, with how to take it back.
pub async fn added(client: &Client, doc: &ApprovalDoc) -> anyhow::Result<Vec<String>> {
    let ids = doc.answer.as_ref().map(|a| a.rules.as_slice()).unwrap_or_default();
    if ids.is_empty() {
        return Ok(vec![]);
    }
    let known = client.rules(Some(&doc.session)).await?.items;
    let line = |id: &String| {
        let rule = known.iter().find(|r| r.id == *id);
        let text = rule.map(|r| format!(" {} {}", r.effect.as_str(), brief(&r.rule, LINE_MAX))).unwrap_or_default();
        format!("{0} added:{text}; `beadle rule revoke {0}` takes it back", safe(id))
    };
    Ok(ids.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn doc(more: serde_json::Value) -> ApprovalDetailDoc {
        let mut whole = json!({
            "id": "fix-1-aaaaa:12", "session": "fix-1-aaaaa", "call": 12, "state": "waiting",
            "requested_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T00:05:00.000Z",
            "tool": "Bash", "subject": "npm\u{1b}[2J test", "why": "no policy has an opinion; the default is ask",
            "agent": "claude", "cwd": "/p", "input": {"command": "npm\u{1b}[2J test"}, "parse": "complete",
            "policies": [{"policy": "rules", "effect": "abstain", "mode": "enforce", "reason": "no rule speaks of npm"}],
        });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn text(d: &ApprovalDetailDoc) -> String {
        card(d, 1_767_225_600_000 + 10_000).into_iter().map(|(_, l)| l + "\n").collect()
    }

    #[test]
    fn a_question_shows_what_one_must_know_and_cannot_act_on_the_terminal() {
        let words = "I will run the tests.\n\u{202e}second line";
        let shown = text(&doc(json!({"words": words, "description": "Run tests", "always": {"rules": ["Bash(npm test)"]}})));
        for want in [
            "?? fix-1-aaaaa:12  waits 10s, denied in 4m",
            "   claude, in /p",
            "   says: I will run the tests.\n   \\u{202e}second line",
            "   describes it as: Run tests",
            "   Bash  npm\\x1b[2J test\n",
            "   why: no policy has an opinion; the default is ask",
            "   policy rules says abstain: no rule speaks of npm",
            "   always would add: Bash(npm test)",
        ] {
            assert!(shown.contains(want), "no {want:?} in:\n{shown}");
        }
        assert!(!shown.contains(['\u{1b}', '\u{202e}']));
        let long = format!("echo {}; rm -rf ~", "x".repeat(LINE_MAX));
        let shown = text(&doc(json!({"subject": long, "input": {"command": long}})));
        assert!(shown.contains("; rm -rf ~\n"), "the end of a long command is shown too: {shown}");
    }

    #[test]
    fn a_change_is_shown_as_a_diff_and_an_answer_with_where_it_came_from() {
        let answer = json!({"effect": "deny", "at": "2026-01-01T00:00:05.000Z", "reason": "no", "rules": [],
            "by": {"role": "operator", "uid": 7, "pid": 9, "exe": "/usr/bin/beadle", "tty": "/dev/pts/3"}});
        let shown = text(&doc(
            json!({"state": "denied", "diff": "--- /p/a\n@@ -1,1 +1,1 @@\n-old\n+new\u{1b}x\n", "diff_cut": true, "answer": answer}),
        ));
        assert!(shown.contains("   -old\n   +new\\x1bx\n   … more is left out\n"), "{shown}");
        assert!(shown.contains("   denied by operator (pid 9, /usr/bin/beadle, /dev/pts/3) at 2026-01-01T00:00:05.000Z: no\n"), "{shown}");
    }
}
