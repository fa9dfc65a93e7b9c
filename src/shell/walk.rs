//! Walks the tree of a command line and lists what can run.
//!
//! Invariants: every branch is taken (conditions are not judged); every word of the tree is read for code in it; directories follow
//! the shell's rules for which `cd` is seen by which later command; recursion is bounded by [`super::MAX_DEPTH`].
//!
//! Called by `shell::parse`, and by itself for substitutions and code strings (through `exec`).

use std::collections::BTreeSet;

use brush_parser::ast;

use super::dirs::Dirs;
use super::lex::Refused;
use super::word::{self, Reading};
use super::{Found, MAX_DEPTH, MAX_WORK, Parsed, tree};
use crate::model::{Access, Parse, Redirect, Word};

pub(super) type Result<T> = std::result::Result<T, Refused>;

/// Where the walk stands.
#[derive(Debug, Clone, Default)]
pub(super) struct At {
    pub origin: Vec<String>,
    pub depth: usize,
    /// Runs on another machine or in a container.
    pub remote: bool,
}

impl At {
    /// One level deeper, with a further origin unless it is empty.
    pub(super) fn inside(&self, label: &str) -> Result<Self> {
        if self.depth + 1 > MAX_DEPTH {
            return Err(Refused("nested too deeply"));
        }
        let mut origin = self.origin.clone();
        if !label.is_empty() {
            origin.push(label.to_owned());
        }
        Ok(Self { origin, depth: self.depth + 1, remote: self.remote })
    }
}

/// Directories after something that succeeded, and after it failed.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub ok: Dirs,
    pub fail: Dirs,
}

impl Flow {
    pub(super) fn same(dirs: &Dirs) -> Self {
        Self { ok: dirs.clone(), fail: dirs.clone() }
    }

    fn either(&self) -> Dirs {
        self.ok.or(&self.fail)
    }
}

/// One simple command before its words are judged.
#[derive(Debug, Default)]
pub(super) struct Invocation {
    pub argv: Vec<Word>,
    pub env: Vec<Word>,
    pub redirects: Vec<Redirect>,
    /// What its stdin is, where the text shows it (a here-document); `None` inside when not exact.
    pub stdin: Option<Option<String>>,
    /// More words come at run time.
    pub open: bool,
}

#[derive(Debug, Default)]
pub(super) struct Walk {
    pub found: Vec<Found>,
    pub redirects: Vec<(Redirect, Dirs)>,
    pub reason: Option<&'static str>,
    pub functions: BTreeSet<String>,
    /// Bytes read and listed so far.
    work: usize,
}

impl Walk {
    pub(super) fn finish(mut self) -> Parsed {
        let shadowed = |f: &Found| f.command.argv.first().is_some_and(|w| self.functions.contains(&w.text));
        if self.found.iter().any(shadowed) {
            self.partial("a function of the command's own is called");
        }
        let parse = if self.reason.is_some() { Parse::Partial } else { Parse::Complete };
        Parsed { found: self.found, redirects: self.redirects, parse, reason: self.reason }
    }

    pub(super) fn partial(&mut self, reason: &'static str) {
        self.reason.get_or_insert(reason);
    }

    /// Counts text against the cap of a whole command line.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<()> {
        self.work = self.work.saturating_add(bytes);
        if self.work > MAX_WORK { Err(Refused("too much code inside code")) } else { Ok(()) }
    }

    /// A whole text as code.
    pub(super) fn text(&mut self, src: &str, dirs: &Dirs, at: &At) -> Result<Flow> {
        self.spend(src.len())?;
        let program = tree(src, at.depth)?;
        let mut flow = Flow::same(dirs);
        let mut now = dirs.clone();
        for list in &program.complete_commands {
            flow = self.list(list, &now, at)?;
            now = flow.either();
        }
        Ok(flow)
    }

    pub(super) fn argv(&mut self, argv: &[String]) -> Result<()> {
        let argv = argv.iter().map(|text| Word { text: text.clone(), exact: true }).collect();
        self.exec(Invocation { argv, ..Invocation::default() }, &Dirs::start(), &At::default())?;
        Ok(())
    }

    pub(super) fn list(&mut self, list: &ast::CompoundList, dirs: &Dirs, at: &At) -> Result<Flow> {
        let mut now = dirs.clone();
        let mut flow = Flow::same(dirs);
        for ast::CompoundListItem(and_or, separator) in &list.0 {
            flow = self.and_or(and_or, &now, at)?;
            if matches!(separator, ast::SeparatorOperator::Async) {
                flow = Flow::same(&now);
            }
            now = flow.either();
        }
        Ok(flow)
    }

    fn and_or(&mut self, list: &ast::AndOrList, dirs: &Dirs, at: &At) -> Result<Flow> {
        let mut flow = self.pipeline(&list.first, dirs, at)?;
        for next in &list.additional {
            flow = match next {
                ast::AndOr::And(p) => {
                    let then = self.pipeline(p, &flow.ok, at)?;
                    Flow { ok: then.ok, fail: then.fail.or(&flow.fail) }
                }
                ast::AndOr::Or(p) => {
                    let then = self.pipeline(p, &flow.fail, at)?;
                    Flow { ok: then.ok.or(&flow.ok), fail: then.fail }
                }
            };
        }
        Ok(flow)
    }

    fn pipeline(&mut self, pipeline: &ast::Pipeline, dirs: &Dirs, at: &At) -> Result<Flow> {
        let mut flow = Flow::same(dirs);
        for command in &pipeline.seq {
            flow = self.command(command, dirs, at)?;
        }
        if pipeline.seq.len() > 1 {
            // why: some shells run the last part themselves, others all parts apart.
            let after = flow.either().or(dirs);
            flow = Flow::same(&after);
        }
        if pipeline.bang {
            std::mem::swap(&mut flow.ok, &mut flow.fail);
        }
        Ok(flow)
    }

    fn command(&mut self, command: &ast::Command, dirs: &Dirs, at: &At) -> Result<Flow> {
        match command {
            ast::Command::Simple(simple) => self.simple(simple, dirs, at),
            ast::Command::Compound(compound, redirects) => {
                self.redirect_list(redirects.as_ref(), dirs, at)?;
                self.compound(compound, dirs, &at.inside("")?)
            }
            ast::Command::Function(function) => {
                let name = self.word(&function.fname.value, dirs, at)?.text;
                let inner = at.inside(&format!("function {name}"))?;
                self.functions.insert(name);
                let ast::FunctionBody(body, redirects) = &function.body;
                self.redirect_list(redirects.as_ref(), &Dirs::unknown(), &inner)?;
                self.compound(body, &Dirs::unknown(), &inner)?;
                Ok(Flow::same(dirs))
            }
            ast::Command::ExtendedTest(test, redirects) => {
                self.redirect_list(redirects.as_ref(), dirs, at)?;
                self.test(&test.expr, dirs, at)?;
                Ok(Flow::same(dirs))
            }
        }
    }

    fn compound(&mut self, compound: &ast::CompoundCommand, dirs: &Dirs, at: &At) -> Result<Flow> {
        match compound {
            ast::CompoundCommand::Arithmetic(a) => {
                self.arithmetic(&a.expr, dirs, at)?;
                Ok(Flow::same(dirs))
            }
            ast::CompoundCommand::ArithmeticForClause(a) => {
                for part in [&a.initializer, &a.condition, &a.updater].into_iter().flatten() {
                    self.arithmetic(part, dirs, at)?;
                }
                self.repeated(dirs, |walk| walk.list(&a.body.list, dirs, at))
            }
            ast::CompoundCommand::BraceGroup(group) => self.list(&group.list, dirs, at),
            ast::CompoundCommand::Subshell(sub) => {
                self.list(&sub.list, dirs, at)?;
                Ok(Flow::same(dirs))
            }
            ast::CompoundCommand::ForClause(each) => {
                if super::exec::steers(&each.variable_name) {
                    self.partial("a variable that steers which program runs is set");
                }
                for value in each.values.iter().flatten() {
                    self.word(&value.value, dirs, at)?;
                }
                self.repeated(dirs, |walk| walk.list(&each.body.list, dirs, at))
            }
            ast::CompoundCommand::CaseClause(case) => {
                self.word(&case.value.value, dirs, at)?;
                let mut after = dirs.clone();
                for item in &case.cases {
                    for pattern in &item.patterns {
                        self.word(&pattern.value, dirs, at)?;
                    }
                    if let Some(list) = &item.cmd {
                        // why: `;&` falls through, so a later item may start where an earlier one ended.
                        after = after.or(&self.list(list, &after.clone(), at)?.either());
                    }
                }
                Ok(Flow::same(&after))
            }
            ast::CompoundCommand::IfClause(branch) => {
                let mut test = self.list(&branch.condition, dirs, at)?;
                let mut after = self.list(&branch.then, &test.ok, at)?.either();
                for other in branch.elses.iter().flatten() {
                    let from = match &other.condition {
                        Some(condition) => {
                            test = self.list(condition, &test.fail.clone(), at)?;
                            test.ok.clone()
                        }
                        None => test.fail.clone(),
                    };
                    after = after.or(&self.list(&other.body, &from, at)?.either());
                }
                Ok(Flow::same(&after.or(&test.fail)))
            }
            ast::CompoundCommand::WhileClause(ast::WhileOrUntilClauseCommand(condition, body, _))
            | ast::CompoundCommand::UntilClause(ast::WhileOrUntilClauseCommand(condition, body, _)) => self.repeated(dirs, |walk| {
                let test = walk.list(condition, dirs, at)?.either();
                Ok(Flow::same(&walk.list(&body.list, &test, at)?.either().or(&test)))
            }),
            ast::CompoundCommand::Coprocess(co) => {
                self.command(&co.body, dirs, &at.inside("coproc")?)?;
                Ok(Flow::same(dirs))
            }
        }
    }

    /// A body that may run any number of times: when it changes directory, no place in it or behind it is known.
    fn repeated(&mut self, dirs: &Dirs, body: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<Flow> {
        let (commands, files) = (self.found.len(), self.redirects.len());
        let after = body(self)?.either();
        if after.within(dirs) {
            return Ok(Flow::same(dirs));
        }
        for found in &mut self.found[commands..] {
            found.dirs = Dirs::unknown();
        }
        for (_, place) in &mut self.redirects[files..] {
            *place = Dirs::unknown();
        }
        Ok(Flow::same(&Dirs::unknown()))
    }

    fn arithmetic(&mut self, expr: &ast::UnexpandedArithmeticExpr, dirs: &Dirs, at: &At) -> Result<()> {
        self.word(&format!("$(({}))", expr.value), dirs, at)?;
        Ok(())
    }

    fn test(&mut self, expr: &ast::ExtendedTestExpr, dirs: &Dirs, at: &At) -> Result<()> {
        use ast::{BinaryPredicate as B, ExtendedTestExpr as E, UnaryPredicate as U};
        match expr {
            E::And(a, b) | E::Or(a, b) => {
                self.test(a, dirs, at)?;
                self.test(b, dirs, at)
            }
            E::Not(a) | E::Parenthesized(a) => self.test(a, dirs, at),
            E::UnaryTest(kind, word) => {
                let word = self.word(&word.value, dirs, at)?;
                let evaluates = matches!(kind, U::ShellVariableIsSetAndAssigned | U::ShellVariableIsSetAndNameRef);
                if evaluates && (!word.exact || word.text.contains('[')) {
                    self.partial("a subscript is evaluated");
                }
                Ok(())
            }
            E::BinaryTest(kind, left, right) => {
                let sides = [self.word(&left.value, dirs, at)?, self.word(&right.value, dirs, at)?];
                let evaluates = matches!(
                    kind,
                    B::ArithmeticEqualTo
                        | B::ArithmeticNotEqualTo
                        | B::ArithmeticLessThan
                        | B::ArithmeticLessThanOrEqualTo
                        | B::ArithmeticGreaterThan
                        | B::ArithmeticGreaterThanOrEqualTo
                );
                if evaluates && !sides.iter().all(|w| w.exact && w.text.bytes().all(|c| c.is_ascii_digit() || c == b'-')) {
                    self.partial("arithmetic on names evaluates their values");
                }
                Ok(())
            }
        }
    }

    /// Reads a word and lists the code in it.
    fn word(&mut self, raw: &str, dirs: &Dirs, at: &At) -> Result<Word> {
        let reading = word::read(raw, at.depth)?;
        self.code_in(&reading, dirs, at)?;
        Ok(to_word(raw, reading))
    }

    fn code_in(&mut self, reading: &Reading, dirs: &Dirs, at: &At) -> Result<()> {
        if let Some(hazard) = reading.hazard {
            self.partial(hazard);
        }
        for (label, code) in &reading.subs {
            self.text(code, dirs, &at.inside(label)?)?;
        }
        Ok(())
    }

    fn simple(&mut self, simple: &ast::SimpleCommand, dirs: &Dirs, at: &At) -> Result<Flow> {
        let mut call = Invocation::default();
        // why: a command is listed before the code inside its words, so that code waits here.
        let mut later: Vec<Reading> = Vec::new();
        let mut apart: Vec<(&'static str, &ast::SubshellCommand)> = Vec::new();
        let prefix = simple.prefix.iter().flat_map(|p| &p.0).map(|item| (true, item));
        let suffix = simple.suffix.iter().flat_map(|s| &s.0).map(|item| (false, item));
        let mut program = simple.word_or_name.as_ref();
        for (before, item) in prefix.chain(suffix) {
            if !before && let Some(word) = program.take() {
                self.keep(&word.value, &mut call.argv, &mut later, at)?;
            }
            match item {
                ast::CommandPrefixOrSuffixItem::IoRedirect(io) => self.redirect(io, &mut call, &mut later, &mut apart, at)?,
                ast::CommandPrefixOrSuffixItem::Word(word) => self.keep(&word.value, &mut call.argv, &mut later, at)?,
                ast::CommandPrefixOrSuffixItem::AssignmentWord(_, word) => {
                    self.keep(&word.value, if before { &mut call.env } else { &mut call.argv }, &mut later, at)?;
                }
                ast::CommandPrefixOrSuffixItem::ProcessSubstitution(kind, sub) => {
                    let label = process_label(kind);
                    call.argv.push(Word { text: label.to_owned(), exact: false });
                    apart.push((label, sub));
                }
            }
        }
        if let Some(word) = program {
            self.keep(&word.value, &mut call.argv, &mut later, at)?;
        }
        self.redirects.extend(call.redirects.iter().map(|r| (r.clone(), dirs.clone())));
        let flow = self.exec(call, dirs, at)?;
        for reading in &later {
            self.code_in(reading, dirs, at)?;
        }
        for (label, sub) in apart {
            self.list(&sub.list, dirs, &at.inside(label)?)?;
        }
        Ok(flow)
    }

    fn keep(&mut self, raw: &str, into: &mut Vec<Word>, later: &mut Vec<Reading>, at: &At) -> Result<()> {
        let reading = word::read(raw, at.depth)?;
        if !reading.subs.is_empty() || reading.hazard.is_some() {
            later.push(reading.clone());
        }
        into.push(to_word(raw, reading));
        Ok(())
    }

    fn redirect_list(&mut self, list: Option<&ast::RedirectList>, dirs: &Dirs, at: &At) -> Result<()> {
        let mut call = Invocation::default();
        let (mut later, mut apart) = (Vec::new(), Vec::new());
        for io in list.iter().flat_map(|l| &l.0) {
            self.redirect(io, &mut call, &mut later, &mut apart, at)?;
        }
        self.redirects.extend(call.redirects.into_iter().map(|r| (r, dirs.clone())));
        for reading in &later {
            self.code_in(reading, dirs, at)?;
        }
        for (label, sub) in apart {
            self.list(&sub.list, dirs, &at.inside(label)?)?;
        }
        Ok(())
    }

    fn redirect<'a>(
        &mut self,
        io: &'a ast::IoRedirect,
        call: &mut Invocation,
        later: &mut Vec<Reading>,
        apart: &mut Vec<(&'static str, &'a ast::SubshellCommand)>,
        at: &At,
    ) -> Result<()> {
        let mut file = |raw: &str, access: Access| -> Result<()> {
            let reading = word::read(raw, at.depth)?;
            later.push(reading.clone());
            call.redirects.push(Redirect { target: to_word(raw, reading), access });
            Ok(())
        };
        match io {
            ast::IoRedirect::File(fd, kind, target) => {
                use ast::IoFileRedirectKind as K;
                if fd.unwrap_or(0) == 0 && matches!(kind, K::Read | K::ReadAndWrite | K::DuplicateInput) {
                    call.stdin = Some(None);
                }
                let access = match kind {
                    K::Read | K::DuplicateInput => Access::Read,
                    K::Write | K::Append | K::Clobber | K::DuplicateOutput => Access::Write,
                    K::ReadAndWrite => Access::ReadWrite,
                };
                match target {
                    ast::IoFileRedirectTarget::Filename(word) => file(&word.value, access),
                    ast::IoFileRedirectTarget::Duplicate(word) => {
                        // why: digits and `-` name descriptors; anything else behind `>&` is a file.
                        let descriptor = word.value.bytes().all(|c| c.is_ascii_digit() || c == b'-');
                        if descriptor { Ok(()) } else { file(&word.value, access) }
                    }
                    ast::IoFileRedirectTarget::Fd(_) => Ok(()),
                    ast::IoFileRedirectTarget::ProcessSubstitution(kind, sub) => {
                        apart.push((process_label(kind), sub));
                        Ok(())
                    }
                }
            }
            ast::IoRedirect::OutputAndError(word, _) => file(&word.value, Access::Write),
            ast::IoRedirect::HereString(fd, word) => {
                let reading = word::read(&word.value, at.depth)?;
                if fd.unwrap_or(0) == 0 {
                    call.stdin = Some(reading.exact.then(|| reading.text.clone()));
                }
                later.push(reading);
                Ok(())
            }
            ast::IoRedirect::HereDocument(fd, here) => {
                let mut stdin = |text: Option<String>| {
                    if fd.unwrap_or(0) == 0 {
                        call.stdin = Some(text);
                    }
                };
                if !here.requires_expansion {
                    stdin(Some(here.doc.value.clone()));
                    return Ok(());
                }
                let reading = word::read_here(&here.doc.value, at.depth)?;
                stdin(reading.exact.then(|| reading.text.clone()));
                later.push(reading);
                Ok(())
            }
        }
    }
}

fn to_word(raw: &str, reading: Reading) -> Word {
    if reading.exact { Word { text: reading.text, exact: true } } else { Word { text: raw.to_owned(), exact: false } }
}

const fn process_label(kind: &ast::ProcessSubstitutionKind) -> &'static str {
    match kind {
        ast::ProcessSubstitutionKind::Read => "<()",
        ast::ProcessSubstitutionKind::Write => ">()",
    }
}
