//! Judging where a call goes. Called by `lib`.

use beadle_plugin::{Call, Decision, Effect, Parse, ToolKind};
use policy_kit::{Strictest, shown};
use serde_json::Value;

use crate::config::Egress;
use crate::programs;
use policy_kit::host::{Destination, Host, is_private};

impl Egress {
    /// Denies, asks, abstains; allows a fetch tool all of whose addresses are on `allow`.
    pub fn judge(&self, call: &Call) -> Decision {
        let mut out = Strictest::default();
        let mut all_allowed = true;
        let mut any = false;
        let mut destination = |d: &Destination, out: &mut Strictest| {
            any = true;
            all_allowed &= self.destination(d, out);
        };
        if call.parse != Parse::Complete {
            out.add(self.on_uncertain, "uncertain", || {
                let why = call.parse_reason.as_deref().unwrap_or("it was not read whole");
                format!("where this call connects to cannot be told: {why}")
            });
        }
        for command in &call.commands {
            let found = programs::read(command);
            for why in found.doubts {
                out.add(self.on_uncertain, "uncertain", || {
                    format!("where {} connects to is not vouched for: {why}", shown(command.program()))
                });
            }
            if found.implied && self.on_implied != Effect::Abstain {
                out.add(self.on_implied, "implied", || {
                    format!("{} connects to where its own settings say, which this call does not show", shown(command.program()))
                });
            }
            found.destinations.iter().for_each(|d| destination(d, &mut out));
        }
        // why not for commands: their words were looked at one by one, and text that only mentions an address is no connection.
        if call.commands.is_empty() || call.kind != ToolKind::Execute {
            call.urls.iter().for_each(|u| destination(&Destination::of_url(u, "http"), &mut out));
            for text in fields(call) {
                destination(&Destination::of_url(text.trim(), ""), &mut out);
            }
        }
        let fetches = call.kind == ToolKind::Fetch && call.commands.is_empty();
        if fetches && !any && !call.tool.to_ascii_lowercase().contains("search") {
            out.add(self.on_uncertain, "uncertain", || "this call fetches, and does not say from where".to_owned());
        }
        match out.decision() {
            Some(d) => d,
            None if fetches && any && all_allowed && self.fetch == Effect::Allow => {
                Decision::new(Effect::Allow, "all its addresses are on the list allow").because("allow")
            }
            None => Decision::abstain(),
        }
    }

    /// Whether the list `allow` vouches for it; what speaks against it goes to `out`.
    fn destination(&self, d: &Destination, out: &mut Strictest) -> bool {
        if let Host::Unclear(why) = d.host {
            out.add(self.on_uncertain, "uncertain", || format!("where {} leads cannot be told: {why}", shown(&d.written)));
            return false;
        }
        for (effect, list, name) in [(Effect::Deny, &self.deny, "deny"), (Effect::Ask, &self.ask, "ask")] {
            if let Some(e) = list.iter().find(|e| e.hits(d)) {
                let verb = if effect == Effect::Deny { "is not connected to" } else { "is asked about" };
                out.add(effect, format!("{name}: {}", e.text), || {
                    format!("{} {verb}: {} is on the list {name}", shown(&d.written), e.text)
                });
                return false;
            }
        }
        if self.allow.iter().any(|e| e.covers(d)) {
            return true;
        }
        if matches!(d.host, Host::Ip { plain: false, .. }) {
            out.add(self.on_uncertain, "uncertain", || format!("{} hides an IP address in an odd spelling", shown(&d.written)));
        }
        if is_private(&d.host) {
            if self.private != Effect::Abstain {
                out.add(self.private, "private", || format!("{} is on this machine or its own networks", shown(&d.written)));
            }
        } else if self.default != Effect::Abstain {
            out.add(self.default, "default", || format!("{} is on no list of hosts, or not at this port or scheme", shown(&d.written)));
        }
        false
    }
}

/// The fields of a tool's input that are addresses as a whole: what the host finds inside of them is not all that they say.
fn fields(call: &Call) -> Vec<String> {
    let Ok(input) = serde_json::from_str::<Value>(&call.input) else { return Vec::new() };
    let mut out = Vec::new();
    for field in ["url", "urls", "uri"] {
        match input.get(field) {
            Some(Value::String(s)) => out.push(s.clone()),
            Some(Value::Array(items)) => out.extend(items.iter().filter_map(|i| i.as_str().map(str::to_owned))),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests;
