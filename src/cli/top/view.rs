//! The screen: sessions above, the questions and the story of the selected one below, keys in the last line.
//!
//! Everything an agent or a repository said goes through `safe` or `brief` before it is drawn.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Row, Table};

use super::state::{Mode, State};
use crate::api::types::{Money, SessionDoc};
use crate::cli::approvals::card;
use crate::cli::printer::Tone;
use crate::cli::text::{age, brief, cost_cell, count, kib, safe};
use crate::model::Effect;

/// Fewest lines and columns in which something useful fits.
const ROOM: (u16, u16) = (8, 40);
const HELP: &[&str] = &[
    "y        allow the selected question: type a reason or none, then Enter",
    "n        deny it, the same way",
    "Esc      take an answer back; otherwise end",
    "up down  select a question (also k, j)",
    "PgDn     read on in its story (also space); PgUp goes back",
    "Tab      select a session (Shift-Tab: the one before)",
    "p        pause the selected session, as `beadle pause` does; resume a paused one",
    "q        end; sessions go on",
    "",
    "any key goes back",
];

/// The last line where nothing is typed and nothing happened.
const KEYS: &str = "y allow  n deny  up/down select  PgDn read on  Tab session  p pause  ? help  q end";

/// How things look; without colour nothing is lost but colour.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub colour: bool,
}

impl Look {
    fn style(self, tone: Tone) -> Style {
        let plain = Style::default();
        match (self.colour, tone) {
            (_, Tone::Strong) => plain.add_modifier(Modifier::BOLD),
            (false, _) | (_, Tone::Plain) => plain,
            (_, Tone::Good) => plain.fg(Color::Green),
            (_, Tone::Bad) => plain.fg(Color::Red),
            (_, Tone::Changed) => plain.fg(Color::Magenta),
            (_, Tone::Question) => plain.fg(Color::Yellow),
            (_, Tone::Dim) => plain.add_modifier(Modifier::DIM),
        }
    }
}

/// Draws all of it; `now` in milliseconds.
pub fn draw(frame: &mut Frame<'_>, s: &State, look: Look, now: i64) {
    let area = frame.area();
    if area.height < ROOM.0 || area.width < ROOM.1 {
        return frame.render_widget(Paragraph::new("the window is too small; q ends"), area);
    }
    let waiting = u16::try_from(s.look.approvals.len()).unwrap_or(u16::MAX);
    // Questions get half of the screen when there are any.
    let below = if waiting == 0 { 3 } else { (area.height / 2).max(4) };
    let [head, above, middle, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(2), Constraint::Length(below), Constraint::Length(1)]).areas(area);
    frame.render_widget(Line::styled(headline(s), look.style(Tone::Strong)), head);
    sessions(frame, s, look, now, above);
    approvals(frame, s, look, now, middle);
    frame.render_widget(footer(s, look), foot);
    if s.mode == Mode::Help {
        help(frame, area);
    }
}

fn headline(s: &State) -> String {
    let more = |m: bool| if m { "+" } else { "" };
    let (n, w) = (s.look.sessions.len(), s.look.approvals.len());
    let cost = costs(&s.look.sessions);
    format!("beadle top: {n}{} live, {w}{} waiting for a person{cost}", more(s.look.more_sessions), more(s.look.more_approvals))
}

/// What the sessions cost together; models without a price are named.
fn costs(sessions: &[SessionDoc]) -> String {
    let known = sessions.iter().filter_map(|d| d.cost.as_ref()).try_fold(None, |sum: Option<u64>, c| {
        let sum = sum.unwrap_or(0).checked_add(c.nanousd)?;
        Some(Some(sum))
    });
    let unpriced = sessions.iter().map(|d| d.unpriced_count).fold(0, u64::saturating_add);
    let models: std::collections::BTreeSet<String> = sessions.iter().flat_map(|d| d.unpriced.iter()).map(|m| brief(m, 40)).collect();
    let named = if models.is_empty() { String::new() } else { format!(", no price: {}", models.into_iter().collect::<Vec<_>>().join(" ")) };
    match known {
        Some(None) if unpriced == 0 => String::new(),
        Some(sum) => format!(", cost {}{named}", cost_cell(sum.map(Money::from).as_ref(), unpriced)),
        None => ", cost too much to add up".to_owned(),
    }
}

fn sessions(frame: &mut Frame<'_>, s: &State, look: Look, now: i64, area: Rect) {
    let header = ["", "NAME", "STATUS", "MEDIATION", "AGENT", "CALLS", "WAIT", "TOKENS", "COST", "MEMORY", "AGE", "LAST WORDS"];
    let widths = [1, 16, 9, 9, 8, 6, 4, 9, 9, 9, 4].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let at = s.look.sessions.iter().position(|d| Some(&d.id) == s.session.as_ref());
    // The selected one is always in sight.
    let first = at.map_or(0, |at| at.saturating_sub(room - 1));
    let rows = s.look.sessions.iter().enumerate().skip(first).take(room).map(|(i, d)| {
        let memory = s.look.memory_kb.get(&d.id).copied();
        let tone = if d.breach_count > 0 {
            Tone::Bad
        } else if d.waiting_count > 0 {
            Tone::Question
        } else {
            Tone::Plain
        };
        let mark = if Some(i) == at { ">" } else { "" };
        Row::new(std::iter::once(mark.to_owned()).chain(cells(d, memory, now))).style(look.style(tone))
    });
    frame.render_widget(Table::new(rows, widths).header(Row::new(header).style(look.style(Tone::Dim))), area);
}

fn cells(d: &SessionDoc, memory: Option<u64>, now: i64) -> [String; 11] {
    [
        brief(&d.name, 16),
        d.status.as_str().to_owned(),
        d.mediation.as_str().to_owned(),
        brief(&d.agent, 8),
        count(d.call_count),
        if d.waiting_count > 0 { count(d.waiting_count) } else { String::new() },
        count(d.usage.total()),
        cost_cell(d.cost.as_ref(), d.unpriced_count),
        memory.map_or_else(|| "-".to_owned(), kib),
        age(&d.created_at, now),
        d.last_text.as_deref().map(|t| brief(t, 200)).unwrap_or_default(),
    ]
}

fn approvals(frame: &mut Frame<'_>, s: &State, look: Look, now: i64, area: Rect) {
    let block = Block::new().borders(Borders::TOP).title(" questions ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if s.look.approvals.is_empty() {
        return frame.render_widget(Line::styled("nothing waits for an answer", look.style(Tone::Dim)), inner);
    }
    let listed = u16::try_from(s.look.approvals.len()).unwrap_or(u16::MAX).min(inner.height / 3).max(1);
    let [list, story] = Layout::vertical([Constraint::Length(listed), Constraint::Fill(1)]).areas(inner);
    let at = s.look.approvals.iter().position(|a| Some(&a.id) == s.selected.as_ref()).unwrap_or(0);
    let first = at.saturating_sub(usize::from(listed) - 1);
    let lines: Vec<Line<'_>> = s
        .look
        .approvals
        .iter()
        .enumerate()
        .skip(first)
        .take(usize::from(listed))
        .map(|(i, a)| {
            let mark = if i == at { ">" } else { " " };
            let text = format!("{mark} {}  {}  {}", safe(&a.id), brief(&a.tool, 20), brief(&a.subject, 120));
            let style = look.style(if i == at { Tone::Question } else { Tone::Plain });
            Line::styled(text, if i == at { style.add_modifier(Modifier::BOLD) } else { style })
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), list);
    let told: Vec<Line<'_>> = match &s.story {
        Some(d) => card(d, now).into_iter().map(|(tone, text)| Line::styled(text, look.style(tone))).collect(),
        None => vec![Line::styled("   …", look.style(Tone::Dim))],
    };
    // why clamped: reading on ends with the last line in sight.
    let last = u16::try_from(told.len()).unwrap_or(u16::MAX).saturating_sub(story.height);
    frame.render_widget(Paragraph::new(told).scroll((s.scroll.min(last), 0)), story);
}

fn footer(s: &State, look: Look) -> Line<'static> {
    let (tone, text) = match (&s.mode, &s.trouble, &s.message) {
        (Mode::Answering { id, effect, reason }, _, _) => {
            let (tone, word) = if *effect == Effect::Allow { (Tone::Good, "allow") } else { (Tone::Bad, "deny") };
            (tone, format!("{word} {}: reason (may be empty), Enter sends, Esc does not: {}_", safe(id), safe(reason)))
        }
        (_, Some(trouble), _) => (Tone::Bad, brief(trouble, 200)),
        (_, _, Some(message)) => (Tone::Changed, brief(message, 200)),
        _ => (Tone::Dim, KEYS.to_owned()),
    };
    Line::styled(text, look.style(tone))
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let height = u16::try_from(HELP.len()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let width = 84.min(area.width);
    let box_ = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, box_);
    let lines: Vec<Line<'_>> = HELP.iter().map(|l| Line::raw(*l)).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), box_);
}

#[cfg(test)]
mod tests {
    use super::super::look;
    use super::super::state::tests::{approval, detail};
    use super::*;
    use crate::cli::sample;
    use crate::model::Status;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(s: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|f| draw(f, s, Look { colour: false }, 1_767_225_600_000 + 10_000)).unwrap();
        let lines: Vec<String> = terminal.backend().to_string().lines().map(|l| l.trim_matches('"').trim_end().to_owned()).collect();
        lines.join("\n")
    }

    fn state() -> State {
        let live = SessionDoc { status: Status::Running, outcome: None, waiting_count: 1, ..sample::session() };
        let other = SessionDoc {
            id: "b".into(),
            name: "evil\x1b[2J".into(),
            cost: None,
            unpriced_count: 2,
            unpriced: ["odd-1".to_owned()].into(),
            last_text: None,
            ..live.clone()
        };
        let mut s = State::default();
        s.seen(look::Look {
            memory_kb: [(live.id.clone(), 3_482)].into(),
            sessions: vec![live, other],
            approvals: vec![approval(4), approval(6)],
            ..look::Look::default()
        });
        s.story = Some(detail(4));
        s
    }

    #[test]
    fn the_screen_shows_sessions_questions_and_the_selected_story() {
        let expected = "\
beadle top: 2 live, 2 waiting for a person, cost ≥ $0.0229875, no price: odd-1
  NAME             STATUS    MEDIATION AGENT    CALLS  WAIT TOKENS    COST      MEMORY    AGE  LAST WORDS
> fix              running   gate      claude   3      1    6,852     $0.02298… 3.4 MB    10s  Done.
  evil\\x1b[2J      running   gate      claude   3      1    6,852     unknown   -         10s";
        let screen = shown(&state(), 110, 24);
        let top: String = screen.lines().take(4).map(|l| l.to_owned() + "\n").collect();
        // The cost is cut by its column; how, is the library's own.
        let comparable = |t: &str| t.replace("$0.02298… ", "$0.022987 ");
        assert_eq!(comparable(top.trim_end()), comparable(expected), "{screen}");
        for want in
            ["> fix-1-aaaaa:4  Bash  make step4", "  fix-1-aaaaa:6  Bash  make step6", "?? fix-1-aaaaa:4  waits 10s", "claude, in /p"]
        {
            assert!(screen.contains(want), "no {want:?} in\n{screen}");
        }
        assert!(screen.ends_with(KEYS), "{screen}");
        assert!(!screen.contains('\x1b'));
    }

    #[test]
    fn every_size_draws_and_every_mode() {
        let mut s = state();
        for mode in [Mode::Watching, Mode::Help, Mode::Answering { id: "x:1".into(), effect: Effect::Deny, reason: "no".into() }] {
            s.mode = mode;
            for (w, h) in [(1, 1), (39, 7), (40, 8), (80, 24), (300, 100)] {
                let screen = shown(&s, w, h);
                assert_eq!(screen.split('\n').count(), usize::from(h), "{w}x{h}");
            }
        }
        assert!(shown(&s, 100, 24).contains("deny x:1: reason (may be empty), Enter sends, Esc does not: no_"));
        s.mode = Mode::Help;
        assert!(shown(&s, 100, 24).contains("any key goes back"));
        s.mode = Mode::Watching;
        s.scroll = 60_000;
        assert!(shown(&s, 100, 24).contains("why: rule Bash(make:*)"), "the last line stays in sight");
        s.look = look::Look::default();
        assert!(shown(&s, 100, 24).contains("nothing waits for an answer"));
        let many = |n: usize| SessionDoc { id: format!("s{n}"), name: format!("session-{n}"), ..sample::session() };
        s.look.sessions = (0..50).map(many).collect();
        s.session = Some("s40".into());
        assert!(shown(&s, 100, 24).contains("> session-40"), "the selected session stays in sight");
    }
}
