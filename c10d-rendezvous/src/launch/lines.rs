//! Splits a stream into lines and puts the rank before each line.

/// The largest length of a line in bytes. A longer line is printed in pieces.
const LONGEST_LINE: usize = 64 << 10;

/// The lines of one stream. A line that ends in a carriage return (a progress bar) is printed, and the next line
/// overwrites it.
pub(super) struct Lines {
    prefix: String,
    line: Vec<u8>,
    /// The number of bytes of the line that have been printed.
    shown: usize,
    /// Whether the line has ended in a carriage return. A newline completes the line; any other byte begins the next
    /// line.
    returned: bool,
    /// Whether the line began after a carriage return.
    progress: bool,
}

impl Lines {
    pub(super) fn new(rank: u32) -> Lines {
        Lines { prefix: format!("[{rank}] "), line: Vec::new(), shown: 0, returned: false, progress: false }
    }

    /// Returns the lines that `bytes` completes, with prefixes.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(first) = bytes.first() {
            if self.returned && *first != b'\n' {
                self.clear();
                self.progress = true;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
            let (text, rest) = bytes.split_at(end);
            self.add(text, &mut out);
            bytes = match rest {
                [b'\n', rest @ ..] => {
                    self.end(&mut out);
                    rest
                }
                [b'\r', rest @ ..] => {
                    if rest.first() != Some(&b'\n') {
                        self.show(&mut out);
                    }
                    self.returned = true;
                    rest
                }
                _ => rest,
            };
        }
        out
    }

    fn add(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while self.line.len() + text.len() > LONGEST_LINE {
            let (head, rest) = text.split_at(LONGEST_LINE - self.line.len());
            self.line.extend_from_slice(head);
            self.end(out);
            text = rest;
        }
        self.line.extend_from_slice(text);
    }

    /// Whether there is an unfinished line that should be printed: one that began after a carriage return. Such a line
    /// may be complete: some programs write the carriage return before each line.
    pub(super) fn waits(&self) -> bool {
        self.progress && self.shown < self.line.len()
    }

    pub(super) fn so_far(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.waits() {
            self.show(&mut out);
        }
        out
    }

    /// Returns the last line if the stream has ended without a newline.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.line.is_empty() {
            self.end(&mut out);
        }
        out
    }

    /// Writes the line so that the next one can overwrite it.
    fn show(&mut self, out: &mut Vec<u8>) {
        if self.shown < self.line.len() {
            out.extend_from_slice(self.prefix.as_bytes());
            out.extend_from_slice(&self.line);
            out.push(b'\r');
            self.shown = self.line.len();
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(&self.line);
        out.push(b'\n');
        self.clear();
    }

    fn clear(&mut self) {
        self.line.clear();
        self.shown = 0;
        self.returned = false;
        self.progress = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_stream_is_cut() {
        let text = b"one\n\ntwo\nthree";
        for cut in 0..=text.len() {
            let mut lines = Lines::new(3);
            let mut out = lines.push(&text[..cut]);
            out.extend(lines.push(&text[cut..]));
            out.extend(lines.rest());
            assert_eq!(out, b"[3] one\n[3] \n[3] two\n[3] three\n");
        }
    }

    #[test]
    fn a_line_without_end_is_printed_in_pieces() {
        let mut lines = Lines::new(0);
        let out = lines.push(&vec![b'x'; 3 * LONGEST_LINE + 5]);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
        assert_eq!(lines.line.len(), 5);
        assert!(lines.line.capacity() <= 2 * LONGEST_LINE);
    }

    #[test]
    fn lines_that_end_in_a_carriage_return_are_shown() {
        let mut lines = Lines::new(1);
        assert_eq!(lines.push(b"1 of 3\r2 of"), b"[1] 1 of 3\r");
        assert_eq!(lines.push(b" 3\r"), b"[1] 2 of 3\r");
        assert_eq!(lines.push(b"3 of 3\n"), b"[1] 3 of 3\n");
        // The carriage return comes before the text, and nothing comes after it.
        assert_eq!(lines.push(b"\r1 of 2"), b"");
        assert!(lines.waits());
        assert_eq!(lines.so_far(), b"[1] 1 of 2\r");
        assert!(!lines.waits());
        assert_eq!(lines.push(b"\r2 of 2"), b"");
        assert_eq!(lines.push(b"\n"), b"[1] 2 of 2\n");
        assert!(lines.rest().is_empty());
        // A line that is not a progress line waits for its end.
        assert_eq!(lines.push(b"half"), b"");
        assert!(!lines.waits());
        assert_eq!(lines.rest(), b"[1] half\n");
    }

    #[test]
    fn a_carriage_return_and_newline_are_one_line_end() {
        let text = b"one\r\n\r\ntwo\r\n";
        for cut in 0..=text.len() {
            let mut lines = Lines::new(0);
            let mut out = lines.push(&text[..cut]);
            out.extend(lines.push(&text[cut..]));
            let text = String::from_utf8(out).unwrap();
            let lines: Vec<&str> = text.lines().map(|line| line.rsplit('\r').next().unwrap()).collect();
            assert_eq!(lines, ["[0] one", "[0] ", "[0] two"], "cut at {cut}: {text:?}");
        }
    }
}
