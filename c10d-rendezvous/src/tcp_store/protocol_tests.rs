use proptest::prelude::*;

use super::Limits;
use super::protocol::{Parser, Refusal, Request};

const HELLO: &[u8] = &[0x00, 0xce, 0xf7, 0x85, 0x3c];

fn limits() -> Limits {
    Limits::default()
}

fn parse(parser: &mut Parser, mut bytes: &[u8]) -> Result<Vec<Request>, Refusal> {
    let mut found = Vec::new();
    while let Some(request) = parser.next(&mut bytes)? {
        found.push(request);
    }
    assert!(bytes.is_empty());
    Ok(found)
}

fn validated(limits: Limits) -> Parser {
    let mut parser = Parser::new(limits);
    assert_eq!(parse(&mut parser, HELLO), Ok(vec![]));
    assert!(parser.validated());
    parser
}

/// Every kind of request, with the bytes that PyTorch's client writes for it.
fn samples() -> Vec<(Vec<u8>, Request)> {
    fn v(s: &str) -> Vec<u8> {
        s.as_bytes().to_vec()
    }
    fn s(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }
    let n = |n: i64| n.to_le_bytes().to_vec();
    let cat = |code: u8, parts: &[Vec<u8>]| [vec![code], parts.concat()].concat();
    vec![
        (cat(0x01, &[s("/k"), s("v")]), Request::Set(v("/k"), v("v"))),
        (cat(0x01, &[s(""), s("")]), Request::Set(v(""), v(""))),
        (
            cat(0x02, &[s("/k"), s("old"), s("")]),
            Request::CompareSet { key: v("/k"), expected: v("old"), desired: v("") },
        ),
        (cat(0x03, &[s("/k")]), Request::Get(v("/k"))),
        (cat(0x04, &[s("/n"), n(-7)]), Request::Add(v("/n"), -7)),
        (cat(0x05, &[n(2), s("/a"), s("/b")]), Request::Check(vec![v("/a"), v("/b")])),
        (cat(0x05, &[n(0)]), Request::Check(vec![])),
        (cat(0x06, &[n(1), s("/a")]), Request::Wait(vec![v("/a")])),
        (cat(0x07, &[]), Request::NumKeys),
        (cat(0x08, &[s("/k")]), Request::Delete(v("/k"))),
        (cat(0x09, &[s("/k"), s("more")]), Request::Append(v("/k"), v("more"))),
        (cat(0x0a, &[n(2), s("/a"), s("/b")]), Request::MultiGet(vec![v("/a"), v("/b")])),
        (
            cat(0x0b, &[n(2), s("/a"), s("1"), s("/b"), s("")]),
            Request::MultiSet(vec![(v("/a"), v("1")), (v("/b"), v(""))]),
        ),
        (cat(0x0b, &[n(0)]), Request::MultiSet(vec![])),
        (cat(0x0c, &[]), Request::CancelWait),
        (cat(0x0d, &[vec![1, 2, 3, 4]]), Request::Ping(0x0403_0201)),
        (cat(0x0e, &[s("/q"), s("item")]), Request::QueuePush(v("/q"), v("item"))),
        (cat(0x0f, &[s("/q")]), Request::QueuePop(v("/q"))),
        (cat(0x10, &[s("/q")]), Request::QueueLen(v("/q"))),
        (cat(0x11, &[]), Request::ListKeys),
        (cat(0x12, &[s("/b"), n(4)]), Request::Barrier(v("/b"), 4)),
    ]
}

#[test]
fn every_request_is_parsed_at_every_split() {
    for (bytes, request) in samples() {
        for cut in 0..=bytes.len() {
            let mut parser = validated(limits());
            let mut found = parse(&mut parser, &bytes[..cut]).unwrap();
            found.extend(parse(&mut parser, &bytes[cut..]).unwrap());
            assert_eq!(found, std::slice::from_ref(&request), "cut at {cut}");
            assert!(!parser.mid_request() && parser.held() == 0);
        }
    }
}

#[test]
fn a_session_is_parsed_in_one_piece_and_byte_by_byte() {
    let (bytes, requests): (Vec<_>, Vec<_>) = samples().into_iter().unzip();
    let session = [HELLO.to_vec(), bytes.concat()].concat();
    assert_eq!(parse(&mut Parser::new(limits()), &session).unwrap(), requests);
    let mut parser = Parser::new(limits());
    let found: Vec<_> = session.chunks(1).flat_map(|byte| parse(&mut parser, byte).unwrap()).collect();
    assert_eq!(found, requests);
}

#[test]
fn requests_before_the_handshake_are_rejected() {
    for code in 1..=255 {
        let mut parser = Parser::new(limits());
        assert_eq!(parse(&mut parser, &[code]), Err(Refusal::NotValidated));
    }
    for flipped in 1..HELLO.len() {
        let mut hello = HELLO.to_vec();
        hello[flipped] ^= 1;
        assert_eq!(parse(&mut Parser::new(limits()), &hello), Err(Refusal::NotValidated));
    }
    assert_eq!(parse(&mut validated(limits()), HELLO), Err(Refusal::ValidatedTwice));
    for code in 0x13..=255 {
        assert_eq!(parse(&mut validated(limits()), &[code]), Err(Refusal::UnknownCommand(code)));
    }
}

#[test]
fn lengths_above_the_limit_are_refused_before_their_bytes_come() {
    let l = limits();
    for too_long in [l.key as u64 + 1, 1 << 31, 1 << 63, u64::MAX] {
        let request = [&[0x03][..], &too_long.to_le_bytes()].concat();
        assert_eq!(parse(&mut validated(l), &request), Err(Refusal::TooLong(too_long)));
    }
    for too_long in [l.value as u64 + 1, 1 << 31, 1 << 63, u64::MAX] {
        let request = [&[0x01][..], &1u64.to_le_bytes(), b"k", &too_long.to_le_bytes()].concat();
        assert_eq!(parse(&mut validated(l), &request), Err(Refusal::TooLong(too_long)));
    }
    for (code, too_many) in [0x05, 0x06, 0x0a, 0x0b].iter().flat_map(|c| [l.list as u64 + 1, 1 << 63].map(|n| (c, n))) {
        let request = [&[*code][..], &too_many.to_le_bytes()].concat();
        assert_eq!(parse(&mut validated(l), &request), Err(Refusal::TooMany(too_many)));
    }
    let most = [&[0x03][..], &(l.key as u64).to_le_bytes(), &vec![b'k'; l.key]].concat();
    assert_eq!(parse(&mut validated(l), &most), Ok(vec![Request::Get(vec![b'k'; l.key])]));
}

#[test]
fn an_announced_length_alone_takes_no_memory() {
    let mut parser = validated(limits());
    let announced = [&[0x01][..], &1u64.to_le_bytes(), b"k", &(8u64 << 20).to_le_bytes(), b"abc"].concat();
    assert_eq!(parse(&mut parser, &announced), Ok(vec![]));
    assert!(parser.held() < 1024, "{} bytes held for 4 received", parser.held());
}

#[test]
fn one_request_has_bounded_memory() {
    let mut l = limits();
    l.request = 1 << 20;
    let mut parser = validated(l);
    let pair = [&1u64.to_le_bytes()[..], b"k", &1000u64.to_le_bytes(), &[0; 1000]].concat();
    let mut bytes = [&[0x0b][..], &(l.list as u64).to_le_bytes()].concat();
    let mut sent = 0;
    while parse(&mut parser, &bytes).is_ok() {
        assert!(parser.held() <= l.request);
        bytes.clone_from(&pair);
        sent += pair.len();
        assert!(sent < 2 * l.request, "never refused");
    }
    // Empty keys count, because the parser adds an overhead for each key.
    let mut parser = validated(Limits { request: 1 << 20, ..limits() });
    let empty = [&[0x05][..], &(l.list as u64).to_le_bytes(), &vec![0; 8 * l.list]].concat();
    assert_eq!(parse(&mut parser, &empty), Err(Refusal::RequestTooLarge));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic_in_limited_memory(bytes in prop::collection::vec(any::<u8>(), 0..400), chunk in 1usize..50) {
        let mut parser = validated(Limits { request: 4096, ..limits() });
        for chunk in bytes.chunks(chunk) {
            if parse(&mut parser, chunk).is_err() {
                break;
            }
            prop_assert!(parser.held() <= 4096);
        }
    }
}
