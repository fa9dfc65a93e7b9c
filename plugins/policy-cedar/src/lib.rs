//! The standard policy `cedar`: permits and forbids in the [Cedar](https://www.cedarpolicy.com) language.
//!
//! # Configuration
//! ```json
//! {
//!   "policies": "@id(\"no-force\") @reason(\"history is not rewritten\") forbid(principal, action == Action::\"run\", resource) when { resource.text like \"git push*--force*\" };",
//!   "on_uncertain": "ask"
//! }
//! ```
//! `policies` is Cedar text, or a list of such texts. It is validated against [`SCHEMA`] (strict mode) when the policy is loaded; errors
//! name the line. `on_uncertain` is `ask` (as it is without the key), `deny` or `ignore`. Templates are refused: nothing links them.
//!
//! # One call is several requests
//! The principal is the session (in its `Agent`), the context is that of the whole call, see the schema. The resource is, one request
//! each, the call itself (action: its kind), each simple command (`run`), each assignment before one (`assign`), each path (`read_path`,
//! `write_path`), each address (`connect`): Cedar has no loops, so this is how `like` reaches each of them. A program that is named by a
//! path is seen by permits as it is written, and by forbids as well by its name alone. What Cedar compares is what stands there: that
//! `git -C . push` is a push is for the policy to say (`resource.args.contains("push")`), where `rules` knows it by itself.
//!
//! # How it decides
//! - A forbid that holds for any request: **deny**; **ask** when all that hold have `@effect("ask")`.
//! - Else, when the call itself is permitted, or it has parts and each of them is: **allow**; **ask** when a permit that is needed for
//!   that has only `@effect("ask")`. Parts are not enough for tools of the kinds `other` and `think`, of which nobody knows what they do.
//! - Else no opinion: Cedar's own deny by default would overrule every other policy, so the host's default stands in its place.
//! - An error in the evaluation of any request: **deny**, whatever else holds.
//! - Doubt: where the call was not read whole, or a word or path of it can change by expansion, a forbid may have been missed and a permit
//!   may be wrong, so what would be allowed or passed over gets `on_uncertain`. (`ignore` leaves it as it is.)
//!
//! The rule of the decision is the id of the determining policies: `@id("…")`, else `policy0`, `policy1` … in order. The reason is their
//! `@reason("…")`.
//!
//! Limits: [`config::TEXT`] bytes of text, [`config::POLICIES`] policies. Numbers over 2^63 - 1 are that.
//!
//! Called by the host as a component, and natively by tests and benches through [`Cedar`].

pub mod config;
mod judge;
mod request;

pub use config::Cedar;

use beadle_plugin::{Call, Decision, Description, Session};

/// The schema of sessions and calls, in Cedar's own notation.
pub const SCHEMA: &str = include_str!("beadle.cedarschema");

impl beadle_plugin::Policy for Cedar {
    fn describe() -> Description {
        Description::new(
            "cedar",
            env!("CARGO_PKG_VERSION"),
            "Permits and forbids in the Cedar language, over sessions, calls and their parts.",
        )
        .with_schema(include_str!("config.schema.json"))
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::read(config)
    }

    fn decide(&self, session: &Session, call: &Call) -> Decision {
        self.judge(session, call)
    }
}
