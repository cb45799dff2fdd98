//! Parses `tcp://` and `file://` URLs.

use c10d_core::Result;

use super::{Meeting, Membership, checked, one_host, unclear};

pub(super) fn tcp(rest: &str) -> Result<Membership> {
    let (address, rank, size) = ranks("tcp", rest)?;
    let said = format!("init method {:?}", format!("tcp://{address}"));
    let wrong = |why: &str| unclear(format!("{said}: {why}; write tcp://host:port"));
    let (host, port) = address.trim_end_matches('/').rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
    let (host, port) = (host.trim(), port.trim());
    if host.is_empty() {
        return Err(wrong("it has no host"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(wrong("an IPv6 address needs brackets"));
    }
    let host = one_host(&format!("{said}: the host"), host)?;
    let port = port.parse().map_err(|_| wrong(&format!("{port:?} is not a port")))?;
    if port == 0 && size > 1 {
        return Err(wrong("with port 0, the other ranks cannot know the port"));
    }
    Ok(Membership { rank, size, meeting: Meeting::Rank0 { host, port }, prefix: None })
}

pub(super) fn file(rest: &str) -> Result<Membership> {
    let (path, rank, size) = ranks("file", rest)?;
    if !path.starts_with('/') {
        let said = format!("file://{path}");
        return Err(unclear(format!("init method {said:?}: the path must be absolute, as in file:///tmp/meeting")));
    }
    Ok(Membership { rank, size, meeting: Meeting::File(path.into()), prefix: None })
}

/// Returns the part of `rest` before the question mark, and the rank and the size after it.
fn ranks<'a>(scheme: &str, rest: &'a str) -> Result<(&'a str, u32, u32)> {
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let said = format!("init method {:?}", format!("{scheme}://{rest}"));
    let (mut rank, mut size) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (name.trim(), value.trim());
        let slot = match name {
            "rank" => &mut rank,
            "world_size" => &mut size,
            _ => return Err(unclear(format!("{said}: unknown parameter {name:?}"))),
        };
        let number = value.parse::<u32>();
        *slot = Some(number.map_err(|_| unclear(format!("{said}: {name} is {value:?}")))?);
    }
    let (Some(rank), Some(size)) = (rank, size) else {
        return Err(unclear(format!("{said}: it needs ?rank=R&world_size=N")));
    };
    let (rank, size) = checked(rank, size, ("rank", "world_size"))?;
    Ok((address, rank, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_takes_names_and_both_kinds_of_addresses() {
        for (host, text) in [("node7", "node7"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "[::1]")] {
            let member = tcp(&format!("{text}:29500?rank=1&world_size=2")).unwrap();
            assert_eq!(member.meeting, Meeting::Rank0 { host: host.into(), port: 29500 });
            assert_eq!((member.rank, member.size), (1, 2));
            let spaced = tcp(&format!(" {text} : 29500 ?rank= 1& world_size =2\n")).unwrap();
            assert_eq!(spaced, member);
        }
    }

    #[test]
    fn the_error_names_the_invalid_part_of_a_url() {
        for (rest, says) in [
            ("host?rank=0&world_size=1", "no port"),
            (":1?rank=0&world_size=1", "no host"),
            ("::1:80?rank=0&world_size=1", "brackets"),
            ("h:x?rank=0&world_size=1", "\"x\""),
            ("h:70000?rank=0&world_size=1", "70000"),
            ("h:0?rank=0&world_size=2", "port 0"),
            ("h:1?rank=0", "world_size"),
            ("h:1", "world_size"),
            ("h:1?rank=-1&world_size=2", "rank is \"-1\""),
            ("h:1?rank=2&world_size=2", "0 to 1"),
            ("h:1?rank=0&world_size=0", "world_size is 0"),
            ("a b:1?rank=0&world_size=1", "\"a b\""),
            ("a\nb:1?rank=0&world_size=1", "\"a\\nb\""),
            ("a,b:1?rank=0&world_size=1", "one host"),
            ("h:1?rank=0&size=2", "\"size\""),
        ] {
            let error = tcp(rest).unwrap_err().to_string();
            assert!(error.contains(says), "{rest}: {error}");
        }
        assert!(file("relative?rank=0&world_size=1").unwrap_err().to_string().contains("absolute"));
    }
}
