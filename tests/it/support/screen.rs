//! What a person sees on a terminal: the bytes that programs wrote, played onto a grid of cells. It knows what `beadle` and its drawing
//! library write (cursor moves, erasing, the alternate screen) and takes styles for nothing; every character is one cell wide.

/// Plays everything written so far and gives the lines that stand there, without the blanks at their ends.
pub fn lines(written: &str, rows: usize, columns: usize) -> Vec<String> {
    let mut s = Screen { cells: vec![vec![' '; columns]; rows], other: vec![vec![' '; columns]; rows], row: 0, column: 0 };
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                Some('[') => {
                    let mut text = String::new();
                    let last = rest.by_ref().find(|c| {
                        text.push(*c);
                        ('@'..='~').contains(c)
                    });
                    text.pop();
                    if let Some(last) = last {
                        s.control(&text, last);
                    }
                }
                _ => continue,
            },
            '\r' => s.column = 0,
            '\n' => s.down(),
            '\u{8}' => s.column = s.column.saturating_sub(1),
            c if c.is_control() => {}
            c => s.put(c),
        }
    }
    s.cells.iter().map(|l| l.iter().collect::<String>().trim_end().to_owned()).collect()
}

struct Screen {
    cells: Vec<Vec<char>>,
    /// The one that is not shown.
    other: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn control(&mut self, parameters: &str, last: char) {
        let number = |n: usize| parameters.split(';').nth(n).and_then(|p| p.parse().ok()).unwrap_or(0usize);
        match (last, parameters) {
            ('h' | 'l', "?1049") => {
                std::mem::swap(&mut self.cells, &mut self.other);
                if last == 'h' {
                    self.cells.iter_mut().for_each(|l| l.fill(' '));
                }
            }
            ('H', _) => {
                self.row = number(0).max(1).min(self.cells.len()) - 1;
                self.column = number(1).max(1).min(self.cells[0].len()) - 1;
            }
            ('J', "2") => self.cells.iter_mut().for_each(|l| l.fill(' ')),
            ('J', _) => {
                self.cells[self.row][self.column..].fill(' ');
                self.cells.iter_mut().skip(self.row + 1).for_each(|l| l.fill(' '));
            }
            ('K', _) => self.cells[self.row][self.column..].fill(' '),
            _ => {}
        }
    }

    fn put(&mut self, c: char) {
        if self.column == self.cells[0].len() {
            self.column = 0;
            self.down();
        }
        self.cells[self.row][self.column] = c;
        self.column += 1;
    }

    fn down(&mut self) {
        if self.row + 1 < self.cells.len() {
            self.row += 1;
        } else {
            let blank = vec![' '; self.cells[0].len()];
            self.cells.remove(0);
            self.cells.push(blank);
        }
    }
}

#[test]
fn a_grid_holds_what_a_person_would_see() {
    assert_eq!(lines("ab\r\nc\u{1b}[1;2Hx\u{1b}[31my\u{1b}[0m", 2, 4), ["axy", "c"]);
    assert_eq!(lines("abcdefghij", 2, 4), ["efgh", "ij"], "it wraps and scrolls");
    assert_eq!(lines("line\u{1b}[?1049h\u{1b}[1;1Hfull\u{1b}[?25l", 1, 9), ["full"]);
    assert_eq!(lines("line\u{1b}[?1049hfull\u{1b}[?1049l", 1, 9), ["line"]);
    assert_eq!(lines("abc\u{1b}[2J\u{1b}[1;3Hz\u{1b}[1;1H\u{1b}[K", 1, 4), [""]);
}
