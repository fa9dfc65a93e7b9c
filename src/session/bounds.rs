//! The bounds that a session was started with: tools it may use, and a repository it may not change. Held by the host, before any policy.
//!
//! A shell command's effect is known as far as its words tell; what is not seen there is for policies, which see that it is not.
//!
//! Called by `gate` and `hook` for every call.

use std::path::Path;

use crate::model::{Access, Call, Record};

/// Why the call is denied, if it is.
pub(super) fn check(record: &Record, call: &Call) -> Option<String> {
    if !record.allowed_tools.is_empty() && !record.allowed_tools.contains(&call.tool) {
        return Some(format!(
            "this session may use the tools {} only (--allow-tool), and {:?} is none of them",
            record.allowed_tools.join(", "),
            super::live::cut(&call.tool, 128)
        ));
    }
    if record.repository_writable {
        return None;
    }
    let root = Path::new(&record.repository.as_ref()?.root);
    let inside = |p: &str| Path::new(p).starts_with(root);
    let hit = call.paths.iter().find(|p| p.access != Access::Read && (inside(&p.resolved) || inside(&p.absolute)))?;
    Some(format!(
        "this session may not change the repository {} (--read-only-repo), and this call would write {}",
        root.display(),
        super::live::cut(&hit.written, 512)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Repository;
    use crate::policy::call::{CallInput, build};
    use crate::policy::paths::RealPaths;
    use serde_json::json;

    fn call(tool: &str, input: serde_json::Value) -> Call {
        let at = CallInput {
            agent: "claude",
            tool,
            input: &input,
            cwd: "/repo/sub",
            home: None,
            write_root: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: crate::model::Channel::Driver,
        };
        build(&at, &RealPaths)
    }

    #[test]
    fn only_named_tools_pass() {
        let record = Record { allowed_tools: vec!["Read".into(), "Bash".into()], ..Record::default() };
        assert_eq!(check(&record, &call("Bash", json!({ "command": "ls" }))), None);
        assert!(check(&record, &call("Write", json!({ "file_path": "/x" }))).is_some_and(|w| w.contains("Read, Bash only")));
        assert!(check(&record, &call("bash", json!({ "command": "ls" }))).is_some(), "names are exact");
        assert_eq!(check(&Record::default(), &call("Write", json!({ "file_path": "/x" }))), None);
    }

    #[test]
    fn a_read_only_repository_is_read_only_for_what_a_call_shows() {
        let repository = Some(Repository { root: "/repo".into(), branch: None, commit: None });
        let record = Record { repository, repository_writable: false, ..Record::default() };
        for (tool, input, denied) in [
            ("Write", json!({ "file_path": "/repo/a", "content": "" }), true),
            ("Edit", json!({ "file_path": "b" }), true),
            ("Write", json!({ "file_path": "/repository/a", "content": "" }), false),
            ("Read", json!({ "file_path": "/repo/a" }), false),
            ("Bash", json!({ "command": "echo x > out" }), true),
            ("Bash", json!({ "command": "echo x > ../../tmp/out" }), false),
            ("Bash", json!({ "command": "cat a" }), false),
        ] {
            let said = check(&record, &call(tool, input.clone()));
            assert_eq!(said.is_some(), denied, "{tool} {input}: {said:?}");
        }
        let nowhere = Record { repository: None, ..record };
        assert_eq!(check(&nowhere, &call("Write", json!({ "file_path": "/repo/a", "content": "" }))), None);
    }
}
