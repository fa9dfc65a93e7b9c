//! `beadle plugin build`: from a project to its component.

use std::time::Instant;

use serde::Serialize;

use super::check;
use super::project::Project;
use crate::cli::args::BuildArgs;
use crate::cli::exit::Exit;
use crate::cli::text::safe;
use crate::cli::{Context, Outcome};
use crate::plugin::contract::{Finding, Weight};

#[derive(Serialize)]
struct Doc<'a> {
    name: &'a str,
    file: String,
    bytes: usize,
    digest: String,
    kind: Option<&'static str>,
    sdk: &'static str,
    findings: &'a [Finding],
    elapsed_ms: u128,
}

pub fn build(cx: &mut Context, args: BuildArgs) -> Outcome {
    let began = Instant::now();
    let project = Project::find(&args.dir)?;
    if args.update_sdk {
        project.write_sdk()?;
    }
    let sdk = project.sdk();
    if let Some(remark) = sdk.remark() {
        cx.printer.note(&remark)?;
    }
    let file = args.output.clone().unwrap_or_else(|| project.component());
    let built = project.build_to(cx, args.offline, &file)?;
    let doc = Doc {
        name: &project.name,
        file: built.file.display().to_string(),
        bytes: built.wasm.len(),
        digest: blake3::hash(&built.wasm).to_hex().to_string(),
        kind: built.look.kind.map(|k| k.as_str()),
        sdk: sdk.as_str(),
        findings: &built.look.findings,
        elapsed_ms: began.elapsed().as_millis(),
    };
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else if cx.printer.quiet() {
        cx.printer.line(&safe(&doc.file))?;
    } else {
        let kind = doc.kind.unwrap_or("component of no kind");
        let seconds = began.elapsed().as_secs_f64();
        cx.printer.line(&format!(
            "built {} ({kind}, {} bytes, digest {}) in {seconds:.1} s",
            safe(&doc.file),
            doc.bytes,
            &doc.digest[..16]
        ))?;
        check::findings(cx, doc.findings)?;
    }
    let refused = doc.findings.iter().any(|f| f.weight == Weight::Refused);
    Ok(if refused { Exit::No } else { Exit::Done })
}
