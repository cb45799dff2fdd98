//! Why a file is not loaded.

use std::fmt;

/// The rule that a file or directory broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The path is relative, empty, or climbs with `..`.
    Path,
    /// It does not exist, or cannot be read.
    Unreadable,
    /// A directory above it belongs to another user or can be written by others.
    Directory,
    /// The file belongs to another user.
    Owner,
    /// The file can be written by group or others.
    Writable,
    /// The file is set-user-id or set-group-id.
    SetId,
    /// Not a regular file.
    NotRegular,
    /// A symbolic link, at the end of the path or on the way.
    Symlink,
    /// Not an ELF file.
    NotElf,
    /// It ends before the contents that its headers announce.
    Truncated,
    /// An ELF file for another machine, word size or byte order, or no shared library.
    Foreign,
    /// It asks for an executable stack.
    ExecutableStack,
    /// It does not export the entry.
    Entry,
    /// It has no note, or the note is not valid.
    Note,
    /// It was built for another ABI.
    Abi,
    /// The system's loader refuses it: undefined symbols, missing libraries.
    Link,
    /// It ended, hung or crashed while it was loaded.
    Crash,
    /// Its entry returned a table that breaks the contract.
    Table,
    /// Its name is taken by a built-in backend or by a plugin that came before.
    Name,
    /// The same file was loaded under another path.
    Duplicate,
    /// A variable that is ignored, because the process has more rights than its user.
    Privileged,
    /// It was replaced while it was checked or loaded.
    Replaced,
    /// A directory has too many files.
    Limit,
    /// The allow or deny list excludes it.
    Filter,
}

impl Rule {
    /// Every rule.
    pub const ALL: &[Rule] = &[
        Rule::Path,
        Rule::Unreadable,
        Rule::Directory,
        Rule::Owner,
        Rule::Writable,
        Rule::SetId,
        Rule::NotRegular,
        Rule::Symlink,
        Rule::NotElf,
        Rule::Truncated,
        Rule::Foreign,
        Rule::ExecutableStack,
        Rule::Entry,
        Rule::Note,
        Rule::Abi,
        Rule::Link,
        Rule::Crash,
        Rule::Table,
        Rule::Name,
        Rule::Duplicate,
        Rule::Privileged,
        Rule::Replaced,
        Rule::Limit,
        Rule::Filter,
    ];

    /// The rule's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Path => "path",
            Rule::Unreadable => "unreadable",
            Rule::Directory => "directory",
            Rule::Owner => "owner",
            Rule::Writable => "writable",
            Rule::SetId => "set-id",
            Rule::NotRegular => "not-regular",
            Rule::Symlink => "symlink",
            Rule::NotElf => "not-elf",
            Rule::Truncated => "truncated",
            Rule::Foreign => "foreign",
            Rule::ExecutableStack => "executable-stack",
            Rule::Entry => "entry",
            Rule::Note => "note",
            Rule::Abi => "abi",
            Rule::Link => "link",
            Rule::Crash => "crash",
            Rule::Table => "table",
            Rule::Name => "name",
            Rule::Duplicate => "duplicate",
            Rule::Privileged => "privileged",
            Rule::Replaced => "replaced",
            Rule::Limit => "limit",
            Rule::Filter => "filter",
        }
    }

    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Rule> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: the rule, and the exact finding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
#[non_exhaustive]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// The finding, and, where it helps, what to do.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(rule: Rule, detail: impl Into<String>) -> Refusal {
        Refusal { rule, detail: detail.into() }
    }
}
