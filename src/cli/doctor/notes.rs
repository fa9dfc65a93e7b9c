//! A tool server of two tools over stdio (the Model Context Protocol), for the check that such tools are gated. Hidden command.

use std::io::{BufRead, Write};
use std::path::Path;

use serde_json::{Value, json};

/// Longest request line.
const LINE_MAX: u64 = 1 << 20;

/// Serves until the end of its input; each call appends its tool's name to `log`.
pub fn serve(log: &Path) -> anyhow::Result<()> {
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut line = String::new();
    loop {
        line.clear();
        if std::io::Read::take(&mut input, LINE_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(id) = request.get("id") else { continue };
        let result = answer(&request, log)?;
        writeln!(out, "{}", json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
        out.flush()?;
    }
}

fn answer(request: &Value, log: &Path) -> anyhow::Result<Value> {
    let schema = json!({ "type": "object", "properties": { "text": { "type": "string" } } });
    Ok(match request["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": request["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "doctor", "version": env!("CARGO_PKG_VERSION") },
        }),
        Some("tools/list") => {
            let tool = |name: &str| json!({ "name": name, "description": name, "inputSchema": schema });
            json!({ "tools": [tool("note"), tool("erase")] })
        }
        Some("tools/call") => {
            let name = request["params"]["name"].as_str().unwrap_or_default();
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
            writeln!(file, "{name}")?;
            json!({ "content": [{ "type": "text", "text": "noted" }] })
        }
        _ => json!({}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_on_record() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let call = json!({ "id": 1, "method": "tools/call", "params": { "name": "note" } });
        assert_eq!(answer(&call, &log).expect("an answer")["content"][0]["text"], "noted");
        assert_eq!(std::fs::read_to_string(&log).expect("a log"), "note\n");
        let list = answer(&json!({ "method": "tools/list" }), &log).expect("an answer");
        assert_eq!(list["tools"].as_array().map(Vec::len), Some(2));
    }
}
