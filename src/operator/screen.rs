//! A terminal that is drawn anew, and gives keys as they are pressed.

use std::io::{self, IsTerminal, Read, Stdout, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::table::cut;

/// The terminal at stdout, until it is dropped.
pub(super) struct Screen {
    stdout: Stdout,
    /// What stdin was set to, where it is a terminal.
    before: Option<Termios>,
}

/// Lines and columns of a terminal that does not tell.
const USUAL: (usize, usize) = (24, 80);

impl Screen {
    /// Keys are read as they are pressed from now on, and not shown; Ctrl-C stays a signal.
    pub(super) fn open() -> io::Result<Screen> {
        let stdin = io::stdin();
        let before = if stdin.is_terminal() { Some(tcgetattr(&stdin)?) } else { None };
        if let Some(before) = &before {
            let mut now = before.clone();
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(&stdin, OptionalActions::Now, &now)?;
        }
        let mut screen = Screen { stdout: io::stdout(), before };
        // Clears it, and hides the cursor.
        write!(screen.stdout, "\x1b[2J\x1b[?25l")?;
        Ok(screen)
    }

    /// Whether keys can be pressed.
    pub(super) fn has_keys(&self) -> bool {
        self.before.is_some()
    }

    /// Lines and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.stdout) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            Ok(_) | Err(_) => USUAL,
        }
    }

    /// Draws over what was there, without a flicker.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (height, width) = self.size();
        let mut text = "\x1b[H".to_owned();
        for (number, line) in lines.iter().take(height).enumerate() {
            let next = if number == 0 { "" } else { "\n" };
            // The rest of the line is cleared first: behind a full one, its last character would be.
            text += &format!("{next}\x1b[K{}", cut(line, width));
        }
        self.stdout.write_all((text + "\x1b[J").as_bytes())?;
        self.stdout.flush()
    }
}

/// Leaves the last picture, and the terminal as it was.
impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        drop(write!(self.stdout, "\n\x1b[?25h").and_then(|()| self.stdout.flush()));
        if let Some(before) = &self.before {
            _ = tcsetattr(io::stdin(), OptionalActions::Now, before).is_ok();
        }
    }
}

/// The next key's byte; none where stdin has ended.
pub(super) fn key() -> Option<u8> {
    let mut byte = [0];
    matches!(io::stdin().read(&mut byte), Ok(1)).then_some(byte[0])
}
