//! `beadle plugin inspect`: all that is known about a component.

use serde::Serialize;
use serde_json::Value;

use super::{Stage, component, load};
use crate::cli::args::CheckArgs;
use crate::cli::exit::Exit;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::model::Grants;
use crate::plugin::contract::{self, Size};
use crate::plugin::{Kind, Limits, Want, kit};

#[derive(Serialize)]
struct Doc {
    file: String,
    name: String,
    version: String,
    purpose: String,
    kind: &'static str,
    moments: Vec<&'static str>,
    /// BLAKE3 of the component: what pins it.
    digest: String,
    size: Size,
    /// Machine code and the data beside it, in bytes.
    compiled_bytes: usize,
    memory: Memory,
    engine: Kind,
    engine_reason: String,
    snapshotted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsnapshotted_because: Option<String>,
    imports: Vec<String>,
    exports: Vec<String>,
    imports_wasi: bool,
    wants: Vec<Want>,
    config_schema: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    sdk: Option<String>,
}

/// Of one instance.
#[derive(Serialize)]
struct Memory {
    /// Pages of 64 KiB that it begins with, and that it may have at most.
    pages: u64,
    most_pages: u64,
    table_elements: u64,
}

pub async fn inspect(cx: &mut Context, args: CheckArgs) -> Outcome {
    let component = component(cx, &args.target)?;
    let fail = |e: crate::plugin::Error| super::coded(e.code(), &e);
    let plugin = load(&Stage::new()?.host, &component.name, &component.wasm, args.config, Grants::default()).await.map_err(fail)?;
    let look = contract::look(&component.name, &component.wasm, None).map_err(fail)?;
    let d = plugin.describe().clone();
    let (engine, reason) = plugin.engine();
    let footprint = plugin.footprint();
    let doc = Doc {
        file: component.file,
        name: d.name,
        version: d.version,
        purpose: d.purpose,
        kind: plugin.kind().as_str(),
        moments: plugin.moments().into_iter().map(|m| m.as_str()).collect(),
        digest: plugin.digest().to_owned(),
        size: contract::size(&component.wasm),
        compiled_bytes: footprint.compiled,
        memory: Memory { pages: footprint.pages, most_pages: (Limits::default().memory >> 16) as u64, table_elements: footprint.elements },
        engine,
        engine_reason: reason.to_owned(),
        snapshotted: plugin.snapshotted(),
        unsnapshotted_because: plugin.snapshot_note().map(str::to_owned),
        imports: look.imports,
        exports: look.exports,
        imports_wasi: plugin.imports_wasi(),
        wants: d.wants,
        config_schema: serde_json::from_str(&d.config_schema).unwrap_or(Value::String(d.config_schema)),
        sdk: look.sdk,
    };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        cx.printer.line(&doc.digest)?;
        return Ok(Exit::Done);
    }
    let none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let engine = match doc.engine {
        Kind::Small => "small",
        Kind::Large => "large",
    };
    let (s, m) = (&doc.size, &doc.memory);
    cx.printer.fields(&[
        ("plugin", safe(&format!("{} {}", doc.name, doc.version))),
        ("purpose", safe(&doc.purpose)),
        ("file", safe(&doc.file)),
        ("digest", doc.digest.clone()),
        ("kind", doc.kind.to_owned()),
        ("moments", none(doc.moments.iter().map(|m| (*m).to_owned()).collect())),
        ("exports", none(doc.exports.iter().map(|e| safe(e)).collect())),
        ("imports", none(doc.imports.iter().map(|i| safe(i)).collect())),
        ("wants", none(doc.wants.iter().map(|w| safe(&format!("{} ({})", w.capability, w.reason))).collect())),
        ("size", format!("{} bytes: code {}, data {}, names {}, the rest {}", s.total, s.code, s.data, s.names, s.rest())),
        ("compiled", format!("{} bytes", doc.compiled_bytes)),
        ("memory", format!("{} pages of 64 KiB before a call, {} at most; {} table elements", m.pages, m.most_pages, m.table_elements)),
        ("engine", format!("{engine}: {}", safe(&doc.engine_reason))),
        (
            "snapshot",
            match &doc.unsnapshotted_because {
                None => "yes: calls start from the memory as `configure` left it".to_owned(),
                Some(why) => format!("no: {}; each call configures anew", safe(why)),
            },
        ),
        ("config", safe(&doc.config_schema.to_string())),
        (
            "sdk",
            match &doc.sdk {
                None => "it does not say (not made by `beadle plugin build`)".to_owned(),
                Some(d) if *d == kit::digest() => "of this beadle".to_owned(),
                Some(d) => format!("of another beadle ({})", safe(&d.chars().take(16).collect::<String>())),
            },
        ),
    ])?;
    Ok(Exit::Done)
}
