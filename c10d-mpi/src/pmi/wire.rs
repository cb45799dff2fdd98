//! The lines of PMI-1.

/// The longest key and value that we say we take.
pub(super) const MAX_KEY: usize = 64;
pub(super) const MAX_VALUE: usize = 1024;
/// The longest line: a value, a key, a name, and the words between.
pub(super) const MAX_LINE: usize = 4096;

/// What the library asks.
#[derive(Debug, PartialEq)]
pub(super) enum Ask<'a> {
    Init,
    Maxes,
    AppNumber,
    UniverseSize,
    Name,
    Get(&'a str),
    Put(&'a str, &'a str),
    Barrier,
    Finalize,
    /// The library ends the process by itself.
    Abort,
    /// Something that is not offered, by its name.
    Other(&'a str),
}

/// Reads a line; `None`: it is none of PMI's.
pub(super) fn parse(line: &str) -> Option<Ask<'_>> {
    // The value is the rest of its line.
    let (head, value) = match line.split_once(" value=") {
        Some((head, value)) => (head, Some(value)),
        None => (line, None),
    };
    let field = |name: &str| {
        head.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).filter(|text| !text.is_empty())
    };
    Some(match field("cmd")? {
        "init" => Ask::Init,
        "get_maxes" => Ask::Maxes,
        "get_appnum" => Ask::AppNumber,
        "get_universe_size" => Ask::UniverseSize,
        "get_my_kvsname" => Ask::Name,
        "get" => Ask::Get(field("key").filter(|key| key.len() <= MAX_KEY)?),
        "put" => {
            let key = field("key").filter(|key| key.len() <= MAX_KEY)?;
            Ask::Put(key, value.filter(|value| value.len() <= MAX_VALUE)?.trim_end())
        }
        "barrier_in" => Ask::Barrier,
        "finalize" => Ask::Finalize,
        "abort" => Ask::Abort,
        other => Ask::Other(other),
    })
}

/// A rank's pairs of one round, as one value of the store: lines of key and value.
pub(super) fn pack(pairs: &[(String, String)]) -> String {
    let lines: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} {value}")).collect();
    lines.join("\n")
}

/// The pairs of a packed value. They are other ranks' bytes: what PMI's lines could not carry is left out.
pub(super) fn unpack(packed: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(packed);
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        let fits = !key.is_empty() && key.len() <= MAX_KEY && value.len() <= MAX_VALUE;
        let plain = !line.contains(|c: char| c.is_control());
        (fits && plain).then(|| (key.to_owned(), value.to_owned()))
    };
    text.split('\n').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_say() {
        let cases = [
            ("cmd=init pmi_version=1 pmi_subversion=1", Some(Ask::Init)),
            ("cmd=get_maxes", Some(Ask::Maxes)),
            ("cmd=get kvsname=abc key=PMI_process_mapping", Some(Ask::Get("PMI_process_mapping"))),
            (
                "cmd=put kvsname=abc key=-allgather-1-0 value=0200B2C1 x=[8]",
                Some(Ask::Put("-allgather-1-0", "0200B2C1 x=[8]")),
            ),
            ("cmd=put kvsname=abc key=bc-0 value=mpi#0200A4EF..$", Some(Ask::Put("bc-0", "mpi#0200A4EF..$"))),
            ("cmd=barrier_in", Some(Ask::Barrier)),
            ("cmd=spawn nprocs=2", Some(Ask::Other("spawn"))),
            ("cmd=get kvsname=abc", None),
            ("cmd=put kvsname=abc key=k", None),
            ("", None),
            ("value=cmd=get", None),
        ];
        for (line, ask) in cases {
            assert_eq!(parse(line), ask, "{line}");
        }
        let long = format!("cmd=get key={}", "k".repeat(MAX_KEY + 1));
        assert_eq!(parse(&long), None);
    }

    #[test]
    fn pairs_are_packed() {
        let pairs = [("a", "1"), ("b-2", "x y=z")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(unpack(pack(&pairs).as_bytes()), pairs);
        assert!(unpack(pack(&[]).as_bytes()).is_empty());
        let forged =
            format!("key\n 1\nk \x07bell\n{} v\nk {}\ngood v\n\u{fffd} \u{fffd}", "k".repeat(65), "v".repeat(1025));
        assert_eq!(unpack(forged.as_bytes()).first(), Some(&("good".to_owned(), "v".to_owned())));
        assert!(unpack(b"\xff\xfe\x00").is_empty());
    }
}
