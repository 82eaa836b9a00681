use super::*;
use crate::{generate, system_random};
use proptest::prelude::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn text() -> String {
    format!(
        "cluster = \"lab\"\nsnid = 1\n\n\
         [[epoch]]\nid = 255\nsuite = \"siphash-2-4-96\"\n\n\
         [[epoch.pair]]\nsource = 1\ntarget = 2\nkey = \"{KEY}\"\n\n\
         [[epoch.pair]]\nsource = 2\ntarget = 1\nkey = \"{KEY}\"\n\n\
         [[epoch]]\nid = 0\nsuite = \"hmac-sha256-96\"\n"
    )
}

#[test]
fn a_file_is_read_and_written_the_same() {
    let keys = NodeKeys::parse(&text()).unwrap();
    assert_eq!((keys.cluster(), keys.snid()), ("lab", 1));
    let [first, second] = keys.epochs() else { panic!("two epochs") };
    assert_eq!((first.id, first.suite, first.pairs.len()), (255, Suite::SipHash24, 2));
    assert_eq!((second.id, second.suite, second.pairs.len()), (0, Suite::HmacSha256, 0));
    assert_eq!((first.pairs[1].source, first.pairs[1].target), (2, 1));
    assert_eq!(first.pairs[0].key.expose()[..3], [0, 0x11, 0x22]);
    assert_eq!(*keys.emit(), text());
}

#[test]
fn each_mistake_is_named_with_its_line() {
    use Problem::{
        Cluster, Duplicate, EpochOrder, Epochs, Key, Loop, Missing, Stranger, Syntax, Type,
        Unknown, Zero,
    };
    let node = "a SnID, 1 to 4294967295";
    let suites = "hmac-sha256-96, blake3-96 or siphash-2-4-96";
    let string = "a string";
    let cases = [
        ("cluster = \"lab\"\n", "", 1, Missing { field: "cluster" }),
        ("\"lab\"", "\"\"", 1, Cluster),
        ("\"lab\"", "\"a\\u0007\"", 1, Cluster),
        ("\"lab\"", "7", 1, Type { field: "cluster", expected: string }),
        ("snid = 1\n", "", 1, Missing { field: "snid" }),
        ("snid = 1", "snid = 0", 2, Zero { field: "snid" }),
        ("snid = 1", "snid = 4294967296", 2, Type { field: "snid", expected: node }),
        ("snid = 1", "snid = -1", 2, Type { field: "snid", expected: node }),
        ("snid = 1", "snid = 1\nserial = 3", 3, Unknown { known: "cluster, snid, epoch" }),
        ("snid = 1", "snid = 3", 8, Stranger { snid: 3, source_snid: 1, target: 2 }),
        ("id = 255", "id = 256", 5, Type { field: "id", expected: "a key id, 0 to 255" }),
        ("id = 255\n", "", 4, Missing { field: "id" }),
        ("siphash", "md5", 6, Type { field: "suite", expected: suites }),
        ("source = 2\ntarget = 1", "source = 1\ntarget = 1", 13, Loop { snid: 1 }),
        ("source = 2", "source = \"\"", 14, Type { field: "source", expected: node }),
        ("source = 2", "source = 0", 14, Zero { field: "source" }),
        ("source = 2", "node = 2", 14, Unknown { known: "source, target, key" }),
        ("target = 2\n", "", 8, Missing { field: "target" }),
        ("ccddeeff\"", "ccddeef\"", 11, Key),
        ("ccddeeff\"", "ccddeeff0\"", 11, Key),
        ("ccddeeff\"", "ccddeefg\"", 11, Key),
        ("[[epoch.pair]]", "[[epoch.pears]]", 8, Unknown { known: "id, suite, pair" }),
        ("id = 0", "id = 1", 4, EpochOrder { before: 255, after: 1 }),
        (
            "source = 2\ntarget = 1",
            "source = 1\ntarget = 2",
            4,
            Duplicate { epoch: 255, source_snid: 1, target: 2 },
        ),
    ];
    for (from, to, line, problem) in cases {
        let broken = text().replacen(from, to, 1);
        assert_ne!(broken, text(), "{from}");
        assert_eq!(NodeKeys::parse(&broken).unwrap_err(), ParseError { line, problem }, "{to}");
    }
    let five = "[[epoch]]\nid = 1\nsuite = \"blake3-96\"\n".repeat(5);
    let error = NodeKeys::parse(&format!("cluster=\"a\"\nsnid=1\n{five}")).unwrap_err();
    assert_eq!(error.problem, Epochs { count: 5 });
    let error = NodeKeys::parse("cluster=\"a\"\nsnid=1\nepoch=[]").unwrap_err();
    assert_eq!(error.problem, Epochs { count: 0 });
    let error = NodeKeys::parse("cluster=\"a\"\nsnid=1\nepoch=[3]").unwrap_err();
    assert_eq!(error.problem, Type { field: "epoch", expected: "a table" });
    let error = NodeKeys::parse("cluster = \"lab\"\nsnid ?").unwrap_err();
    assert!(matches!(error, ParseError { line: 2, problem: Syntax(_) }), "{error:?}");
}

/// Whatever is wrong, and wherever a key ended up.
#[test]
fn no_error_quotes_a_key() {
    let places = [
        text().replace("source = 1", &format!("source = \"{KEY}\"")),
        text().replace("\"siphash-2-4-96\"", &format!("\"{KEY}\"")),
        text().replace("snid = 1", &format!("snid = \"{KEY}\"")),
        text().replace("snid = 1", &format!("snid = 1\n{KEY} = 3")),
        text().replace("snid = 1", &format!("snid = 1\n{KEY}")),
        text().replace(&format!("\"{KEY}\""), KEY),
        text().replace("[[epoch]]", &format!("[[{KEY}]]")),
        text().replace("key = ", &format!("{KEY} = 1\n{KEY} = ")),
        text().replace(KEY, &format!("{KEY}00")),
        text().replace(KEY, &format!("{KEY}\n")),
    ];
    for place in places {
        let error = NodeKeys::parse(&place).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains("0011223344"), "{shown}");
        }
    }
    let keys = NodeKeys::parse(&text()).unwrap();
    assert!(!format!("{keys:?}").contains("17, 34, 51"));
}

#[test]
fn a_cluster_is_generated() {
    let nodes = generate("a \"b\" \\c", &[3, 1, 2], &[7, 8], Suite::Blake3, system_random).unwrap();
    assert_eq!(nodes.iter().map(NodeKeys::snid).collect::<Vec<_>>(), [3, 1, 2]);
    let key = |node: usize, epoch: usize, source, target| {
        let pairs = &nodes[node].epochs()[epoch].pairs;
        assert_eq!(pairs.len(), 4);
        let pair = pairs.iter().find(|pair| (pair.source, pair.target) == (source, target));
        *pair.unwrap().key.expose()
    };
    assert_eq!(key(0, 0, 3, 1), key(1, 0, 3, 1), "both ends hold the same key");
    assert_ne!(key(0, 0, 3, 1), key(0, 0, 1, 3));
    assert_ne!(key(0, 0, 3, 1), key(0, 1, 3, 1));
    assert_ne!(key(0, 0, 3, 1), key(0, 0, 3, 2));
    for node in &nodes {
        assert_eq!(*NodeKeys::parse(&node.emit()).unwrap().emit(), *node.emit());
    }
}

#[test]
fn no_cluster_is_generated_from_mistakes() {
    use crate::{GenerateError, RandomError};
    let generate =
        |snids: &[u32], epochs: &[u8]| generate("lab", snids, epochs, Suite::Blake3, system_random);
    assert!(matches!(generate(&[1, 2, 1], &[1]), Err(GenerateError::Twice { snid: 1 })));
    for (snids, epochs) in [(&[0, 1][..], &[1][..]), (&[1, 2], &[]), (&[1, 2], &[1, 3])] {
        assert!(matches!(generate(snids, epochs), Err(GenerateError::Keys(_))));
    }
    let broken = crate::generate("lab", &[1, 2], &[1], Suite::Blake3, |_| Err(RandomError));
    assert!(matches!(broken, Err(GenerateError::Random(_))));
}

proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = NodeKeys::parse(&text);
    }

    #[test]
    fn no_damage_panics(at in 0..400_usize, with: char) {
        let mut text: Vec<char> = text().chars().collect();
        if let Some(place) = text.get_mut(at) {
            *place = with;
        }
        let _ = NodeKeys::parse(&text.into_iter().collect::<String>());
    }
}
