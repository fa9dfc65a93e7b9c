//! The text of decisions: what was met and by which rule, short, with control characters taken out.
//!
//! Invariant: a reason stays far below the 4 KiB that an answer may have. Called by `judge`.

use beadle_plugin::{Call, Command, Decision, Effect, Parse, ToolKind};

use crate::Fit;
use crate::allow::Miss;
use crate::judge::{Found, What};
use crate::policy::{Rule, Tier};

/// Longest piece of a call in a reason, in bytes.
const SHOWN: usize = 160;

/// A decision that one rule led to.
pub(crate) fn of_rule(effect: Effect, rule: &Rule, found: Found<'_>) -> Decision {
    let mut text = String::with_capacity(128);
    match &rule.reason {
        Some(reason) => text.push_str(reason),
        None => {
            what(&mut text, found.what);
            match (found.fit, effect, found.what) {
                (Fit::Yes, Effect::Deny, _) => text.push_str(" is denied by "),
                (Fit::Yes, ..) => text.push_str(" is to be asked by "),
                (_, _, What::Path(_, true)) => text.push_str(" is used with all that lies below it, which could reach what is named by "),
                _ => text.push_str(" could turn out to be what is named by "),
            }
            text.push_str(&rule.text);
        }
    }
    Decision::new(effect, text).because(rule.text.as_str())
}

/// Why a command that was not understood whole is asked.
pub(crate) fn of_parse(call: &Call) -> String {
    let mut text = String::with_capacity(128);
    if call.commands.is_empty() && call.kind != ToolKind::Execute {
        text.push_str("the call does not say what it works on in a way that is known");
        return text;
    }
    if call.parse == Parse::Failed {
        text.push_str("the command could not be read, so what it runs is not known");
        return because(text, call);
    }
    text.push_str("the command runs something that only the shell will know");
    let dynamic = call.commands.iter().flat_map(|c| &c.argv).find(|w| !w.exact);
    if let Some(word) = dynamic {
        text.push_str(", such as ");
        shown(&mut text, &word.text);
    } else if let Some(command) = call.commands.last() {
        text.push_str(", in or after ");
        words(&mut text, command);
    }
    because(text, call)
}

/// The host's own reason behind ours, where it gives one.
fn because(mut text: String, call: &Call) -> String {
    if let Some(reason) = &call.parse_reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

/// Why no allow rule covers a call.
pub(crate) fn of_miss(miss: &Miss<'_>, allow: &Tier) -> Decision {
    let mut text = String::with_capacity(128);
    match miss {
        Miss::Uncovered(subject) => {
            text.push_str("no rule allows ");
            what(&mut text, *subject);
            return Decision::new(Effect::Abstain, text);
        }
        Miss::But(command, rule, why, word) => {
            words(&mut text, command);
            text.push_str(" would be allowed by ");
            text.push_str(&allow.rules[*rule].text);
            text.push_str(", but ");
            text.push_str(why);
            text.push(' ');
            shown(&mut text, &word.text);
        }
        Miss::Writes(path) => {
            text.push_str("the command is allowed, but no Edit or Write rule allows writing ");
            shown(&mut text, &path.absolute);
        }
        Miss::Redirects(word) => {
            text.push_str("the command is allowed, but where it is redirected is not known: ");
            shown(&mut text, &word.text);
        }
    }
    Decision::ask(text)
}

fn what(out: &mut String, what: What<'_>) {
    match what {
        What::Tool => out.push_str("this call"),
        What::Command(command) => words(out, command),
        What::Path(path, _) => shown(out, &path.absolute),
        What::Url(url) => shown(out, url),
    }
}

fn words(out: &mut String, command: &Command) {
    let mut text = String::with_capacity(64);
    for word in &command.argv {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word.text[..word.text.floor_char_boundary(SHOWN)]);
        if text.len() > SHOWN {
            break;
        }
    }
    shown(out, &text);
}

/// Between backquotes, cut to [`SHOWN`] bytes, control characters as blanks.
fn shown(out: &mut String, text: &str) {
    let cut = &text[..text.floor_char_boundary(SHOWN)];
    out.push('`');
    out.extend(cut.chars().map(|c| if c.is_control() { ' ' } else { c }));
    if cut.len() < text.len() {
        out.push('…');
    }
    out.push('`');
}
