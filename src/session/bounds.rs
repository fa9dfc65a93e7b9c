//! The bounds that a session was started with: tools it may use, a repository it may not change, a folder it may write in. Held by the host,
//! before any policy.
//!
//! A shell command's effect is known as far as its words tell; what is not seen there is for policies, which see that it is not. A path that
//! expansion can change is taken as it is written.
//!
//! Called by `gate` and `hook` for every call.

use std::path::Path;

use crate::model::{Access, Call, PathUse, Record};

/// Written by everyone; nothing is kept there.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/zero"];

/// Why the call is denied, if it is.
pub(super) fn check(record: &Record, call: &Call) -> Option<String> {
    if !record.allowed_tools.is_empty() && !record.allowed_tools.contains(&call.tool) {
        return Some(format!(
            "this session may use the tools {} only (--allow-tool), and {:?} is none of them",
            record.allowed_tools.join(", "),
            super::live::cut(&call.tool, 128)
        ));
    }
    let writes = || call.paths.iter().filter(|p| p.access != Access::Read);
    // why both: a link outside is itself outside, and so is what a link inside leads to.
    let inside = |root: &Path, p: &PathUse| [Path::new(&p.resolved).starts_with(root), Path::new(&p.absolute).starts_with(root)];
    if let Some(root) = call.write_root.as_deref().map(Path::new)
        && let Some(hit) = writes().find(|p| inside(root, p) != [true; 2] && !is_device(p))
    {
        return Some(format!(
            "this session may write below {} only (--write-root), and this call would write {} at {}",
            root.display(),
            super::live::cut(&hit.written, 512),
            super::live::cut(&hit.resolved, 512)
        ));
    }
    if record.repository_writable {
        return None;
    }
    let root = Path::new(&record.repository.as_ref()?.root);
    let hit = writes().find(|p| inside(root, p) != [false; 2])?;
    Some(format!(
        "this session may not change the repository {} (--read-only-repo), and this call would write {}",
        root.display(),
        super::live::cut(&hit.written, 512)
    ))
}

/// Known by how it is written: another road to the same name may go through a link.
fn is_device(p: &PathUse) -> bool {
    let number = p.written.strip_prefix("/dev/fd/");
    DEVICES.contains(&p.written.as_str()) || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Repository;
    use crate::policy::call::{CallInput, build};
    use crate::policy::paths::RealPaths;
    use serde_json::json;

    fn call(tool: &str, input: serde_json::Value) -> Call {
        call_in(None, tool, input)
    }

    fn call_in(write_root: Option<&str>, tool: &str, input: serde_json::Value) -> Call {
        let at = CallInput {
            agent: "claude",
            tool,
            input: &input,
            cwd: "/repo/sub",
            home: None,
            write_root,
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

    #[test]
    fn what_a_call_shows_to_be_written_is_below_the_write_root() {
        let dir = tempfile::tempdir().expect("a folder");
        let top = dir.path().canonicalize().expect("a path");
        let root = top.join("out");
        std::fs::create_dir(&root).expect("a folder");
        std::os::unix::fs::symlink("/etc", root.join("away")).expect("a link");
        std::os::unix::fs::symlink(&root, top.join("back")).expect("a link");
        let (root, top) = (root.display().to_string(), top.display().to_string());
        for (tool, input, denied) in [
            ("Write", json!({ "file_path": format!("{root}/a"), "content": "" }), false),
            ("Write", json!({ "file_path": format!("{root}/../a"), "content": "" }), true),
            ("Write", json!({ "file_path": format!("{root}side/a"), "content": "" }), true),
            ("Write", json!({ "file_path": format!("{root}/away/a"), "content": "" }), true),
            ("Write", json!({ "file_path": format!("{top}/back/a"), "content": "" }), true),
            ("Edit", json!({ "file_path": "/repo/sub/a" }), true),
            ("Read", json!({ "file_path": "/etc/hostname" }), false),
            ("Bash", json!({ "command": format!("cat /etc/hostname > {root}/a 2> /dev/null") }), false),
            ("Bash", json!({ "command": format!("cd {root} && rm -f *.o && echo x > $name") }), false),
            ("Bash", json!({ "command": format!("mv {root}/a /tmp/a") }), true),
            ("Bash", json!({ "command": "echo x > /etc/cron.d/*" }), true),
            ("Bash", json!({ "command": "echo x > out" }), true),
            ("Bash", json!({ "command": "sh -c 'echo x > /tmp/a'" }), true),
            ("Bash", json!({ "command": "make install" }), false),
        ] {
            let said = check(&Record::default(), &call_in(Some(&root), tool, input.clone()));
            assert_eq!(said.is_some(), denied, "{tool} {input}: {said:?}");
            assert!(said.is_none_or(|w| w.contains("--write-root") && w.contains(&root)), "{tool} {input}");
        }
    }
}
