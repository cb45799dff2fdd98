//! The lines of PMI-1 (see `super`), between the MPI library and the thread that answers it: the server.

/// The lengths of the longest key and of the longest value that the library may use.
pub(super) const MAX_KEY: usize = 64;
pub(super) const MAX_VALUE: usize = 1024;
/// The longest line: a value, a key, a name, and the words between them.
pub(super) const MAX_LINE: usize = 4096;

/// A request of the library.
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
    /// The library is about to end the process.
    Abort,
    /// A request that is not supported, with its name.
    Other(&'a str),
}

/// Reads a line. Returns `None` if it is not a line of PMI, or if its key or value is missing or too long.
pub(super) fn parse(line: &str) -> Option<Ask<'_>> {
    // The value extends to the end of the line.
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

/// Packs the pairs that a rank has put since its previous barrier (one round) into one value for the store. Each line
/// is a key and its value.
pub(super) fn pack(pairs: &[(String, String)]) -> String {
    let lines: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} {value}")).collect();
    lines.join("\n")
}

/// The packed values of the ranks, round by round. A value is unpacked when the library asks for it.
#[derive(Default)]
pub(super) struct Pairs(Vec<Round>);

/// The packed values of all ranks in one round, and the rank where the latest search found its key. The next search
/// begins there, since libraries ask for the keys rank by rank.
struct Round {
    texts: Vec<Vec<u8>>,
    at: usize,
}

impl Pairs {
    pub(super) fn add(&mut self, texts: Vec<Vec<u8>>) {
        self.0.push(Round { texts, at: 0 });
    }

    /// Returns the value of a key in the last round that has it.
    pub(super) fn get(&mut self, key: &str) -> Option<&str> {
        self.0.iter_mut().rev().find_map(|round| round.get(key))
    }
}

impl Round {
    fn get(&mut self, key: &str) -> Option<&str> {
        let ranks = self.texts.len();
        let (at, value) =
            (self.at..self.at + ranks).map(|i| i % ranks).find_map(|i| Some((i, value(&self.texts[i], key)?)))?;
        self.at = at;
        Some(value)
    }
}

/// Finds the value of a key in a packed text. The text comes from another rank and may be wrong. So values that are too
/// long, are not UTF-8 or have control characters are ignored.
fn value<'a>(packed: &'a [u8], key: &str) -> Option<&'a str> {
    let value = |line: &'a [u8]| {
        let value = line.strip_prefix(key.as_bytes())?.strip_prefix(b" ").filter(|value| value.len() <= MAX_VALUE)?;
        std::str::from_utf8(value).ok().filter(|value| !value.contains(|c: char| c.is_control()))
    };
    packed.split(|b| *b == b'\n').find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_real_libraries_are_parsed() {
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

    fn packed(pairs: &[(&str, &str)]) -> Vec<u8> {
        pack(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
            .into_bytes()
    }

    #[test]
    fn pairs_are_found_in_what_the_ranks_packed() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.get("a"), None);
        pairs.add(Vec::new());
        pairs.add(vec![packed(&[("a", "1"), ("b-2", "x y=z")]), packed(&[]), packed(&[("c", "3")])]);
        let get = |pairs: &mut Pairs, key| pairs.get(key).map(str::to_owned);
        for (key, value) in [("c", Some("3")), ("nothing", None), ("a", Some("1")), ("b-2", Some("x y=z")), ("b", None)]
        {
            for _ in 0..2 {
                assert_eq!(get(&mut pairs, key).as_deref(), value, "{key}");
            }
        }
        pairs.add(vec![packed(&[("d", "4")]), packed(&[("a", "5")])]);
        assert_eq!(get(&mut pairs, "a").as_deref(), Some("5"), "the last round is searched first");
        assert_eq!(get(&mut pairs, "c").as_deref(), Some("3"));
    }

    #[test]
    fn invalid_pairs_are_ignored() {
        let forged = format!("key\n 1\nk \x07bell\nlong {}\ngood v\n\u{fffd} \u{fffd}", "v".repeat(1025));
        assert_eq!(value(forged.as_bytes(), "good"), Some("v"));
        assert_eq!(["key", "k", "long"].map(|key| value(forged.as_bytes(), key)), [None; 3]);
        assert_eq!(value(b"k \xff\xfe\x00", "k"), None);
    }
}
