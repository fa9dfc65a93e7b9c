//! From the answers to the requests of a call to one decision. Called by `lib`.

use beadle_plugin::{Call, Decision, Effect, Session, ToolKind};
use cedar_policy::{Decision as Verdict, PolicyId, Response};

use crate::config::{Cedar, Note};
use crate::request::{Requests, requests};

/// Longest rule and longest reason of a decision, in bytes.
const RULE: usize = 1_000;
const REASON: usize = 4_000;

/// What the permits of some requests come to.
#[derive(Default)]
struct Permits<'a> {
    notes: Vec<&'a Note>,
    asks: bool,
    missing: bool,
}

impl Cedar {
    /// Denies, asks, allows or abstains; see the crate's documentation.
    pub fn judge(&self, session: &Session, call: &Call) -> Decision {
        let Requests { entities, requests, exact } = match requests(&self.names, session, call, None) {
            Ok(r) => r,
            Err(e) => return Decision::deny(cut(format!("the call cannot be put as a Cedar request: {e}"), REASON)).because("error"),
        };
        let (mut forbids, mut whole, mut parts) = (Vec::new(), Permits::default(), Permits::default());
        for (i, one) in requests.iter().enumerate() {
            let permits = match (i, one.forbids_only) {
                (0, _) => Some(&mut whole),
                (_, false) => Some(&mut parts),
                (_, true) => None,
            };
            // An action of which no policy speaks is answered without Cedar.
            let Some(set) = self.sets.get(one.action) else {
                permits.into_iter().for_each(|p| p.missing = true);
                continue;
            };
            let response = self.authorizer.is_authorized(&one.request, set, &entities);
            if let Some(e) = response.diagnostics().errors().next() {
                return Decision::deny(cut(format!("a Cedar policy failed: {e}"), REASON)).because("error");
            }
            let notes = self.notes(&response);
            match response.decision() {
                Verdict::Deny if !notes.is_empty() => forbids.extend(notes),
                verdict => permits.into_iter().for_each(|to| {
                    to.missing |= verdict == Verdict::Deny;
                    // One permit without a question is enough.
                    to.asks |= verdict == Verdict::Allow && notes.iter().all(|n| n.asks);
                    to.notes.extend(&notes);
                }),
            }
        }
        let strict: Vec<&Note> = forbids.iter().filter(|n| !n.asks).copied().collect();
        if !strict.is_empty() {
            return decision(Effect::Deny, &strict, "a Cedar policy forbids it");
        }
        let doubt = (!exact && self.on_uncertain != Effect::Abstain && !self.notes.is_empty()).then(|| {
            let why = call.parse_reason.as_deref().unwrap_or("a word, path or address of it can change before it runs");
            Decision::new(self.on_uncertain, cut(format!("not all of this call is known: {why}"), REASON)).because("uncertain")
        });
        if !forbids.is_empty() {
            // Doubt that denies is stricter than a question.
            let asks = || decision(Effect::Ask, &forbids, "a Cedar policy wants it to be asked about");
            return doubt.filter(|d| d.effect == Effect::Deny).unwrap_or_else(asks);
        }
        if let Some(doubt) = doubt {
            return doubt;
        }
        // The parts of a tool that is not known say what it touches, and not what it does there.
        let told = requests.len() > 1 && !matches!(call.kind, ToolKind::Other | ToolKind::Think);
        let permits = [(whole, true), (parts, told)].into_iter().filter(|(p, any)| *any && !p.missing).map(|(p, _)| p);
        match permits.min_by_key(|p| p.asks) {
            Some(p) if p.asks => decision(Effect::Ask, &p.notes, "a Cedar policy wants it to be asked about"),
            Some(p) => decision(Effect::Allow, &p.notes, "a Cedar policy permits it"),
            None => Decision::abstain(),
        }
    }

    /// The determining policies of an answer, in the order of their ids.
    fn notes(&self, response: &Response) -> Vec<&Note> {
        let mut ids: Vec<&PolicyId> = response.diagnostics().reason().collect();
        ids.sort();
        ids.into_iter().filter_map(|id| self.notes.get(id)).collect()
    }
}

fn decision(effect: Effect, notes: &[&Note], otherwise: &str) -> Decision {
    let joined = |texts: Vec<&str>, by: &str| {
        let mut out: Vec<&str> = Vec::new();
        texts.into_iter().for_each(|t| {
            if !out.contains(&t) {
                out.push(t);
            }
        });
        out.join(by)
    };
    let reasons = joined(notes.iter().filter_map(|n| n.reason.as_deref()).collect(), "; ");
    let rule = joined(notes.iter().map(|n| n.id.as_str()).collect(), ", ");
    let reason = if reasons.is_empty() { otherwise.to_owned() } else { reasons };
    Decision::new(effect, cut(reason, REASON)).because(cut(rule, RULE))
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use beadle_plugin::{Access, Command, Parse, PathUse, Word};

    fn judge(policies: &str, call: &Call) -> (Effect, String, String) {
        let session = Session { root: "/w".into(), labels: vec![("team".into(), "core".into())], calls: 7, ..Session::default() };
        let config = serde_json::json!({ "policies": policies }).to_string();
        let d = Cedar::read(&config).unwrap_or_else(|e| panic!("{e}")).judge(&session, call);
        (d.effect, d.rule.unwrap_or_default(), d.reason)
    }

    fn run(commands: &[&[&str]]) -> Call {
        let commands = commands.iter().map(|c| Command::of(c.iter().copied())).collect();
        Call { kind: ToolKind::Execute, tool: "Bash".into(), commands, ..Call::default() }
    }

    const POLICIES: &str = r#"
        @id("git-reads") permit(principal, action == Action::"run", resource) when { ["git status", "git log"].contains(resource.text) };
        @id("pushes") @reason("pushes are read by a person") @effect("ask")
        forbid(principal, action == Action::"run", resource) when { resource.text like "git push*" };
        @id("no-force") @reason("history is not rewritten")
        forbid(principal, action == Action::"run", resource) when { resource.program == "git" && resource.args.containsAny(["-f", "--force"]) };
        @id("reads") permit(principal, action == Action::"read_path", resource) when { resource.resolved like "/w/*" };
        @id("team") permit(principal, action == Action::"think", resource) when { principal.hasTag("team") && principal.getTag("team") == "core" };
        @id("agent") permit(principal in Agent::"claude", action == Action::"search", resource) when { context.calls < 10 };
        @id("env") forbid(principal, action in [Action::"read_path", Action::"write_path"], resource) when { resource.resolved like "*/.env" };
        @id("hosts") forbid(principal, action == Action::"connect", resource) unless { resource.host like "*.example.org" };
    "#;

    #[test]
    fn forbids_win_permits_need_all_parts_and_the_rest_is_no_opinion() {
        let path = |resolved: &str, access| PathUse {
            written: "x".into(),
            absolute: resolved.into(),
            resolved: resolved.into(),
            access,
            exact: true,
        };
        let read = |p: &str| Call { kind: ToolKind::Read, tool: "Read".into(), paths: vec![path(p, Access::Read)], ..Call::default() };
        for (call, effect, rule) in [
            (run(&[&["git", "status"]]), Effect::Allow, "git-reads"),
            (run(&[&["git", "status"], &["git", "log"]]), Effect::Allow, "git-reads"),
            (run(&[&["git", "status"], &["rm", "x"]]), Effect::Abstain, ""),
            (run(&[&["git", "push"]]), Effect::Ask, "pushes"),
            (run(&[&["git", "push", "-f"]]), Effect::Deny, "no-force"),
            (run(&[&["git", "status"], &["git", "push", "-f"]]), Effect::Deny, "no-force"),
            (Call { paths: vec![path("/w/.env", Access::Read)], ..run(&[&["git", "status"]]) }, Effect::Deny, "env"),
            (read("/w/a"), Effect::Allow, "reads"),
            (read("/etc/a"), Effect::Abstain, ""),
            (read("/w/.env"), Effect::Deny, "env"),
            (Call { paths: vec![path("/w/a", Access::ReadWrite)], ..read("/w/a") }, Effect::Abstain, ""),
            (Call { kind: ToolKind::Think, ..Call::default() }, Effect::Allow, "team"),
            (Call { kind: ToolKind::Search, ..Call::default() }, Effect::Allow, "agent"),
            (Call { kind: ToolKind::Fetch, urls: vec!["https://a.example.org/".into()], ..Call::default() }, Effect::Abstain, ""),
            (Call { kind: ToolKind::Fetch, urls: vec!["https://example.org.evil.net/".into()], ..Call::default() }, Effect::Deny, "hosts"),
        ] {
            let got = judge(POLICIES, &call);
            assert_eq!((got.0, got.1.as_str()), (effect, rule), "{call:?} {}", got.2);
        }
        assert_eq!(judge(POLICIES, &run(&[&["git", "push", "-f"]])).2, "history is not rewritten");
        assert_eq!(judge(POLICIES, &run(&[&["git", "push"]])).2, "pushes are read by a person");
        assert_eq!(judge("", &run(&[&["x"]])).0, Effect::Abstain);
    }

    #[test]
    fn errors_deny_and_doubt_asks() {
        let overflow = r#"permit(principal, action, resource) when { context.calls + 9223372036854775807 > 0 };"#;
        let got = judge(overflow, &run(&[&["x"]]));
        assert_eq!((got.0, got.1.as_str()), (Effect::Deny, "error"), "{}", got.2);
        let all = "permit(principal, action, resource);";
        let dynamic = Call { commands: vec![Command { argv: vec![Word::dynamic("$X")], exact: false, ..Command::of(["x"]) }], ..run(&[]) };
        for call in [dynamic, Call { parse: Parse::Partial, ..run(&[&["x"]]) }] {
            assert_eq!(judge(all, &call).0, Effect::Ask);
            assert_eq!(judge("forbid(principal, action == Action::\"connect\", resource);", &call).0, Effect::Ask);
        }
        assert_eq!(judge(all, &run(&[&["x"]])).0, Effect::Allow);
        assert_eq!(judge("@effect(\"ask\") permit(principal, action, resource);", &run(&[&["x"]])).0, Effect::Ask);
    }

    #[test]
    fn no_spelling_of_a_program_or_its_surroundings_gets_around() {
        let policies = r#"
            @id("git") permit(principal, action == Action::"run", resource) when { resource.program == "git" };
            @id("test") permit(principal, action == Action::"run", resource) when { resource.text == "./test.sh" };
            @id("look") permit(principal, action == Action::"assign", resource) when { resource.name == "NO_COLOR" };
            @id("push") forbid(principal, action == Action::"run", resource) when { resource.program == "git" && resource.args.contains("push") };
            @id("text") forbid(principal, action == Action::"run", resource) when { resource.text like "git gc*" };
            @id("trace") forbid(principal, action == Action::"assign", resource) when { resource.name == "GIT_TRACE" };
            @id("in") permit(principal, action in [Action::"read_path", Action::"write_path"], resource) when { resource.resolved like "/w/*" };
        "#;
        let with = |env: &str, words: &[&str]| Call {
            commands: vec![Command { env: vec![Word::exact(env)], ..Command::of(words.iter().copied()) }],
            ..run(&[])
        };
        let path =
            PathUse { written: "x".into(), absolute: "/w/x".into(), resolved: "/w/x".into(), access: Access::ReadWrite, exact: true };
        let by_a_tool = |kind| Call { kind, tool: "mcp__disk__wipe".into(), paths: vec![path.clone()], ..Call::default() };
        for (call, effect, rule) in [
            (run(&[&["git", "status"]]), Effect::Allow, "git"),
            (run(&[&["./git", "status"]]), Effect::Abstain, ""),
            (run(&[&["/usr/bin/git", "-C", ".", "push"]]), Effect::Deny, "push"),
            (run(&[&["/usr/bin/git", "gc"]]), Effect::Deny, "text"),
            (run(&[&["./test.sh"]]), Effect::Allow, "test"),
            (run(&[&["test.sh"]]), Effect::Abstain, ""),
            (run(&[&["git push"]]), Effect::Abstain, ""),
            (with("NO_COLOR=1", &["git", "status"]), Effect::Allow, "git, look"),
            (with("LD_PRELOAD=./x.so", &["git", "status"]), Effect::Abstain, ""),
            (with("GIT_TRACE=/tmp/x", &["git", "status"]), Effect::Deny, "trace"),
            (with("X=1", &["git", "push"]), Effect::Deny, "push"),
            (by_a_tool(ToolKind::Edit), Effect::Allow, "in"),
            (by_a_tool(ToolKind::Other), Effect::Abstain, ""),
        ] {
            let got = judge(policies, &call);
            assert_eq!((got.0, got.1.as_str()), (effect, rule), "{call:?} {}", got.2);
        }
    }

    #[test]
    fn doubt_that_denies_is_not_softened_by_a_question() {
        let policies = "@effect(\"ask\") forbid(principal, action == Action::\"run\", resource);";
        let call = Call { parse: Parse::Partial, ..run(&[&["x"]]) };
        for (on_uncertain, effect) in [("deny", Effect::Deny), ("ask", Effect::Ask), ("ignore", Effect::Ask)] {
            let config = serde_json::json!({ "policies": policies, "on_uncertain": on_uncertain }).to_string();
            let got = Cedar::read(&config).unwrap_or_else(|e| panic!("{e}")).judge(&Session::default(), &call);
            assert_eq!(got.effect, effect, "{on_uncertain}: {got:?}");
        }
    }
}
