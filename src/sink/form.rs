//! One event as a document: a line of `jsonl`, the data of a CloudEvent. Pure.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::{SinkEvent, format_ms};

#[derive(Serialize)]
struct Document<'a> {
    session: &'a str,
    seq: u64,
    at: String,
    attempt: u32,
    kind: &'a str,
    body: &'a RawValue,
    hash: &'a str,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    labels: &'a std::collections::BTreeMap<String, String>,
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    r#type: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    /// Extension `sequence`: the place in its session's order.
    sequence: String,
    data: Document<'a>,
}

/// Without a line end. Errors: the body is not JSON, so no document can hold it.
pub fn line(e: &SinkEvent) -> Result<String, String> {
    let text = serde_json::to_string(&document(e)?).map_err(|e| e.to_string())?;
    // why: a body is kept byte for byte, and JSON may hold line ends between its parts.
    if text.contains('\n') {
        let plain: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        return Ok(plain.to_string());
    }
    Ok(text)
}

/// CloudEvents 1.0, structured; `source` names the host.
pub fn cloud_event(e: &SinkEvent, source: &str) -> Result<String, String> {
    let event = CloudEvent {
        specversion: "1.0",
        id: format!("{}/{}", e.session, e.seq),
        source,
        r#type: format!("beadle.{}", e.kind),
        subject: &e.session,
        time: format_ms(e.at),
        datacontenttype: "application/json",
        // why padded: receivers compare the strings.
        sequence: format!("{:020}", e.seq),
        data: document(e)?,
    };
    serde_json::to_string(&event).map_err(|e| e.to_string())
}

fn document(e: &SinkEvent) -> Result<Document<'_>, String> {
    let body: &RawValue = serde_json::from_str(&e.body).map_err(|e| format!("its body is not JSON: {e}"))?;
    Ok(Document {
        session: &e.session,
        seq: e.seq,
        at: format_ms(e.at),
        attempt: e.attempt,
        kind: &e.kind,
        body,
        hash: &e.hash,
        labels: &e.labels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &str) -> SinkEvent {
        let labels = [("team".to_owned(), "x".to_owned())].into();
        SinkEvent { session: "s".into(), seq: 3, at: 0, attempt: 1, kind: "note".into(), body: body.into(), hash: "ab".into(), labels }
    }

    #[test]
    fn a_line_is_one_line_and_keeps_the_body() {
        let want = r#"{"session":"s","seq":3,"at":"1970-01-01T00:00:00.000Z","attempt":1,"kind":"note","body":{"n": 1.0e0},"hash":"ab","labels":{"team":"x"}}"#;
        assert_eq!(line(&event(r#"{"n": 1.0e0}"#)).unwrap(), want);
        assert!(!line(&event("{\n\"n\": 1}")).unwrap().contains('\n'));
        assert!(line(&event("{")).is_err());
    }

    #[test]
    fn a_cloud_event_has_the_attributes_of_the_standard() {
        let e: serde_json::Value = serde_json::from_str(&cloud_event(&event("{}"), "urn:beadle:k").unwrap()).unwrap();
        assert_eq!((e["specversion"].as_str(), e["id"].as_str(), e["type"].as_str()), (Some("1.0"), Some("s/3"), Some("beadle.note")));
        assert_eq!((e["sequence"].as_str(), e["data"]["seq"].as_u64()), (Some("00000000000000000003"), Some(3)));
    }
}
