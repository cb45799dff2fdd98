//! How ranks that may have different backends agree on the backend for each device.

use crate::backend::registry::Offer;
use crate::text::harmless;
use crate::{Error, ErrorKind, Result};

/// Returns the offers of one rank as text, in order of preference. `word` is the device's name. In a line
/// `word=choice`, `choice` is the name of a backend that can serve the device, or `staged(BACKEND)`. A line
/// `word!choice` means that the rank's backend map asks for this choice. A line `word@identity` has the identity of the
/// rank's own device.
pub(super) fn write(offers: &[Offer]) -> String {
    let mut lines = String::new();
    for offer in offers {
        let sign = if offer.explicit { '!' } else { '=' };
        if let Some(identity) = &offer.identity {
            lines += &format!("{}@{identity}\n", offer.word);
        }
        for choice in offer.choices.iter().flatten() {
            lines += &format!("{}{sign}{}\n", offer.word, choice.name());
        }
    }
    lines
}

struct OfferedDevice<'a> {
    word: &'a str,
    /// `=`, `!` or `@`.
    sign: u8,
    /// The name of the choice, or the identity.
    text: &'a str,
}

fn read(lines: &str) -> Vec<OfferedDevice<'_>> {
    let line = |line| {
        let at = str::find(line, ['=', '!', '@'])?;
        Some(OfferedDevice { word: &line[..at], sign: line.as_bytes()[at], text: &line[at + 1..] })
    };
    lines.lines().filter_map(line).collect()
}

/// Computes the agreement from the offers of all ranks. For each device, the agreement has the choice for which a
/// backend map asks. If no map asks for a choice, the agreement has the first choice that all ranks have, in the order
/// of preference of the lowest rank that has a choice. Only staging is considered if no map asks for a choice and two
/// ranks share a device (their devices have the same identity).
///
/// # Errors
/// `Rendezvous` if the backend map of a rank asks for a choice that some ranks do not have. The error names these
/// ranks.
pub(super) fn agree(all: &[&str]) -> Result<String> {
    let all: Vec<Vec<OfferedDevice<'_>>> = all.iter().map(|lines| read(lines)).collect();
    let mut words: Vec<&str> = Vec::new();
    for line in all.iter().flatten() {
        if !words.contains(&line.word) {
            words.push(line.word);
        }
    }
    let mut agreed = String::new();
    for word in words {
        let lines = |rank: usize| all[rank].iter().filter(move |l| l.word == word);
        let of = |rank: usize| lines(rank).filter(|l| l.sign != b'@');
        let has = |rank: usize, choice: &str| of(rank).any(|l| l.text == choice);
        let ranks = 0..all.len();
        let insists = ranks.clone().find_map(|r| of(r).find(|l| l.sign == b'!'));
        if let Some(asked) = insists {
            let without: Vec<u32> = ranks.filter(|r| !has(*r, asked.text)).map(|r| r as u32).collect();
            if !without.is_empty() {
                let what = format!(
                    "the backend map of a rank asks for {} on {}, but the guilty ranks do not have that backend, or \
                        their backend maps do not allow it",
                    harmless(asked.text, 100),
                    harmless(word, 100)
                );
                return Err(Error::new(ErrorKind::Rendezvous, what).guilty(without));
            }
            agreed += &format!("{word}={}\n", asked.text);
            continue;
        }
        let first = ranks.clone().find(|r| of(*r).next().is_some()).unwrap_or(0);
        let mut devices: Vec<&str> = ranks.clone().flat_map(lines).filter(|l| l.sign == b'@').map(|l| l.text).collect();
        let told = devices.len();
        devices.sort_unstable();
        devices.dedup();
        let shared = devices.len() < told;
        let mut fit = of(first).filter(|l| !shared || l.text.starts_with("staged("));
        if let Some(line) = fit.find(|l| ranks.clone().all(|r| has(r, l.text))) {
            agreed += &format!("{word}={}\n", line.text);
        }
    }
    Ok(agreed)
}

/// Returns the agreement as pairs of a device word and the name of a choice.
pub(super) fn decided(agreed: &str) -> Vec<(String, String)> {
    read(agreed).into_iter().map(|l| (harmless(l.word, 100), harmless(l.text, 200))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_common_choice_is_taken() {
        let full = "cpu=a\ncuda=nccl\ncuda=staged(a)\n";
        let poor = "cpu=a\ncuda=staged(a)\n";
        let none = "cpu=a\n";
        assert_eq!(agree(&[full, full]).unwrap(), "cpu=a\ncuda=nccl\n");
        assert_eq!(agree(&[full, poor]).unwrap(), "cpu=a\ncuda=staged(a)\n");
        assert_eq!(agree(&[poor, full]).unwrap(), "cpu=a\ncuda=staged(a)\n");
        assert_eq!(agree(&[none, full, poor]).unwrap(), "cpu=a\n");
        assert_eq!(decided("cpu=a\nx=b\n"), [("cpu".into(), "a".into()), ("x".into(), "b".into())]);
    }

    #[test]
    fn ranks_that_share_a_device_are_staged_unless_the_map_names_a_backend() {
        let on = |gpu: &str, sign: char| format!("cuda@{gpu}\ncuda{sign}nccl\ncuda=staged(a)\n");
        let agreed = |gpus: [&str; 3], sign| {
            let all = gpus.map(|gpu| on(gpu, sign));
            agree(&[&all[0], &all[1], &all[2]]).unwrap()
        };
        assert_eq!(agreed(["a", "b", "c"], '='), "cuda=nccl\n");
        assert_eq!(agreed(["a", "b", "a"], '='), "cuda=staged(a)\n");
        assert_eq!(agreed(["a", "b", "a"], '!'), "cuda=nccl\n");
    }

    #[test]
    fn a_required_choice_is_taken_or_the_error_names_the_ranks_without_it() {
        let asks = "cpu!a\ncuda!nccl\n";
        assert_eq!(agree(&[asks, "cpu=b\ncpu=a\ncuda=nccl\n"]).unwrap(), "cpu=a\ncuda=nccl\n");
        let e = agree(&["cpu=a\n", asks, "cpu=a\ncuda=staged(a)\n"]).unwrap_err();
        assert_eq!(e.report().guilty, [0, 2]);
        assert!(e.to_string().contains("nccl on cuda"), "{e}");
    }
}
