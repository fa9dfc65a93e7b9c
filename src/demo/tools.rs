//! The tools: Bash, Read, Write, Edit. They really run, in the working directory, with bounded output, size and time.
//!
//! Called by `turn`, only after an allow. Inputs are the model's (or the host's rewrite) and checked here.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Most bytes kept of each output stream of a command; the rest is read and thrown away.
const MAX_OUTPUT: usize = 30_000;
/// Largest file read, written or edited, in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// How long a command may run unless it says otherwise, and at most.
const TIMEOUT_MS: u64 = 120_000;
const MAX_TIMEOUT_MS: u64 = 600_000;
/// How long output is awaited after the command itself ended (a child in the background may hold it open).
const LINGER: Duration = Duration::from_millis(500);

/// What a tool gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Done {
    /// What the model sees.
    pub content: String,
    pub is_error: bool,
    /// `tool_use_result`, in the shape that the tool has in Claude Code.
    pub detail: Value,
}

impl Done {
    pub fn error(what: impl Into<String>) -> Self {
        let content = what.into();
        Self { detail: json!(format!("Error: {content}")), content, is_error: true }
    }

    fn good(content: String, detail: Value) -> Self {
        Self { content, is_error: false, detail }
    }
}

/// What the model is told about the tools.
pub(super) fn schemas() -> Value {
    let tool = |name: &str, description: &str, required: &[&str], properties: Value| {
        json!({"name": name, "description": description,
               "input_schema": {"type": "object", "properties": properties, "required": required, "additionalProperties": false}})
    };
    let text = json!({"type": "string"});
    json!([
        tool(
            "Bash",
            "Runs a shell command in the working directory.",
            &["command"],
            json!({"command": text, "description": text, "timeout": {"type": "integer", "maximum": MAX_TIMEOUT_MS}})
        ),
        tool("Read", "Reads a text file.", &["file_path"], json!({"file_path": text})),
        tool("Write", "Writes a file whole.", &["file_path", "content"], json!({"file_path": text, "content": text})),
        tool(
            "Edit",
            "Replaces a text in a file.",
            &["file_path", "old_string", "new_string"],
            json!({"file_path": text, "old_string": text, "new_string": text, "replace_all": {"type": "boolean"}})
        ),
    ])
}

/// The names in [`schemas`].
pub(super) const NAMES: [&str; 4] = ["Bash", "Read", "Write", "Edit"];

/// Whether calls of this tool run one after the other.
pub(super) fn changes(name: &str) -> bool {
    name != "Read"
}

/// Runs one call that was allowed.
pub(super) async fn run(name: &str, input: &Map<String, Value>, cwd: &Path) -> Done {
    let done = match name {
        "Bash" => bash(input, cwd).await,
        "Read" => read(input, cwd),
        "Write" => write(input, cwd),
        "Edit" => edit(input, cwd),
        other => Err(format!("No such tool available: {other}")),
    };
    done.unwrap_or_else(Done::error)
}

fn text<'a>(input: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    input.get(key).and_then(Value::as_str).ok_or_else(|| format!("InputValidationError: `{key}` must be a string"))
}

async fn bash(input: &Map<String, Value>, cwd: &Path) -> Result<Done, String> {
    let command = text(input, "command")?;
    let limit = input.get("timeout").and_then(Value::as_u64).unwrap_or(TIMEOUT_MS).min(MAX_TIMEOUT_MS);
    let shell = |program: &str| {
        Command::new(program)
            .arg("-c")
            .arg(command)
            .current_dir(cwd)
            .env_remove("ANTHROPIC_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    };
    let mut child = shell("bash")
        .or_else(|e| if e.kind() == io::ErrorKind::NotFound { shell("sh") } else { Err(e) })
        .map_err(|e| format!("the shell cannot be started: {e}"))?;
    let mut group = Group(child.id());
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("the shell has no output".into());
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let reading = async { tokio::join!(capture(stdout, &mut out), capture(stderr, &mut err)) };
        tokio::pin!(reading);
        let mut all_read = false;
        let waiting = async {
            loop {
                tokio::select! {
                    status = child.wait() => return (status, all_read),
                    _ = &mut reading, if !all_read => all_read = true,
                }
            }
        };
        match tokio::time::timeout(Duration::from_millis(limit), waiting).await {
            Ok((status, all_read)) => {
                group.0 = None;
                if !all_read {
                    // why: whoever still holds the pipes was put into the background; its output is not awaited.
                    let _ = tokio::time::timeout(LINGER, &mut reading).await;
                }
                Some(status.map_err(|e| format!("the command cannot be awaited: {e}"))?)
            }
            Err(_) => None,
        }
    };
    let (out, err) = (shown(&out), shown(&err));
    let both = [out.as_str(), err.as_str()].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("\n");
    let Some(status) = status else {
        drop(group);
        return Err(format!("Command timed out after {limit} ms\n{both}").trim_end().to_owned());
    };
    if status.success() {
        let content = if both.is_empty() { "(Bash completed with no output)".to_owned() } else { both };
        return Ok(Done::good(
            content,
            json!({"stdout": out, "stderr": err, "interrupted": false, "isImage": false, "noOutputExpected": false}),
        ));
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Err(format!("Exit code {code}\n{both}").trim_end().to_owned())
}

/// The command's process group, killed when dropped while set.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // why: set only while the child is not awaited, so the number is still its; it may have ended just now.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Reads to the end, keeps the first [`MAX_OUTPUT`] bytes.
async fn capture(mut stream: impl AsyncRead + Unpin, kept: &mut Vec<u8>) {
    let mut buffer = [0; 8192];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        // One byte more than shown, to tell that something is missing.
        let room = (MAX_OUTPUT + 1).saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]);
    let text = text.trim_end();
    if bytes.len() > MAX_OUTPUT { format!("{text}\n[output over {MAX_OUTPUT} bytes is cut]") } else { text.to_owned() }
}

fn place(input: &Map<String, Value>, cwd: &Path) -> Result<(String, PathBuf), String> {
    let written = text(input, "file_path")?;
    Ok((written.to_owned(), cwd.join(written)))
}

/// A regular file's text; never waits on pipes or devices.
fn contents(path: &Path, shown: &str) -> Result<String, String> {
    let fail = |e: io::Error| format!("{shown}: {e}");
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(format!("{shown}: not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{shown}: over {MAX_FILE} bytes"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn store(path: &Path, shown: &str, text: &str) -> Result<(), String> {
    let fail = |e: io::Error| format!("{shown}: {e}");
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{shown}: over {MAX_FILE} bytes"));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let mut file = File::options().write(true).create(true).truncate(false).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(format!("{shown}: not a regular file"));
    }
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(fail)
}

fn read(input: &Map<String, Value>, cwd: &Path) -> Result<Done, String> {
    let (shown, path) = place(input, cwd)?;
    let text = contents(&path, &shown)?;
    let lines: Vec<&str> = text.lines().collect();
    let numbered = lines.iter().enumerate().map(|(i, l)| format!("{}\t{l}", i + 1)).collect::<Vec<_>>().join("\n");
    let file = json!({"filePath": shown, "content": text, "numLines": lines.len(), "startLine": 1, "totalLines": lines.len()});
    Ok(Done::good(numbered, json!({"type": "text", "file": file})))
}

fn write(input: &Map<String, Value>, cwd: &Path) -> Result<Done, String> {
    let (shown, path) = place(input, cwd)?;
    let content = text(input, "content")?;
    let existed = path.exists();
    store(&path, &shown, content)?;
    let kind = if existed { "update" } else { "create" };
    let said =
        if existed { format!("The file {shown} has been updated successfully.") } else { format!("File created successfully at: {shown}") };
    Ok(Done::good(said, json!({"type": kind, "filePath": shown, "content": content})))
}

fn edit(input: &Map<String, Value>, cwd: &Path) -> Result<Done, String> {
    let (shown, path) = place(input, cwd)?;
    let (old, new) = (text(input, "old_string")?, text(input, "new_string")?);
    let all = input.get("replace_all").and_then(Value::as_bool).unwrap_or(false);
    let before = contents(&path, &shown)?;
    match if old.is_empty() { 0 } else { before.matches(old).count() } {
        0 => return Err(format!("{shown}: old_string is not in the file")),
        n if n > 1 && !all => return Err(format!("{shown}: old_string is {n} times in the file; give more of it or replace_all")),
        _ => {}
    }
    store(&path, &shown, &before.replace(old, new))?;
    let detail = json!({"filePath": shown, "oldString": old, "newString": new, "replaceAll": all});
    Ok(Done::good(format!("The file {shown} has been updated successfully."), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(name: &str, input: Value, cwd: &Path) -> Done {
        run(name, input.as_object().unwrap(), cwd).await
    }

    #[tokio::test]
    async fn files_are_written_read_and_edited() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        assert!(!call("Write", json!({"file_path": "a/b.txt", "content": "one\ntwo\n"}), d).await.is_error);
        assert_eq!(call("Read", json!({"file_path": "a/b.txt"}), d).await.content, "1\tone\n2\ttwo");
        assert!(call("Edit", json!({"file_path": "a/b.txt", "old_string": "o", "new_string": "0"}), d).await.content.contains("2 times"));
        assert!(!call("Edit", json!({"file_path": "a/b.txt", "old_string": "two", "new_string": "2"}), d).await.is_error);
        assert_eq!(std::fs::read_to_string(d.join("a/b.txt")).unwrap(), "one\n2\n");
        for bad in [json!({"file_path": "a"}), json!({"file_path": "none"}), json!({"file_path": "/dev/zero"}), json!({})] {
            assert!(call("Read", bad, d).await.is_error);
        }
        assert!(call("Nothing", json!({}), d).await.is_error);
    }

    #[tokio::test]
    async fn commands_give_output_code_and_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        assert_eq!(call("Bash", json!({"command": "echo a; echo b >&2"}), d).await.content, "a\nb");
        assert_eq!(call("Bash", json!({"command": "true"}), d).await.content, "(Bash completed with no output)");
        assert_eq!(call("Bash", json!({"command": "echo x; exit 3"}), d).await.content, "Exit code 3\nx");
        assert_eq!(call("Bash", json!({"command": "kill -9 $$"}), d).await.content, "Exit code 137");
        let long = call("Bash", json!({"command": "head -c 1000000 /dev/zero | tr '\\0' x"}), d).await;
        assert!(long.content.len() < MAX_OUTPUT + 100 && long.content.ends_with("is cut]"));
        assert!(call("Bash", json!({"command": 1}), d).await.is_error);
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let done = call("Bash", json!({"command": "sleep 1000 & echo $!; wait", "timeout": 300}), dir.path()).await;
        assert!(done.content.starts_with("Command timed out after 300 ms"), "{}", done.content);
        let pid: i32 = done.content.lines().nth(1).unwrap().parse().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // Gone, or a zombie that waits for the reaper.
        let alive = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"));
        while alive(pid) {
            assert!(std::time::Instant::now() < deadline, "the child is still there");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_child_in_the_background_does_not_hold_the_call() {
        let dir = tempfile::tempdir().unwrap();
        let done =
            tokio::time::timeout(Duration::from_secs(5), call("Bash", json!({"command": "sleep 20 & echo $!"}), dir.path())).await.unwrap();
        assert!(!done.is_error);
        let pid = rustix::process::Pid::from_raw(done.content.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
