//! `beadle policy schema`: what a configuration of a standard policy may say, and what Cedar policies speak of. Needs no daemon.

use serde_json::{Value, json};

use super::args::schema::SchemaArgs;
use super::exit::{Exit, UsageError};
use super::text::safe;
use super::{Context, Outcome};
use crate::plugin::standard;

pub fn print(cx: &mut Context, args: &SchemaArgs) -> Outcome {
    let Some(name) = &args.name else {
        if cx.printer.json() {
            cx.printer.document(&json!({ "cedar": standard::CEDAR_SCHEMA }))?;
        } else {
            cx.printer.octets(standard::CEDAR_SCHEMA.as_bytes())?;
        }
        return Ok(Exit::Done);
    };
    let text = standard::schema(name).ok_or_else(|| {
        let known: Vec<&str> = standard::NAMES.iter().copied().filter(|n| standard::schema(n).is_some()).collect();
        UsageError(format!("there is no standard policy {} with a schema; known are {}", safe(name), known.join(", ")))
    })?;
    let schema: Value = serde_json::from_str(text)?;
    if cx.printer.json() {
        cx.printer.document(&schema)?;
    } else {
        cx.printer.octets(format!("{schema:#}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}
