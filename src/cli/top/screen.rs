//! The whole screen of a terminal: taken, lent out while a person is asked line by line, given back.
//!
//! Invariant: however the program ends or fails, a panic included, the terminal is as it was before, and what is said last stands on
//! the ordinary screen. Called by `top`.

use std::io::{self, stdout};

use ratatui::backend::Backend;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{DefaultTerminal, Frame};

/// Held as long as the screen is ours.
pub struct Screen(DefaultTerminal);

impl Screen {
    pub fn take() -> io::Result<Self> {
        // It also hooks panics: what they say comes after the terminal was put back.
        ratatui::try_init().map(Self)
    }

    pub fn draw(&mut self, with: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.0.draw(with).map(|_| ())
    }

    /// The ordinary screen, with lines as they are typed, until [`Screen::back`].
    pub fn lend(&mut self) -> io::Result<()> {
        disable_raw_mode()?;
        execute!(stdout(), LeaveAlternateScreen)?;
        self.0.show_cursor()
    }

    pub fn back(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        self.0.backend_mut().clear()?;
        // why not `Terminal::clear`: it asks the terminal where the cursor is and waits for the answer. The buffers swap once more, so
        // that what is drawn next is compared with an empty one.
        self.0.swap_buffers();
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // why ignore: where even this fails the terminal is gone.
        let _ = ratatui::try_restore();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::process::{Command, Stdio};

    use super::*;

    /// Set for the copy of this test that runs on the terminal: how it ends.
    const ENDS: &str = "BEADLE_TEST_SCREEN_ENDS";

    /// Run by the test below on a terminal of its own.
    #[test]
    fn plays_a_program_on_the_screen() {
        let Some(ends) = std::env::var_os(ENDS) else { return };
        let mut screen = Screen::take().unwrap();
        screen.draw(|f| f.render_widget("in the alternate screen", f.area())).unwrap();
        if ends == "panic" {
            panic!("on purpose");
        }
        if ends == "lent" {
            screen.lend().unwrap();
            writeln!(stdout(), "on the ordinary screen").unwrap();
            screen.back().unwrap();
            screen.draw(|f| f.render_widget("drawn again", f.area())).unwrap();
        }
    }

    /// What a copy of this program wrote on a terminal, and whether that shows and waits for lines at the end as before.
    fn played(ends: &str) -> (String, bool) {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both descriptors are written by the call and owned below; name and settings may be null.
        let (mut master, slave) = unsafe {
            assert_eq!(libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &raw const size), 0);
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
        };
        let flags = |tty: &OwnedFd| {
            // SAFETY: plain data that the call fills; the descriptor is open.
            unsafe {
                let mut t: libc::termios = std::mem::zeroed();
                assert_eq!(libc::tcgetattr(tty.as_raw_fd(), &mut t), 0);
                (t.c_iflag, t.c_oflag, t.c_lflag)
            }
        };
        let before = flags(&slave);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cli::top::screen::tests::plays_a_program_on_the_screen", "--nocapture", "--test-threads=1"]);
        command.env(ENDS, ends).env("TERM", "xterm");
        let own = || Stdio::from(slave.try_clone().unwrap());
        let mut child = command.stdin(own()).stdout(own()).stderr(own()).spawn().unwrap();
        drop(command);
        let after = std::thread::spawn(move || {
            child.wait().unwrap();
            let after = flags(&slave);
            drop(slave);
            after
        });
        let mut said = Vec::new();
        // An error is the end: the last slave has closed.
        let _ = master.read_to_end(&mut said);
        (String::from_utf8_lossy(&said).into_owned(), after.join().unwrap() == before)
    }

    #[test]
    fn the_terminal_is_given_back_at_the_end_after_an_error_and_after_a_panic() {
        const TAKEN: &str = "\u{1b}[?1049h";
        const GIVEN_BACK: &str = "\u{1b}[?1049l";
        const CURSOR: &str = "\u{1b}[?25h";
        let (said, as_before) = played("return");
        assert!(as_before, "{said:?}");
        assert_eq!((said.matches(TAKEN).count(), said.matches(GIVEN_BACK).count()), (1, 1), "{said:?}");
        assert!(said.rfind(GIVEN_BACK) > said.rfind("alternate") && said.rfind(CURSOR) > said.rfind("\u{1b}[?25l"), "{said:?}");

        let (said, as_before) = played("panic");
        assert!(as_before, "{said:?}");
        let told = said.find("on purpose").unwrap_or_else(|| panic!("the panic says nothing: {said:?}"));
        assert!(said.find(GIVEN_BACK).is_some_and(|at| at < told), "what a panic says stands on the ordinary screen: {said:?}");
        assert!(said.rfind(CURSOR) > said.rfind("\u{1b}[?25l"), "the cursor is shown again: {said:?}");

        let (said, as_before) = played("lent");
        assert!(as_before, "{said:?}");
        assert_eq!(said.matches(TAKEN).count(), 2, "{said:?}");
        let (lent, line) = (said.find(GIVEN_BACK).unwrap(), said.find("on the ordinary screen").unwrap());
        assert!(lent < line && line < said.rfind(TAKEN).unwrap() && said.rfind(TAKEN) < said.rfind(GIVEN_BACK), "{said:?}");
    }
}
