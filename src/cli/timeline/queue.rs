//! Lines of a session's time in the queue.

use super::{LINE_MAX, Line, Tone, brief, line};
use crate::cli::text::safe;
use crate::model::Event;

/// The lines of one event of these; of others none.
pub fn lines(event: &Event) -> Vec<Line> {
    match event {
        Event::SessionQueued(q) => match &q.reason {
            Some(why) => {
                vec![line(Tone::Bad, format!("· back in lane {} ({} failed): {}", safe(&q.lane), q.failures, brief(why, LINE_MAX)))]
            }
            None => vec![line(Tone::Plain, format!("· queued in lane {}", safe(&q.lane)))],
        },
        Event::SessionClaimed(c) => {
            let who = c.worker.as_deref().map_or_else(|| "the host".to_owned(), |w| format!("worker {}", brief(w, 64)));
            vec![line(Tone::Plain, format!("· taken by {who} after {} ms", c.waited_ms))]
        }
        Event::QueueMoved(m) => vec![line(Tone::Dim, format!("· moved to lane {}, priority {}", safe(&m.lane), m.priority))],
        Event::QueueRetried(r) => vec![line(Tone::Plain, format!("· tried again as {}", safe(r.session.as_str())))],
        _ => vec![],
    }
}
