//! Sanitizing of untrusted text for terminals.

use std::fmt::Write;
use std::io;

/// Returns the text with every control character but line ends escaped, and every invisible character: a
/// container's termination message, or a web server's response, must not control the reader's terminal
/// (CVE-2021-25743; `kubectl` writes `^[` too), nor look like another text (CVE-2021-42574).
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
            c if c.is_control() || is_invisible(c) => write!(out, "{}", c.escape_unicode()),
            c => write!(out, "{c}"),
        };
    }
    out
}

/// Returns `true` if a character is invisible, but may change how others are shown: directions of writing, joiners,
/// zero-width blanks, variation selectors, tags, other line ends. These are Unicode's default ignorable code
/// points, and its other format characters and separators of lines.
#[must_use]
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Writer of log lines to standard error, which escapes invisible characters. The formatter of log lines
/// escapes control characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = escaped(&String::from_utf8_lossy(line), is_invisible);
        io::stderr().write_all(shown.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Returns equivalent JSON in which every control or invisible character is escaped. These are only in its
/// strings, except for line ends.
pub(crate) fn printable_json(json: &str) -> String {
    escaped(json, |c| c != '\n' && c.is_control() || is_invisible(c))
}

/// Returns the text with some characters escaped as JSON and most languages have them.
fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Returns the printable text on one line.
pub(crate) fn in_a_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Returns a reason with its message, if there is one.
pub(crate) fn explained(reason: &str, message: &str) -> String {
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
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("a\u{200b}b\u{feff}\u{ad}", "a\\u{200b}b\\u{feff}\\u{ad}"),
            ("\u{2028}\u{e0041}\u{3164}", "\\u{2028}\\u{e0041}\\u{3164}"),
            ("שלום 日本語 e\u{301}", "שלום 日本語 e\u{301}"),
        ] {
            assert_eq!(printable(text), shown);
        }
        assert_eq!(in_a_line("a\nb\tc\u{1b}"), "a b c^[");
    }

    #[test]
    fn json_says_the_same_without_what_is_not_seen() {
        let value = serde_json::json!({"a\u{202e}": ["\u{9b}31m", "\u{e0041}é\n", "\u{7f}"]});
        for json in [
            value.to_string(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let shown = printable_json(&json);
            assert_eq!(printable(&shown), shown);
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(read, value);
            assert!(shown.contains("\\udb40\\udc41é"), "{shown}");
        }
    }
}
