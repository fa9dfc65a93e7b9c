//! Small choices out of the fuzzer's bytes: control bytes first, the rest is text.

/// Reads a few bytes as choices and leaves the rest.
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(f, r)| (*f, r));
        self.0 = rest;
        first
    }

    /// Text up to the next separator (a line of its own with `====`), or to the end.
    pub fn text(&mut self) -> String {
        const MARK: &[u8] = b"\n====\n";
        let at = self.0.windows(MARK.len()).position(|w| w == MARK);
        let (head, rest) = at.map_or((self.0, &[][..]), |i| (&self.0[..i], &self.0[i + MARK.len()..]));
        self.0 = rest;
        String::from_utf8_lossy(head).into_owned()
    }
}
