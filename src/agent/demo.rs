//! The built-in demo agent, as the host sees it: a program that speaks Claude's protocol and is started by its own recipe.
//!
//! Only the codec is shared with `claude`; the agent itself (`crate::demo`) shares no code with any driver. Its mediation
//! is `gate` by construction: it asks before each call and takes the end of its stdin for a denial. Called by `session`.

use super::claude::{self, Claude};
use super::{Answer, Callbacks, Driver, Error, Launch, LaunchRequest, Output, ReadState};
use crate::model::PromptContext;

/// The hidden subcommand of the host's own executable that is the agent.
const SUBCOMMAND: &str = "demo-agent";

/// The driver of the built-in demo agent.
#[derive(Debug, Clone, Copy)]
pub struct Demo;

impl Driver for Demo {
    fn name(&self) -> &'static str {
        "demo"
    }

    /// `request.program` is the host's own executable.
    fn launch(&self, request: &LaunchRequest) -> Result<Launch, Error> {
        let program = request.program.clone().filter(|p| !p.as_os_str().is_empty()).ok_or(Error::NoCommand)?;
        let mut args = vec![SUBCOMMAND.into()];
        args.extend(request.args.iter().map(Into::into));
        let (mediation, mediation_note) = claude::lowered(&request.unsafe_args);
        args.extend(request.unsafe_args.iter().map(Into::into));
        Ok(Launch {
            program,
            args,
            env: request.env.clone(),
            frames: claude::opening(request.prompt.as_deref(), &request.context, Callbacks::default()),
            mediation,
            mediation_note,
            keep_stdin: true,
            transcript: None,
            holds: false,
            resumes: false,
        })
    }

    fn read(&self, state: &mut ReadState, line: &[u8]) -> Vec<Output> {
        Claude.read(state, line)
    }

    fn answer(&self, request_id: &str, answer: Answer<'_>) -> Vec<u8> {
        Claude.answer(request_id, answer)
    }

    fn prompt(&self, text: &str, context: &[PromptContext]) -> Option<Vec<u8>> {
        Claude.prompt(text, context)
    }

    fn takes_context(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mediation;

    #[test]
    fn starts_the_hidden_subcommand_behind_the_gate() {
        let mut r = LaunchRequest {
            program: Some("/x/beadle".into()),
            args: vec!["--fast".into()],
            prompt: Some("go".into()),
            ..Default::default()
        };
        let l = Demo.launch(&r).expect("launch");
        assert_eq!(l.args, ["demo-agent", "--fast"]);
        assert_eq!((l.mediation, l.mediation_note, l.keep_stdin, l.frames.len()), (Mediation::Gate, None, true, 2));
        r.unsafe_args = vec!["--odd".into()];
        assert_eq!(Demo.launch(&r).expect("launch").mediation, Mediation::None);
    }
}
