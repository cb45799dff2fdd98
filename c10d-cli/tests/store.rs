//! `c10d store`: a server that clients can use.

use crate::common;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use c10d::{Store, TcpStore};
use common::{run, start};
use rustix::process::Signal;

#[test]
fn clients_share_what_they_set_until_the_server_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut running = start(&["store", "--bind", "127.0.0.1:0"]);
        let addr: SocketAddr = running.line().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let connect = || TcpStore::connect(&addr.ip().to_string(), addr.port(), deadline).unwrap();
        let (one, other) = (connect(), connect());
        one.set("key", b"value", deadline).unwrap();
        assert_eq!(other.get("key", deadline).unwrap(), b"value");
        assert_eq!(other.add("count", 2, deadline).unwrap(), 2);
        running.signal(signal);
        let ended = running.end();
        assert!(ended.status.success(), "{}", ended.stderr);
    }
}

#[test]
fn an_address_that_cannot_be_bound_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for bind in [addr.as_str(), "nonsense"] {
        let ended = run(&["store", "--bind", bind]);
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains(bind), "{}", ended.stderr);
    }
}

#[test]
fn a_closed_reader_causes_no_message() {
    let verbs = [&["--help"][..], &["run", "--help"], &["--version"], &["store", "--bind", "127.0.0.1:0"]];
    let plugins = [&["plugins", "list"][..], &["plugins", "list", "--json"]];
    for args in verbs.iter().chain(plugins.iter().filter(|_| cfg!(feature = "plugins"))) {
        // The reader is gone before the program starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut program = Command::new(env!("CARGO_BIN_EXE_c10d"));
        let ended = program.args(*args).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{args:?}");
        assert!(ended.status.code().is_some_and(|code| [0, 141].contains(&code)), "{args:?}: {:?}", ended.status);
    }
}
