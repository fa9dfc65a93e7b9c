//! What happens seldom in a session: compactions, limits that are exceeded, invocations that other programs report.

use super::*;

impl Teller<'_> {
    pub(super) fn compacted(&mut self, c: &ContextCompacted) -> Result<()> {
        let mut a = self.common().with(names::TRIGGER, c.trigger.as_str());
        a.maybe(names::STRATEGY, c.host.as_ref().map(|h| h.strategy.as_str()));
        a.maybe(names::TOKENS_BEFORE, c.tokens_before);
        a.maybe(names::TOKENS_AFTER, c.tokens_after);
        let begun = if c.host.is_some() { self.compaction_began()? } else { self.e.at };
        let parent = self.parent(self.e.attempt, None);
        let s = self.own("compact".to_owned(), parent, begun, a);
        self.out.spans.push(s);
        let who = if c.host.is_some() { "host" } else { "agent" };
        self.out.points.push(Point::new(&names::COMPACTIONS, 1.0, &[(names::RESULT, "compacted"), (names::BY, who)]));
        Ok(())
    }

    pub(super) fn not_compacted(&mut self, c: &CompactionFailed) -> Result<()> {
        let a = self.common().with(names::TRIGGER, c.trigger.as_str()).with(names::STRATEGY, c.strategy.as_str());
        let begun = self.compaction_began()?;
        let parent = self.parent(self.e.attempt, None);
        let mut s = self.own("compact".to_owned(), parent, begun, a);
        failed(&mut s, &c.code, &c.stage);
        self.out.spans.push(s);
        self.out.points.push(Point::new(&names::COMPACTIONS, 1.0, &[(names::RESULT, "failed"), (names::BY, "host")]));
        Ok(())
    }

    /// When the host's compaction began that ends with this event; now where none did since the last end.
    fn compaction_began(&self) -> Result<i64> {
        let mut begun = self.e.at;
        let kinds = ["compaction_began", "compaction_failed", "context_compacted"];
        self.log.back(&self.e.session, (0, self.e.seq), &kinds, &mut |p| {
            if p.kind == "compaction_began" {
                begun = p.at;
            }
            Ok(false)
        })?;
        Ok(begun)
    }

    pub(super) fn limited(&mut self, l: &UsageLimitExceeded) {
        let mut a = self.common().with("beadle.limit.max", l.max).with("beadle.limit.unit", l.unit.as_str());
        let what = serde_json::to_value(l.limit).ok().and_then(|v| Some(v.as_str()?.to_owned())).unwrap_or_default();
        a.add(names::LIMIT, what.as_str());
        a.maybe("beadle.limit.value", l.value);
        let mut s = self.own(format!("limit {what}"), ids::session(&self.e.session), self.e.at, a);
        failed(&mut s, "usage_limit_exceeded", &what);
        self.out.spans.push(s);
    }

    pub(super) fn invoked(&mut self, i: &InvocationRecorded) {
        let mut a = self.common().with("beadle.invocation.skill", i.skill.as_str());
        a.maybe(names::PHASE, i.phase.as_deref());
        a.maybe(names::REQUEST_MODEL, i.model.as_deref());
        a.maybe(names::RESULT, i.final_status.as_deref());
        a.add("beadle.invocation.attempts", i.attempts.len() as u64);
        let took = i64::try_from(i.duration_ms.unwrap_or(0)).unwrap_or(0);
        let parent = self.parent(self.e.attempt, None);
        let s = self.own(format!("invocation {}", i.skill), parent, self.e.at.saturating_sub(took), a);
        self.out.spans.push(s);
    }
}
