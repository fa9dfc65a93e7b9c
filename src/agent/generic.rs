//! Any command: the host starts it, keeps its output and its process tree, and sees none of its tool calls.
//!
//! Mediation is `none`, and the command's own arguments and environment are passed on as given. Its output is not
//! interpreted: the log files hold it. Called by `session` through [`Driver`].

use super::{Answer, Driver, Error, Launch, LaunchRequest, Output, ReadState};
use crate::model::{Mediation, PromptContext};

/// The driver of commands that speak no protocol of ours.
#[derive(Debug, Clone, Copy)]
pub struct Generic;

impl Driver for Generic {
    fn name(&self) -> &'static str {
        "generic"
    }

    fn speaks(&self) -> bool {
        false
    }

    /// A prompt is a line on stdin, which then stays open for further ones; without a prompt stdin is closed at once.
    fn launch(&self, request: &LaunchRequest) -> Result<Launch, Error> {
        let program = request.program.clone().filter(|p| !p.as_os_str().is_empty()).ok_or(Error::NoCommand)?;
        Ok(Launch {
            program,
            args: request.args.iter().chain(&request.unsafe_args).map(Into::into).collect(),
            env: request.env.clone(),
            frames: request.prompt.as_deref().and_then(|p| self.prompt(p, &[])).into_iter().collect(),
            mediation: Mediation::None,
            mediation_note: None,
            keep_stdin: request.prompt.is_some(),
            transcript: None,
            holds: false,
            resumes: false,
        })
    }

    fn starts_tool_server(&self) -> bool {
        true
    }

    fn read(&self, _state: &mut ReadState, _line: &[u8]) -> Vec<Output> {
        vec![Output::Quiet]
    }

    /// Such a command asks nothing, so there is nothing to write.
    fn answer(&self, _request_id: &str, _answer: Answer<'_>) -> Vec<u8> {
        Vec::new()
    }

    fn prompt(&self, text: &str, _context: &[PromptContext]) -> Option<Vec<u8>> {
        let mut line = text.as_bytes().to_vec();
        line.push(b'\n');
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_what_was_asked_and_promises_nothing() {
        let mut r = LaunchRequest { program: Some("make".into()), args: vec!["-p".into(), "--settings".into()], ..Default::default() };
        let l = Generic.launch(&r).expect("launch");
        assert_eq!((l.args.len(), l.mediation, l.keep_stdin, l.frames.len()), (2, Mediation::None, false, 0));
        r.prompt = Some("hello".into());
        let l = Generic.launch(&r).expect("launch");
        assert_eq!((l.keep_stdin, l.frames), (true, vec![b"hello\n".to_vec()]));
        r.program = None;
        assert!(matches!(Generic.launch(&r), Err(Error::NoCommand)));
        assert_eq!(Generic.read(&mut ReadState::default(), br#"{"type":"control_request"}"#), [Output::Quiet]);
    }
}
