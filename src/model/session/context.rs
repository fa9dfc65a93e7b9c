//! The context providers of a session, folded from its events.

use crate::model::context::{CONTEXT_PROVIDERS_MAX, ContextProvider, SessionContext};
use crate::model::event::Event;
use crate::model::session::Session;

impl Session {
    /// The same with providers that the log is about to name.
    #[must_use]
    pub fn with_context(mut self, providers: Vec<ContextProvider>) -> Self {
        self.context = providers.into_iter().map(|provider| SessionContext { provider, asked: false }).collect();
        self
    }
}

/// In the order in which they were added; one of a name that is there takes its place.
pub(super) fn fold(all: &mut Vec<SessionContext>, event: &Event) {
    match event {
        Event::ContextProviderAdded(a) => {
            let new = SessionContext { provider: a.provider.clone(), asked: false };
            let room = all.len() < CONTEXT_PROVIDERS_MAX;
            match all.iter_mut().find(|c| c.provider.name == a.provider.name) {
                Some(old) => *old = new,
                None if room => all.push(new),
                None => {}
            }
        }
        Event::ContextProviderRemoved(r) => all.retain(|c| c.provider.name != r.name),
        // why not of one that failed: it is asked again until its context was given.
        Event::ContextAdded(a) if a.failed.is_none() => {
            all.iter_mut().filter(|c| c.provider.name == a.provider).for_each(|c| c.asked = true)
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::context::{ContextAt, ContextSource};
    use crate::model::event::{Actor, ContextAdded, ContextProviderAdded, ContextProviderRemoved};

    #[test]
    fn providers_come_go_and_are_no_more_than_there_can_be() {
        let mut all = Vec::new();
        let add = |name: &str, max_bytes| -> Event {
            let source = ContextSource::Files { paths: vec!["a".into()] };
            let provider = ContextProvider { name: name.into(), source, at: vec![ContextAt::Start], max_bytes, required: false };
            ContextProviderAdded { provider, by: Actor::host() }.into()
        };
        for n in 0..CONTEXT_PROVIDERS_MAX + 3 {
            fold(&mut all, &add(&n.to_string(), 1));
        }
        assert_eq!(all.len(), CONTEXT_PROVIDERS_MAX);
        fold(&mut all, &ContextAdded { provider: "1".into(), failed: Some("no".into()), ..ContextAdded::default() }.into());
        assert!(!all[1].asked, "what failed was not given");
        fold(&mut all, &ContextAdded { provider: "1".into(), ..ContextAdded::default() }.into());
        assert_eq!(all.iter().filter(|c| c.asked).count(), 1);
        fold(&mut all, &add("1", 7));
        assert_eq!((all.len(), all[1].asked, all[1].provider.max_bytes), (CONTEXT_PROVIDERS_MAX, false, 7));
        fold(&mut all, &ContextProviderRemoved { name: "1".into(), by: Actor::host() }.into());
        assert_eq!((all.len(), all[1].provider.name.as_str()), (CONTEXT_PROVIDERS_MAX - 1, "2"));
    }
}
