//! The one place that writes: data to standard output, everything else to standard error.
//!
//! - `--json` gives one JSON document a line, `-q` only what a script needs;
//! - colour only on a terminal, never with `NO_COLOR`, and nothing depends on it;
//! - a reader that has gone away (broken pipe) is an error of kind `BrokenPipe`, which ends the command with 0.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::exit::Class;
use super::text::safe_json;

/// What colour says beside the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Bad,
    Changed,
    Question,
    Dim,
    Strong,
}

impl Tone {
    const fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Changed => "35",
            Self::Question => "33",
            Self::Dim => "2",
            Self::Strong => "1",
        }
    }
}

/// How much and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    pub json: bool,
    pub quiet: bool,
}

/// See the module.
pub struct Printer {
    style: Style,
    out_colour: bool,
    err_colour: bool,
    out_terminal: bool,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl Printer {
    /// On the process's own standard output and error.
    pub fn standard(style: Style) -> Self {
        let no_colour =
            std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        let out_terminal = io::stdout().is_terminal();
        Self {
            style,
            out_colour: out_terminal && !no_colour,
            err_colour: io::stderr().is_terminal() && !no_colour,
            out_terminal,
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
        }
    }

    /// To given places, without colour, as to a file.
    pub fn to(style: Style, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { style, out_colour: false, err_colour: false, out_terminal: false, out, err }
    }

    pub const fn json(&self) -> bool {
        self.style.json
    }

    pub const fn quiet(&self) -> bool {
        self.style.quiet
    }

    /// Whether standard output is a terminal.
    pub const fn on_terminal(&self) -> bool {
        self.out_terminal
    }

    /// One line of data. The caller has made its text safe.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.toned(Tone::Plain, text)
    }

    /// One line in a tone.
    pub fn toned(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        let text = paint(self.out_colour, tone, text);
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// A document as one line of JSON, in which nothing can act on a terminal.
    pub fn document(&mut self, document: &impl Serialize) -> io::Result<()> {
        let json = serde_json::to_string(document).map_err(io::Error::other)?;
        self.out.write_all(safe_json(&json).as_bytes())?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// Octets as they are, for data that is not ours to change.
    pub fn octets(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// Where octets go in pieces.
    pub fn sink(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// A remark for people, to standard error; silent with `-q`.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        if self.style.quiet { Ok(()) } else { writeln!(self.err, "{}", paint(self.err_colour, Tone::Dim, text)) }
    }

    /// A question or a warning for people, to standard error, also with `-q`.
    pub fn notice(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        writeln!(self.err, "{}", paint(self.err_colour, tone, text))
    }

    /// An error, to standard error: with `--json` as a problem document.
    pub fn error(&mut self, message: &str, class: &Class<'_>) -> io::Result<()> {
        if self.style.json {
            let problem = serde_json::json!({ "error": { "code": class.code, "message": message, "hint": class.hint } });
            return writeln!(self.err, "{}", safe_json(&problem.to_string()));
        }
        let code = class.code.map_or_else(String::new, |c| format!("[{c}]"));
        writeln!(self.err, "{}{code}: {message}", paint(self.err_colour, Tone::Bad, "error"))?;
        match class.hint {
            Some(hint) => writeln!(self.err, "hint: {}", super::text::safe(hint)),
            None => Ok(()),
        }
    }

    /// Words of the argument parser; it repeats values, so long ones are cut out of the middle.
    pub fn usage(&mut self, text: &clap::builder::StyledStr) -> io::Result<()> {
        const MAX: usize = 1500;
        let plain = text.to_string();
        if plain.len() <= MAX {
            return if self.err_colour { write!(self.err, "{}", text.ansi()) } else { self.err.write_all(plain.as_bytes()) };
        }
        let (head, tail) = (plain.floor_char_boundary(MAX / 2), plain.ceil_char_boundary(plain.len() - MAX / 2));
        write!(self.err, "{} [… {} bytes …] {}", &plain[..head], tail - head, &plain[tail..])
    }

    /// Rows in columns as wide as they need; the header is left out with `-q`.
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
        for row in rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        if !self.style.quiet {
            let text = line(&mut header.iter().copied());
            self.toned(Tone::Dim, &text)?;
        }
        for row in rows {
            let text = line(&mut row.iter().map(String::as_str));
            self.line(&text)?;
        }
        Ok(())
    }

    /// Names and values in two columns; empty values are left out.
    pub fn fields(&mut self, fields: &[(&str, String)]) -> io::Result<()> {
        let shown: Vec<_> = fields.iter().filter(|(_, v)| !v.is_empty()).collect();
        let width = shown.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
        for (name, value) in shown {
            self.line(&format!("{name:<width$}  {value}"))?;
        }
        Ok(())
    }
}

fn paint(colour: bool, tone: Tone, text: &str) -> String {
    if colour && tone != Tone::Plain { format!("\x1b[{}m{text}\x1b[0m", tone.sgr()) } else { text.to_owned() }
}
