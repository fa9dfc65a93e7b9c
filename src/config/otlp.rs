//! `config` of a `[[sink]]` of kind `otlp`: where an OpenTelemetry receiver listens, and what it is told.
//!
//! Why no `OTEL_EXPORTER_OTLP_*` variables: a daemon is started with a cleaned environment, by whoever types the first command; where data
//! leaves the machine stands in the operator's file, and secrets in files of their own.

use std::path::{Path, PathBuf};

use url::Url;

use super::Error;
use super::sinks::{SinkKind, path, variable};
use super::value::At;

const KEYS: &[&str] = &["url", "traces", "metrics", "content", "interval_ms", "bearer_file", "bearer_env", "headers_file", "resource"];
/// Most attributes that an operator adds to the resource.
const RESOURCE_MAX: usize = 32;
const HOUR_MS: u64 = 3_600_000;

/// Spans and metrics by OTLP/HTTP, as protobuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// The base; `v1/traces` and `v1/metrics` are added to its path.
    pub url: Url,
    pub traces: bool,
    pub metrics: bool,
    /// Words of prompts, inputs, outputs and reasons go along.
    pub content: bool,
    /// How often the sums of metrics are sent.
    pub interval_ms: u64,
    pub bearer_file: Option<PathBuf>,
    pub bearer_env: Option<String>,
    /// Further headers, one `name: value` a line; private, since they often hold a key.
    pub headers_file: Option<PathBuf>,
    /// Attributes added to the resource.
    pub resource: Vec<(String, String)>,
}

pub(super) fn read(at: At<'_, '_>, given: bool, base: &Path) -> Result<SinkKind, Error> {
    const URL: &str =
        "an https:// address without user name or password (http:// only to 127.0.0.1, [::1] or localhost), without /v1/traces";
    let mut url = None;
    let (mut traces, mut metrics, mut content, mut interval_ms) = (true, true, false, 15_000);
    let (mut bearer_file, mut bearer_env, mut headers_file, mut resource) = (None, None, None, vec![]);
    for (key, value) in if given { at.fields("sink.config", KEYS)? } else { vec![] } {
        let name = format!("sink.config.{key}");
        match key {
            "url" => {
                let parsed = super::operator::address(value.text(&name)?)
                    .filter(|u| u.query().is_none() && !u.path().ends_with("/v1/traces") && !u.path().ends_with("/v1/metrics"));
                // why not the value: an address may hold a token.
                url = Some(parsed.ok_or_else(|| at.wrong(&name, URL))?);
            }
            "traces" => traces = value.flag(&name)?,
            "metrics" => metrics = value.flag(&name)?,
            "content" => content = value.flag(&name)?,
            "interval_ms" => interval_ms = value.number(&name, 100, HOUR_MS)?,
            "bearer_file" => bearer_file = Some(path(value, &name, base)?),
            "bearer_env" => bearer_env = Some(variable(value, &name)?),
            "headers_file" => headers_file = Some(path(value, &name, base)?),
            _ => resource = attributes(value, &name)?,
        }
    }
    let url = url.ok_or_else(|| at.wrong("sink.config.url", URL))?;
    if !traces && !metrics {
        return Err(at.wrong("sink.config.traces", "traces or metrics, or both: with neither there is nothing to send"));
    }
    Ok(SinkKind::Otlp(Box::new(OtlpConfig { url, traces, metrics, content, interval_ms, bearer_file, bearer_env, headers_file, resource })))
}

fn attributes(at: At<'_, '_>, key: &str) -> Result<Vec<(String, String)>, Error> {
    let wrong = || at.wrong(key, "attributes as \"deployment.environment.name=prod\", up to 256 bytes each");
    let pair = |t: String| {
        let (k, v) = t.split_once('=').filter(|(k, v)| !k.is_empty() && !v.is_empty() && t.len() <= 256)?;
        Some((k.to_owned(), v.to_owned()))
    };
    at.texts(key, RESOURCE_MAX)?.into_iter().map(|t| pair(t).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sinks;
    use super::super::value::Source;
    use super::*;

    fn parsed(config: &str) -> Result<SinkKind, Error> {
        let text = format!("[[sink]]\nname = \"a\"\nkind = \"otlp\"\nconfig = {{ {config} }}");
        let source = Source::new(Path::new("/etc/b/beadle.toml"), &text);
        sinks::read(&source, &source.parse()?).map(|r| r.sinks[0].kind.clone())
    }

    #[test]
    fn an_address_is_enough_and_words_stay_here() {
        let Ok(SinkKind::Otlp(c)) = parsed("url = \"http://127.0.0.1:4318\"") else { panic!("it is one") };
        assert!((c.traces, c.metrics, c.content, c.interval_ms) == (true, true, false, 15_000) && c.headers_file.is_none());
        let more =
            "url = \"https://o.example\", headers_file = \"keys\", resource = [\"deployment.environment.name=prod\"], metrics = false";
        let Ok(SinkKind::Otlp(c)) = parsed(more) else { panic!("it is one") };
        assert_eq!(c.headers_file.as_deref(), Some(Path::new("/etc/b/keys")));
        assert_eq!(c.resource, [("deployment.environment.name".to_owned(), "prod".to_owned())]);
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_with_its_place() {
        for (config, says) in [
            ("", "sink.config.url"),
            ("url = \"http://example.org\"", "sink.config.url"),
            ("url = \"https://o.example/v1/traces\"", "sink.config.url"),
            ("url = \"https://o.example\", traces = false, metrics = false", "sink.config.traces"),
            ("url = \"https://o.example\", interval_ms = 5", "sink.config.interval_ms"),
            ("url = \"https://o.example\", resource = [\"x\"]", "sink.config.resource"),
            ("url = \"https://o.example\", bearer_env = \"HOME\"", "sink.config.bearer_env"),
        ] {
            let e = parsed(config).expect_err(config).to_string();
            assert!(e.contains(says) && e.contains("beadle.toml:"), "{config}: {e}");
        }
    }
}
