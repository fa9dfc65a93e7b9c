//! One policy in five versions, which answer every call differently. For tests only; the components are this crate's examples.

use beadle_plugin::{Call, Decision, Description, Policy, Session, Want};

/// Version 1 allows, 2 denies, 3 abstains and asks for capabilities, 4 traps, 5 is as 3 and asks for one more. `{"fail": true}` as configuration is refused by 2.
pub struct Lively<const VERSION: u8>;

impl<const VERSION: u8> Policy for Lively<VERSION> {
    fn describe() -> Description {
        let mut d =
            Description::new("lively", format!("0.{VERSION}.0"), "Answers as its version says.").with_schema(r#"{"type":"object"}"#);
        if VERSION == 3 || VERSION == 5 {
            let want = |capability: &str, reason: &str| Want { capability: capability.to_owned(), reason: reason.to_owned() };
            d.wants = vec![want("kv", "it counts calls"), want("fs:read:*", "it reads a list")];
            d.wants.extend((VERSION == 5).then(|| want("clock", "it looks at the time")));
        }
        d
    }

    fn configure(config: &str) -> Result<Self, String> {
        if VERSION == 2 && config.contains("\"fail\"") { Err("as configured".to_owned()) } else { Ok(Self) }
    }

    fn decide(&self, _session: &Session, _call: &Call) -> Decision {
        match VERSION {
            1 => Decision::allow().because("version 1"),
            2 => Decision::deny("by version 2").because("version 2"),
            4 => panic!("as this version does"),
            _ => Decision::abstain(),
        }
    }
}
