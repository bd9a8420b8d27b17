//! One line on a terminal that says what is going on before the task's own output begins.

use std::io::{IsTerminal as _, Write as _};

/// Longest text shown: a line that wraps could not be taken back.
const WIDTH: usize = 78;

/// The line. Shows nothing unless standard error is a terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    on: bool,
}

impl Progress {
    /// For standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self {
            shown: false,
            on: std::io::stderr().is_terminal(),
        }
    }

    /// Shows a text in place of the one before.
    pub fn show(&mut self, text: &str) {
        if self.on {
            self.shown = true;
            // A terminal that is gone is no reason to stop the task.
            write!(std::io::stderr().lock(), "\r\x1b[K{}", plain(text)).ok();
        }
    }

    /// Takes the line back.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            write!(std::io::stderr().lock(), "\r\x1b[K").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Without what a terminal would obey: texts carry words of registries.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WIDTH)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_a_terminal_obeys_gets_through(text in "\\PC{0,50}|[\\x00-\\x1f\\x7f-\\x9fa]{0,100}") {
            let shown = plain(&text);
            prop_assert!(!shown.chars().any(char::is_control) && shown.chars().count() <= WIDTH);
        }
    }
}
