//! Makes foreign text safe to show.

/// The text as one line without control characters, of at most `max` bytes.
///
/// Text of a peer, a store or a file that is part of an error goes to a terminal or into a log. It must not move the
/// cursor there, nor look like more than one line.
pub fn harmless(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

/// Control characters, and those that break lines or turn the direction of writing.
fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_moves_a_cursor() {
        assert_eq!(harmless("as it is: é, 世", 100), "as it is: é, 世");
        assert_eq!(harmless("\x1b[2Ja\nb\u{202e}", 100), "\u{fffd}[2Ja\u{fffd}b\u{fffd}");
        assert_eq!(harmless("aé", 2), "a");
        assert_eq!(harmless("\n\n", 3), "\u{fffd}");
    }
}
