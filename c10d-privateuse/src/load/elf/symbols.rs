//! Checks whether the library exports a function, by the hash tables that the system's loader uses.

use super::dynamic::Dynamic;
use super::header::Headers;
use super::reader::{Reader, u16_at, u32_at, u64_at};
use crate::refusal::{Refusal, Rule};

/// The maximum number of steps in a chain of the hash table.
const MOST_STEPS: u32 = 1 << 14;

pub(super) fn exports(reader: &Reader<'_>, headers: &Headers, d: &Dynamic, name: &str) -> Result<(), Refusal> {
    let table = Table { reader, headers, d, name };
    let found = match (d.gnu_hash, d.hash) {
        (Some(at), _) => table.by_gnu_hash(at)?,
        (None, Some(at)) => table.by_hash(at)?,
        (None, None) => return Err(Refusal::new(Rule::Truncated, "it has no hash table for its symbols")),
    };
    if found { Ok(()) } else { Err(Refusal::new(Rule::Entry, format!("it does not export the function {name}"))) }
}

struct Table<'a> {
    reader: &'a Reader<'a>,
    headers: &'a Headers,
    d: &'a Dynamic,
    name: &'a str,
}

impl Table<'_> {
    fn word(&self, base: u64, index: u64, what: &str) -> Result<u32, Refusal> {
        let address = index.checked_mul(4).and_then(|o| base.checked_add(o)).unwrap_or(u64::MAX);
        let offset = self.headers.offset(address, what)?;
        Ok(u32_at(&self.reader.bytes(offset, 4, what)?, 0))
    }

    fn by_gnu_hash(&self, at: u64) -> Result<bool, Refusal> {
        const WHAT: &str = "the symbols' hash table";
        let (buckets, first) = (self.word(at, 0, WHAT)?, self.word(at, 1, WHAT)?);
        let bloom = self.word(at, 2, WHAT)?;
        if buckets == 0 {
            return Ok(false);
        }
        let hash = self.name.bytes().fold(5381u32, |h, c| h.wrapping_mul(33).wrapping_add(u32::from(c)));
        let first_bucket = 4 + 2 * u64::from(bloom);
        let mut index = self.word(at, first_bucket + u64::from(hash % buckets), WHAT)?;
        if index < first {
            return Ok(false);
        }
        for _ in 0..MOST_STEPS {
            let chain = first_bucket + u64::from(buckets) + u64::from(index - first);
            let word = self.word(at, chain, WHAT)?;
            if (word | 1) == (hash | 1) && self.is_it(index)? {
                return Ok(true);
            }
            if word & 1 == 1 {
                return Ok(false);
            }
            index = index.checked_add(1).ok_or_else(endless)?;
        }
        Err(endless())
    }

    fn by_hash(&self, at: u64) -> Result<bool, Refusal> {
        const WHAT: &str = "the symbols' hash table";
        let buckets = self.word(at, 0, WHAT)?;
        if buckets == 0 {
            return Ok(false);
        }
        let hash = self.name.bytes().fold(0u32, |h, c| {
            let h = (h << 4).wrapping_add(u32::from(c));
            let high = h & 0xf000_0000;
            (h ^ (high >> 24)) & !high
        });
        let mut index = self.word(at, 2 + u64::from(hash % buckets), WHAT)?;
        for _ in 0..MOST_STEPS {
            if index == 0 {
                return Ok(false);
            }
            if self.is_it(index)? {
                return Ok(true);
            }
            index = self.word(at, 2 + u64::from(buckets) + u64::from(index), WHAT)?;
        }
        Err(endless())
    }

    /// Whether this symbol is a visible function with the name `self.name`, and is defined in the library.
    fn is_it(&self, index: u32) -> Result<bool, Refusal> {
        const WHAT: &str = "the table of symbols";
        let address = self.d.symbols.saturating_add(24 * u64::from(index));
        let symbol = self.reader.bytes(self.headers.offset(address, WHAT)?, 24, WHAT)?;
        let (name, info, visibility) = (u64::from(u32_at(&symbol, 0)), symbol[4], symbol[5] & 3);
        let len = self.name.len() as u64 + 1;
        if name.checked_add(len).is_none_or(|end| end > self.d.strings_size) {
            return Ok(false);
        }
        let address = self.d.strings.saturating_add(name);
        let text = self.reader.bytes(self.headers.offset(address, "the symbols' names")?, len, "the symbols' names")?;
        let function = matches!(info & 15, 2 | 10) && matches!(info >> 4, 1 | 2);
        let here = u16_at(&symbol, 6) != 0 && u64_at(&symbol, 8) != 0 && matches!(visibility, 0 | 3);
        Ok(text.strip_suffix(b"\0") == Some(self.name.as_bytes()) && function && here)
    }
}

fn endless() -> Refusal {
    Refusal::new(Rule::Truncated, "the symbols' hash table has no end")
}
