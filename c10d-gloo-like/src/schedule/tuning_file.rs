//! Tables in TOML files: a line that identifies the format, and one rule per line.

use std::fmt::Write;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use c10d_core::text::harmless;
use c10d_core::{Error, OpKind, Result};
use serde::{Deserialize, Deserializer};

use super::tuned::TUNED;
use super::{Algorithm, Fabric, Rule, Table};

/// The value of `format` in a file.
const FORMAT: &str = "c10d-gloo-like tuning 1";
/// The largest size of a file in bytes. A larger file is rejected.
const MOST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "format", rename = "format")]
    _format: (),
    rules: Vec<toml::Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    op: String,
    fabric: String,
    ranks: (u32, u32),
    up_to: Option<usize>,
    algorithm: String,
}

fn format<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<(), D::Error> {
    let found = String::deserialize(d)?;
    if found == FORMAT { Ok(()) } else { Err(serde::de::Error::custom(format!("format is {found:?}, not {FORMAT:?}"))) }
}

impl Row {
    /// Returns the rule. The error says what is wrong with the row.
    fn rule(&self) -> std::result::Result<Rule, String> {
        let names = |all: &mut dyn Iterator<Item = &'static str>| all.collect::<Vec<_>>().join(" ");
        let op = TUNED.into_iter().find(|op| op.name() == self.op).ok_or_else(|| {
            format!(
                "there are no rules for op {:?}; the ops with rules are: {}",
                self.op,
                names(&mut TUNED.iter().map(|o: &OpKind| o.name()))
            )
        })?;
        let fabric = Fabric::from_name(&self.fabric).ok_or_else(|| {
            format!("unknown fabric {:?}; known: {}", self.fabric, names(&mut Fabric::ALL.iter().map(|f| f.name())))
        })?;
        let able = || Algorithm::ALL.iter().filter(|a| a.ops().contains(&op));
        let algorithm = able().copied().find(|a| a.name() == self.algorithm).ok_or_else(|| {
            let all = names(&mut able().map(|a| a.name()));
            format!("unknown algorithm {:?} of {}; known: {all}", self.algorithm, op.name())
        })?;
        if self.ranks.0 < 2 || self.ranks.1 < self.ranks.0 {
            return Err(format!(
                "ranks from {} to {}: the first must be at least 2, and not above the second",
                self.ranks.0, self.ranks.1
            ));
        }
        Ok(Rule { op, fabric, ranks: self.ranks, up_to: self.up_to.unwrap_or(usize::MAX), algorithm })
    }
}

impl Table {
    /// Reads a tuning file. Its rules precede those of the built-in table, so the file need not cover all calls.
    ///
    /// # Errors
    /// The file cannot be read, or is not a tuning file. The error names the file and the line.
    pub fn read(path: &Path) -> Result<Table> {
        let mut table = Table::of_file(path)?;
        table.rules.extend(Table::builtin().rules);
        Ok(table)
    }

    /// Reads only the rules of a tuning file, without the built-in ones.
    ///
    /// # Errors
    /// The same as for [`Table::read`].
    pub fn of_file(path: &Path) -> Result<Table> {
        let name = harmless(&path.to_string_lossy(), 200);
        let refuse = |line: usize, what: &str| Error::invalid(format!("tuning file {name}, line {line}: {what}"));
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_string(&mut text));
        read.map_err(|e| refuse(1, "it cannot be read").caused_by(e))?;
        if text.len() as u64 > MOST {
            return Err(refuse(1, &format!("the file has more than {MOST} bytes, so it is not a tuning file")));
        }
        let file: File =
            toml::from_str(&text).map_err(|e| refuse(line(&text, e.span()), &harmless(e.message(), 300)))?;
        let rule = |row: &toml::Spanned<Row>| {
            row.get_ref().rule().map_err(|what| refuse(line(&text, Some(row.span())), &harmless(&what, 300)))
        };
        Ok(Table { rules: file.rules.iter().map(rule).collect::<Result<_>>()?, file: Some(name) })
    }

    /// Returns the text of a tuning file with these rules. `head` becomes a comment at its beginning.
    pub fn to_toml(&self, head: &str) -> String {
        let mut text: String = head.lines().map(|line| format!("# {line}\n")).collect();
        let _ = writeln!(text, "format = \"{FORMAT}\"\nrules = [");
        for rule in &self.rules {
            let _ = writeln!(text, "  {rule},");
        }
        text + "]\n"
    }
}

/// Returns the number of the line in which this range of the text begins; without a range, that of the last line.
fn line(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.map_or(text, |span| text.get(..span.start).unwrap_or(text));
    1 + before.matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_builtin_table_comes_back_from_its_file() {
        let builtin = Table::builtin();
        let file = written(&builtin.to_toml("two\nlines"));
        let read = Table::read(file.path()).unwrap();
        assert_eq!(read.rules, [&builtin.rules[..], &builtin.rules[..]].concat());
        assert_eq!(read.file.as_deref(), file.path().to_str());
    }

    #[test]
    fn bad_and_foreign_files_are_named_with_the_line() {
        let good = "{ op = \"barrier\", fabric = \"shm\", ranks = [2, 4], algorithm = \"bruck\" },";
        let file = |rule: &str| format!("format = \"{FORMAT}\"\nrules = [\n{good}\n{rule}\n]\n");
        for (text, line, word) in [
            (file(&good.replace("bruck", "tree")), 4, "unknown algorithm \"tree\" of barrier; known: bruck direct"),
            (
                file(&good.replace("barrier", "gather")),
                4,
                "there are no rules for op \"gather\"; the ops with rules are: all_reduce",
            ),
            (file(&good.replace("shm", "ether")), 4, "unknown fabric \"ether\"; known: shm loopback tcp mixed"),
            (file(&good.replace("[2, 4]", "[4, 2]")), 4, "ranks from 4 to 2"),
            (file(&good.replace("ranks", "rank")), 4, "unknown field `rank`"),
            (file(&good.replace("fabric = \"shm\",", "")), 4, "missing field `fabric`"),
            (file("{"), 5, ""),
            ("[package]\nname = \"x\"\n".into(), 1, "unknown field `package`"),
            ("\nformat = \"NCCL 2\"\nrules = []\n".into(), 2, "format is \"NCCL 2\""),
            ("# nothing\n".into(), 1, "missing field `format`"),
        ] {
            let written = written(&text);
            let error = Table::read(written.path()).unwrap_err().to_string();
            let place = format!("tuning file {}, line {line}: ", written.path().display());
            assert!(error.contains(&place) && error.contains(word), "{text:?}: {error}");
        }
        let error = Table::read(Path::new("/nonexistent/table")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/table, line 1: it cannot be read"), "{error}");
        let bytes = written("");
        std::fs::write(bytes.path(), [0xFFu8; 100]).unwrap();
        assert!(Table::read(bytes.path()).unwrap_err().to_string().contains("cannot be read"));
    }
}
