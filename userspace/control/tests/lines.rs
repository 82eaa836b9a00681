//! The codec against whatever arrives: bounded, exact, and never a panic.

use proptest::prelude::*;
use sigil_control::{
    Error, Failure, FailureKind, Lines, MAX_REPLY, MAX_REQUEST, MAX_SMALL_REQUEST, Reply, Request,
    ZoneRef, decode, encode,
};

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Status),
        Just(Request::Stats),
        Just(Request::Watch),
        any::<bool>().prop_map(|dry_run| Request::Reload { dry_run }),
        (any::<String>(), any::<String>(), any::<bool>())
            .prop_map(|(name, document, dry_run)| Request::Load { name, document, dry_run }),
        any::<u32>().prop_map(|scid| Request::Run { zone: ZoneRef::Id(scid) }),
        any::<String>().prop_map(|name| Request::Run { zone: ZoneRef::Name(name) }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_way(request in request()) {
        let line = encode(&request, MAX_REQUEST).unwrap();
        prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        prop_assert_eq!(decode::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn lines_come_out_as_they_went_in(
        lines in prop::collection::vec("[^\n]{0,40}", 0..10),
        piece in 1usize..50,
    ) {
        let stream: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
        let mut cutter = Lines::new(4 * 40 + 1);
        let mut found = Vec::new();
        for part in stream.chunks(piece) {
            cutter.push(part);
            while let Some(line) = cutter.next().unwrap() {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        prop_assert_eq!(found, lines);
    }

    #[test]
    fn noise_is_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<Request>(&noise);
        let _ = decode::<Reply>(&noise);
    }

    #[test]
    fn what_is_held_is_bounded(limit in 1usize..100, pieces in prop::collection::vec(1usize..30, 1..20)) {
        let mut cutter = Lines::new(limit);
        let mut pushed = 0;
        for piece in pieces {
            cutter.push(&vec![b'x'; piece]);
            pushed += piece;
            let refused = matches!(cutter.next(), Err(Error::TooLong { .. }));
            prop_assert_eq!(refused, pushed >= limit);
            if refused {
                break;
            }
        }
    }
}

#[test]
fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
    let mut fits = Lines::new(4);
    fits.push(b"abc\n");
    assert_eq!(fits.next().unwrap(), Some(b"abc".to_vec()));
    let mut over = Lines::new(4);
    over.push(b"abcd\n");
    assert!(matches!(over.next(), Err(Error::TooLong { limit: 4 })));
}

#[test]
fn another_version_is_named() {
    let error = decode::<Request>(br#"{"version":2,"request":"status"}"#).unwrap_err();
    assert!(matches!(error, Error::Version { theirs: 2 }), "{error}");
}

#[test]
fn deep_nesting_ends_in_an_error() {
    let mut line = br#"{"version":1,"request":"#.to_vec();
    line.extend(vec![b'['; 100_000]);
    assert!(matches!(decode::<Request>(&line), Err(Error::Malformed(_))));
}

#[test]
fn a_document_over_the_limit_is_not_sent() {
    let request = Request::Load {
        name: String::new(),
        document: "x".repeat(MAX_SMALL_REQUEST),
        dry_run: false,
    };
    assert!(matches!(encode(&request, MAX_SMALL_REQUEST), Err(Error::TooLong { .. })));
}

#[test]
fn the_wire_format_is_fixed() {
    let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
    let run = Request::Run { zone: ZoneRef::Name("web".to_owned()) };
    assert_eq!(
        text(encode(&run, MAX_SMALL_REQUEST).unwrap()),
        "{\"version\":1,\"request\":\"run\",\"zone\":\"web\"}\n"
    );
    let failed = Reply::Failed(Failure { kind: FailureKind::Refused, message: "no".to_owned() });
    assert_eq!(
        text(encode(&failed, MAX_REPLY).unwrap()),
        "{\"version\":1,\"reply\":\"failed\",\"kind\":\"refused\",\"message\":\"no\"}\n"
    );
}
