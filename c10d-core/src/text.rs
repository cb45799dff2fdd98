//! Makes foreign text safe to show.

/// Returns the text as one line of at most `max` bytes. Each harmful character (a control character, or one that breaks
/// lines or changes the direction of writing) becomes U+FFFD.
///
/// Errors quote peers, stores and files in terminals and logs. The quoted text must not move the cursor or look like
/// several lines.
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

fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(harmless("as it is: é, 世", 100), "as it is: é, 世");
        assert_eq!(harmless("\x1b[2Ja\nb\u{202e}", 100), "\u{fffd}[2Ja\u{fffd}b\u{fffd}");
        assert_eq!(harmless("aé", 2), "a");
        assert_eq!(harmless("\n\n", 3), "\u{fffd}");
    }
}
