//! The reasons for not loading a file.

use std::fmt;

/// The rule by which a file, directory or variable was refused or skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The path is relative or empty, or has a component `..`.
    Path,
    /// The file or directory does not exist, or cannot be read.
    Unreadable,
    /// A directory on the path belongs to another user or can be written by others.
    Directory,
    /// The file belongs to another user.
    Owner,
    /// The file can be written by group or others.
    Writable,
    /// The file is set-user-id or set-group-id.
    SetId,
    /// The path does not lead to a regular file.
    NotRegular,
    /// The path, or a directory on it, is a symbolic link.
    Symlink,
    /// The file is not an ELF file.
    NotElf,
    /// The file ends before the contents that its headers describe, or its headers are not valid.
    Truncated,
    /// The file is an ELF file for another machine, word size or byte order, or is not a shared library.
    Foreign,
    /// The library asks for an executable stack.
    ExecutableStack,
    /// The library does not export the entry, the function `c10d_plugin_v1`.
    Entry,
    /// The library has no ELF note of c10d, or the note is not valid.
    Note,
    /// The library was built for another ABI.
    Abi,
    /// The system's loader refuses the library, for example because of undefined symbols or missing libraries.
    Link,
    /// While the library was loaded or its entry ran, it ended the process, crashed, or did not return.
    Crash,
    /// The library's entry returned a table that breaks the contract.
    Table,
    /// The plugin's name is taken by a built-in backend or by an earlier plugin.
    Name,
    /// An earlier path of the search leads to the same file.
    Duplicate,
    /// A variable or directory is ignored, because the process has more privileges than its user.
    Privileged,
    /// The file was replaced or modified while it was checked or loaded.
    Replaced,
    /// The directory has too many files.
    Limit,
    /// The allow or deny list excludes the plugin, or a listed name matches no plugin.
    Filter,
}

impl Rule {
    /// All rules.
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

    /// Returns the rule with this name, or `None` if there is none.
    pub fn from_name(name: &str) -> Option<Rule> {
        Rule::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: the broken rule, and the details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
#[non_exhaustive]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// The details, and in some cases advice.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(rule: Rule, detail: impl Into<String>) -> Refusal {
        Refusal { rule, detail: detail.into() }
    }
}
