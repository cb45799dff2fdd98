//! The failed cases that are shown: a few of each kind, instead of hundreds with the same text.

use std::fmt;

/// The number of kinds of failures that are shown for one world size.
const KINDS: usize = 4;
/// The number of cases that are shown of each kind, and the number of lines that are shown of each case.
const CASES: usize = 2;

/// The failures with one world size, grouped by reason.
pub(super) struct Failures<'a> {
    kinds: Vec<Kind<'a>>,
}

struct Kind<'a> {
    reason: String,
    cases: Vec<(&'a str, &'a str)>,
}

impl<'a> Failures<'a> {
    /// Groups the failed cases by reason.
    pub(super) fn of(failed: impl IntoIterator<Item = (&'a str, &'a str)>) -> Failures<'a> {
        let mut kinds: Vec<Kind<'_>> = Vec::new();
        for case in failed {
            let reason = reason(case.1);
            match kinds.iter_mut().find(|kind| kind.reason == reason) {
                Some(kind) => kind.cases.push(case),
                None => kinds.push(Kind { reason, cases: vec![case] }),
            }
        }
        // The first kind may explain the others, so it stays first.
        if let Some((_, others)) = kinds.split_first_mut() {
            others.sort_by_key(|kind| std::cmp::Reverse(kind.cases.len()));
        }
        Failures { kinds }
    }
}

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Kind { cases, .. } in self.kinds.iter().take(KINDS) {
            for (name, why) in cases.iter().take(CASES) {
                writeln!(f, "  {name}: {}", why.lines().take(CASES).collect::<Vec<_>>().join("\n    "))?;
            }
            if let more @ 1.. = cases.len().saturating_sub(CASES) {
                writeln!(f, "    and {more} more for the same reason")?;
            }
        }
        let others = self.kinds.iter().skip(KINDS);
        if let more @ 1.. = others.map(|kind| kind.cases.len()).sum::<usize>() {
            writeln!(f, "  and {more} more for other reasons")?;
        }
        Ok(())
    }
}

/// Returns the first line of the reason, with `#` in place of each number (rank, place, value).
fn reason(why: &str) -> String {
    let first = why.lines().next().unwrap_or_default();
    let mut out = String::new();
    for c in first.chars() {
        let digit = c.is_ascii_digit();
        if !digit || !out.ends_with('#') {
            out.push(if digit { '#' } else { c });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundreds_of_cases_with_the_same_reason_take_a_few_lines() {
        let names: Vec<String> = (0..797).map(|i| format!("w2/op/{i}")).collect();
        let whys: Vec<String> = (0..797)
            .map(|i| match i {
                10 => "rank 0: it hangs".to_owned(),
                _ => format!("rank {}: element {i} is 0, must be {i}\nrank 1: and so on", i % 2),
            })
            .collect();
        let failed = names.iter().map(String::as_str).zip(whys.iter().map(String::as_str));
        let text = Failures::of(failed).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  w2/op/0: rank 0: element 0 is 0, must be 0",
                "    rank 1: and so on",
                "  w2/op/1: rank 1: element 1 is 0, must be 1",
                "    rank 1: and so on",
                "    and 794 more for the same reason",
                "  w2/op/10: rank 0: it hangs",
            ]
        );
    }

    #[test]
    fn many_reasons_are_counted() {
        let whys: Vec<String> = (0..20u8).map(|i| format!("reason {}", char::from(b'a' + i))).collect();
        let text = Failures::of(whys.iter().map(|why| ("case", why.as_str()))).to_string();
        assert_eq!(text.lines().count(), KINDS + 1);
        assert!(text.ends_with("  and 16 more for other reasons\n"), "{text}");
    }
}
