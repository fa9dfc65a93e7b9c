//! The host's own folders: no call may name a path inside them, whatever the policies say. Not configurable.

use std::path::{Path, PathBuf};

use crate::model::{Call, ToolKind};

/// Folders and files that belong to the host, canonical where they exist.
#[derive(Debug, Clone, Default)]
pub struct OwnFolders {
    roots: Vec<PathBuf>,
}

impl OwnFolders {
    /// Takes config, data, cache and runtime folders. Both the given and the canonical form count.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut roots = Vec::new();
        for f in folders {
            if let Ok(c) = f.canonicalize()
                && c != f
            {
                roots.push(c);
            }
            roots.push(f);
        }
        // why: a root of `/` (a misconfigured folder) would deny every call and explain none.
        roots.retain(|r| r.components().count() > 1);
        Self { roots }
    }

    /// The reason to deny, when the call names a path inside one of the folders: as an argument, a redirection, a
    /// word of a command, or anywhere in the input's text.
    pub fn check(&self, call: &Call) -> Option<String> {
        for p in &call.paths {
            for candidate in [&p.absolute, &p.resolved] {
                if let Some(root) = self.holding(Path::new(candidate)) {
                    return Some(refusal(&p.written, root));
                }
            }
        }
        // why: a program may take the path where no table expects it (`python -c "open('…')"`), so the text counts too.
        let executes = call.kind == ToolKind::Execute || !call.commands.is_empty();
        if executes {
            let text = call.input.to_string();
            for root in &self.roots {
                if root.to_str().is_some_and(|r| text.contains(r)) {
                    return Some(refusal(&root.display().to_string(), root));
                }
            }
        }
        None
    }

    /// Whether a real path lies in one of the folders.
    pub fn holds(&self, path: &Path) -> bool {
        self.holding(path).is_some()
    }

    fn holding(&self, path: &Path) -> Option<&Path> {
        self.roots.iter().map(PathBuf::as_path).find(|r| path.starts_with(r))
    }
}

fn refusal(written: &str, root: &Path) -> String {
    format!("{written} lies in the host's own folder {}; no session may touch it", root.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Access, Channel, Parse, PathUse};
    use serde_json::json;

    fn call(kind: ToolKind, input: serde_json::Value, path: Option<&str>) -> Call {
        Call {
            agent: "claude".into(),
            tool: "x".into(),
            kind,
            input,
            cwd: "/w".into(),
            write_root: None,
            paths: path
                .map(|p| PathUse { written: p.into(), absolute: p.into(), resolved: p.into(), access: Access::Read, exact: true })
                .into_iter()
                .collect(),
            urls: vec![],
            commands: vec![],
            parse: Parse::Complete,
            parse_reason: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
        }
    }

    #[test]
    fn paths_and_texts_inside_are_refused_and_others_are_not() {
        let own = OwnFolders::new([PathBuf::from("/data/beadle"), PathBuf::from("/")]);
        assert!(own.check(&call(ToolKind::Read, json!({}), Some("/data/beadle/store.db"))).is_some());
        assert!(own.check(&call(ToolKind::Read, json!({}), Some("/data/beadle"))).is_some());
        assert!(own.check(&call(ToolKind::Read, json!({}), Some("/data/beadle-notes/x"))).is_none());
        assert!(own.check(&call(ToolKind::Execute, json!({"command": "python -c \"open('/data/beadle/x')\""}), None)).is_some());
        assert!(own.check(&call(ToolKind::Execute, json!({"command": "ls"}), None)).is_none());
        assert!(own.check(&call(ToolKind::Edit, json!({"content": "see /data/beadle"}), Some("/w/notes.md"))).is_none());
    }
}
