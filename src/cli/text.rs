//! Texts that may come from anybody, on their way to a terminal.

use std::fmt::Write;

/// The text with every control character but ends of lines written out: what a container leaves as its
/// last words, or a server on the web says, must not steer the terminal of who reads it
/// (CVE-2021-25743; `kubectl` writes `^[` too).
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a text cannot fail.
        let _ = match c {
            '\n' | '\t' => write!(out, "{c}"),
            '\r' => write!(out, "\\r"),
            '\u{7f}' => write!(out, "^?"),
            '\0'..' ' => write!(out, "^{}", char::from((c as u8).saturating_add(b'@'))),
            c if c.is_control() => write!(out, "{}", c.escape_unicode()),
            c => write!(out, "{c}"),
        };
    }
    out
}

/// The same, on one line.
pub(super) fn in_a_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// A reason with its message, if there is one.
pub(super) fn explained(reason: &str, message: &str) -> String {
    match message {
        "" => reason.to_owned(),
        _ => format!("{reason}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_steers_the_terminal() {
        for (text, shown) in [
            ("plain é\n\ttext", "plain é\n\ttext"),
            ("\u{1b}[2Jgone", "^[[2Jgone"),
            ("a\rb\0\u{7}\u{7f}", "a\\rb^@^G^?"),
            ("\u{9b}31m", "\\u{9b}31m"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(in_a_line("a\nb\tc\u{1b}"), "a b c^[");
    }
}
