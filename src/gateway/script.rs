//! The script: its file format, its checks, and which step answers which request.
//!
//! Pure: no I/O but [`Script::load`]. The format is described in the module [`super`].

use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;
use super::anthropic::Request;
use super::forms::{Condition, Failure};

/// Largest script file, in bytes.
pub const MAX_SCRIPT: u64 = 8 * 1024 * 1024;
/// Most steps over all lanes of a script.
pub const MAX_STEPS: usize = 10_000;
/// Most lanes of a script.
const MAX_LANES: usize = 256;
/// Longest wait that a step may ask for.
const MAX_DELAY_MS: u64 = 600_000;
/// Most repetitions of a step.
const MAX_TIMES: u32 = 1_000_000;
/// The name of the lane made of the top-level steps.
const MAIN: &str = "main";

/// A checked script and how far it has been played.
#[derive(Debug, Clone)]
pub struct Script {
    lanes: Vec<Lane>,
    side: Step,
    end: Step,
    usage: Tokens,
}

/// Token counts of one answer, in the API's sense: `in` excludes both cache counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    #[serde(rename = "in", default = "Tokens::default_input")]
    pub input: u64,
    #[serde(rename = "out", default = "Tokens::default_output")]
    pub output: u64,
    #[serde(default)]
    pub cache_read: u64,
    #[serde(default)]
    pub cache_write: u64,
}

impl Tokens {
    const fn default_input() -> u64 {
        1200
    }

    const fn default_output() -> u64 {
        34
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { input: 1200, output: 34, cache_read: 1000, cache_write: 50 }
    }
}

/// How often each step of a lane has played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneState {
    pub lane: String,
    pub played: Vec<u32>,
    /// Steps that never played.
    pub unused: usize,
}

/// The answer to one request and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// The lane; `None` for `side`.
    pub lane: Option<String>,
    /// The step's index in its lane; `None` for `side` and `end`.
    pub step: Option<usize>,
    pub(super) play: Step,
    pub(super) usage: Tokens,
}

impl Chosen {
    /// The HTTP status it is answered with; 0 when the connection is cut without an answer.
    pub fn status(&self) -> u16 {
        match (&self.play.error, self.play.drop) {
            (Some(e), _) => e.status,
            (None, Some(Cut::Before)) => 0,
            (None, _) => 200,
        }
    }
}

#[derive(Debug, Clone)]
struct Lane {
    name: String,
    condition: Condition,
    steps: Vec<Step>,
    played: Vec<u32>,
}

/// One answer as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub thinking: Option<String>,
    pub text: Option<String>,
    tool: Option<String>,
    input: Option<Map<String, Value>>,
    #[serde(default)]
    pub tools: Vec<Tool>,
    pub error: Option<Failure>,
    pub drop: Option<Cut>,
    pub usage: Option<Tokens>,
    #[serde(default)]
    pub delay_ms: u64,
    #[serde(default)]
    pub event_delay_ms: u64,
    when: Option<Condition>,
    times: Option<u32>,
    pub stop_reason: Option<String>,
    pub model: Option<String>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub name: String,
    pub input: Map<String, Value>,
    pub id: Option<String>,
}

/// Where the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cut {
    Before,
    Middle,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    steps: Vec<Step>,
    #[serde(default)]
    lanes: Vec<LaneDocument>,
    side: Option<Step>,
    end: Option<Step>,
    #[serde(default)]
    usage: Tokens,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LaneDocument {
    name: String,
    #[serde(rename = "match")]
    condition: Condition,
    steps: Vec<Step>,
}

impl Script {
    /// Reads and checks a script file; at most [`MAX_SCRIPT`] bytes.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(MAX_SCRIPT + 1).read_to_string(&mut text).map_err(fail)?;
        Self::parse(&text)
    }

    /// Checks a script: JSON text of the form that the module describes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() as u64 > MAX_SCRIPT {
            return Err(Error::TooLarge { size: text.len() as u64 });
        }
        let document: Document = serde_json::from_str(text).map_err(|e| Error::Syntax(e.to_string()))?;
        let mut lanes = Vec::new();
        for lane in document.lanes {
            let place = format!("lane {:?}", lane.name);
            if lane.name.is_empty() || lane.name == MAIN || lanes.iter().any(|l: &Lane| l.name == lane.name) {
                return invalid(&place, format!("a lane's name must be unique, not empty and not {MAIN:?}"));
            }
            if lane.condition == Condition::default() {
                return invalid(&place, "`match` is empty: it would take every request; write these steps at the top level".into());
            }
            lanes.push(Lane::new(lane.name, lane.condition, lane.steps, &place)?);
        }
        let tools = Condition { tools: Some(true), ..Condition::default() };
        lanes.push(Lane::new(MAIN.into(), tools, document.steps, "steps")?);
        let count: usize = lanes.iter().map(|l| l.steps.len()).sum();
        if lanes.len() > MAX_LANES + 1 || count > MAX_STEPS {
            return invalid("script", format!("{count} steps in {} lanes, the caps are {MAX_STEPS} and {MAX_LANES}", lanes.len() - 1));
        }
        if count == 0 {
            return invalid("script", "there is no step; give `steps` or `lanes`".into());
        }
        let fixed = |given: Option<Step>, place: &str, text: &str| match given {
            Some(step) => {
                if step.when.is_some() || step.times.is_some() {
                    return invalid(place, "`when` and `times` have no meaning here".into());
                }
                step.checked(place)
            }
            None => Ok(Step { text: Some(text.into()), ..Step::default() }),
        };
        let mut side = fixed(document.side, "side", "ok")?;
        side.usage = side.usage.or(Some(Tokens { input: 10, output: 1, cache_read: 0, cache_write: 0 }));
        Ok(Self { lanes, side, end: fixed(document.end, "end", "done.")?, usage: document.usage })
    }

    /// The answer to `request`; uses up the step that gives it.
    pub(super) fn choose(&mut self, request: &Request<'_>) -> Chosen {
        let chosen = |lane: Option<&str>, step, play: &Step| Chosen {
            lane: lane.map(str::to_owned),
            step,
            play: play.clone(),
            usage: play.usage.unwrap_or(self.usage),
        };
        let Some(lane) = self.lanes.iter_mut().find(|l| l.takes(request)) else {
            return chosen(None, None, &self.side);
        };
        for (i, step) in lane.steps.iter().enumerate() {
            if lane.played[i] < step.times.unwrap_or(1) && step.when.as_ref().is_none_or(|c| c.holds(request)) {
                lane.played[i] += 1;
                return chosen(Some(&lane.name), Some(i), step);
            }
        }
        chosen(Some(&lane.name), None, &self.end)
    }

    /// Plays from the start again.
    pub fn reset(&mut self) {
        for lane in &mut self.lanes {
            lane.played.fill(0);
        }
    }

    /// How far it has been played, lane by lane.
    pub fn state(&self) -> Vec<LaneState> {
        let unused = |l: &Lane| l.played.iter().filter(|n| **n == 0).count();
        self.lanes.iter().map(|l| LaneState { lane: l.name.clone(), played: l.played.clone(), unused: unused(l) }).collect()
    }
}

impl Lane {
    fn new(name: String, condition: Condition, steps: Vec<Step>, place: &str) -> Result<Self, Error> {
        let steps: Vec<Step> = steps.into_iter().enumerate().map(|(i, s)| s.checked(&format!("{place}[{i}]"))).collect::<Result<_, _>>()?;
        Ok(Self { name, condition, played: vec![0; steps.len()], steps })
    }

    /// Requests without tools go only where they are asked for.
    fn takes(&self, request: &Request<'_>) -> bool {
        (request.offers_tools() || self.condition.tools == Some(false)) && self.condition.holds(request)
    }
}

impl Step {
    /// Brings `tool` into `tools` and refuses what makes no sense together.
    fn checked(mut self, place: &str) -> Result<Self, Error> {
        match (self.tool.take(), self.input.take()) {
            (Some(name), input) if self.tools.is_empty() => {
                self.tools.push(Tool { name, input: input.unwrap_or_default(), id: None });
            }
            (Some(_), _) => return invalid(place, "both `tool` and `tools`; give one".into()),
            (None, Some(_)) => return invalid(place, "`input` without `tool`".into()),
            (None, None) => {}
        }
        let content = self.text.is_some() || self.thinking.is_some() || !self.tools.is_empty();
        match (&self.error, self.drop, content) {
            (Some(_), Some(_), _) | (Some(_), _, true) => return invalid(place, "`error` goes with neither content nor `drop`".into()),
            (None, Some(Cut::Before), true) => return invalid(place, "`drop`: `before` sends nothing, so it takes no content".into()),
            (None, Some(Cut::Middle) | None, false) => {
                return invalid(place, "nothing to answer; give `text`, `tool`, `tools`, `thinking`, `error` or `drop`: `before`".into());
            }
            _ => {}
        }
        if let Some(e) = &self.error
            && !(400..=599).contains(&e.status)
        {
            return invalid(place, format!("error status {} is not between 400 and 599", e.status));
        }
        for (key, ms) in [("delay_ms", self.delay_ms), ("event_delay_ms", self.event_delay_ms)] {
            if ms > MAX_DELAY_MS {
                return invalid(place, format!("{key} = {ms} is over the cap of {MAX_DELAY_MS}"));
            }
        }
        if let Some(n) = self.times
            && !(1..=MAX_TIMES).contains(&n)
        {
            return invalid(place, format!("times = {n} is not between 1 and {MAX_TIMES}"));
        }
        if let Some(t) = self.tools.iter().find(|t| t.name.is_empty() || t.name.len() > 256) {
            return invalid(place, format!("tool name {:?} must have 1 to 256 bytes", t.name.chars().take(32).collect::<String>()));
        }
        Ok(self)
    }
}

fn invalid<T>(place: &str, what: String) -> Result<T, Error> {
    Err(Error::Invalid { place: place.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn play(script: &mut Script, body: &Value) -> (Option<String>, Option<usize>, String) {
        let c = script.choose(&Request::new(body));
        (c.lane, c.step, c.play.text.unwrap_or_default())
    }

    fn ask(text: &str) -> Value {
        json!({"model": "m", "tools": [{"name": "Bash"}], "messages": [{"role": "user", "content": text}]})
    }

    #[test]
    fn steps_play_in_order_and_then_the_end_answers() {
        let mut s = Script::parse(r#"{"steps": [{"text": "a", "times": 2}, {"text": "b"}]}"#).unwrap();
        let texts: Vec<String> = (0..4).map(|_| play(&mut s, &ask("x")).2).collect();
        assert_eq!(texts, ["a", "a", "b", "done."]);
        assert_eq!(s.state()[0].played, [2, 1]);
        s.reset();
        assert_eq!(play(&mut s, &ask("x")).2, "a");
    }

    #[test]
    fn a_condition_passes_over_a_step_and_leaves_it() {
        let mut s = Script::parse(r#"{"steps": [{"when": {"last": "no \"way\""}, "text": "refused"}, {"text": "ran"}]}"#).unwrap();
        assert_eq!(play(&mut s, &ask("fine")).2, "ran");
        assert_eq!(play(&mut s, &ask("said: no \"way\"")).2, "refused");
    }

    #[test]
    fn a_sub_agent_finds_its_lane_by_its_own_opening_only() {
        let mut s = Script::parse(
            r#"{"lanes": [{"name": "sub", "match": {"opening": "Find it"}, "steps": [{"text": "found"}]}], "steps": [{"text": "m1"}, {"text": "m2"}]}"#,
        )
        .unwrap();
        assert_eq!(play(&mut s, &ask("go")), (Some("main".into()), Some(0), "m1".into()));
        assert_eq!(play(&mut s, &ask("Find it")), (Some("sub".into()), Some(0), "found".into()));
        let mut later = ask("go");
        later["messages"].as_array_mut().unwrap().extend([
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "Task", "input": {"prompt": "Find it"}}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "found"}]}),
        ]);
        assert_eq!(play(&mut s, &later), (Some("main".into()), Some(1), "m2".into()));
        assert_eq!(play(&mut s, &ask("Find it")), (Some("sub".into()), None, "done.".into()));
    }

    #[test]
    fn requests_without_tools_use_no_step_unless_a_lane_asks_for_them() {
        let side = json!({"model": "m", "messages": [{"role": "user", "content": "Summarise"}]});
        let mut s = Script::parse(r#"{"steps": [{"text": "a"}]}"#).unwrap();
        assert_eq!(play(&mut s, &side), (None, None, "ok".into()));
        let mut s = Script::parse(
            r#"{"steps": [{"text": "a"}], "lanes": [{"name": "sum", "match": {"tools": false, "anywhere": "Summarise"}, "steps": [{"text": "short"}]}]}"#,
        )
        .unwrap();
        assert_eq!(play(&mut s, &side).2, "short");
        assert_eq!(play(&mut s, &ask("Summarise")).2, "a");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, names) in [
            (r#"{"steps": [{"txt": "a"}]}"#, "`txt`"),
            (r#"{"steps": [{"text": "a", "when": {"lost": "x"}}]}"#, "`lost`"),
            (r#"{"steps": [{"error": {"status": 529, "retry": 1}}]}"#, "`retry`"),
            (r#"{"steps": [{"error": 200}]}"#, "status 200"),
            (r#"{"steps": [{"text": "a"}, {}]}"#, "steps[1]"),
            (r#"{"steps": [{"tool": "Bash", "input": "ls"}]}"#, "invalid type: string"),
            (r#"{"steps": [{"text": "a", "error": 500}]}"#, "`error` goes with"),
            (r#"{"steps": [{"text": "a", "when": ""}]}"#, "empty"),
            (r#"{"steps": [{"text": "a", "delay_ms": 600001}]}"#, "delay_ms"),
            (r#"{"lanes": [{"name": "main", "match": "x", "steps": []}]}"#, "unique"),
            (r#"{"steps": []}"#, "no step"),
            ("[]", "expected struct"),
        ] {
            let e = Script::parse(text).unwrap_err().to_string();
            assert!(e.contains(names) || names == "expected struct", "{text}: {e}");
        }
    }
}
