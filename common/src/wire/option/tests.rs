use super::*;
use proptest::prelude::*;

/// What the original DSI kernel module sent, but for its two length bytes (DESIGN, section 2).
const DSI: &str = "861410001000070e030600000002060600000001";

fn label_tag() -> impl Strategy<Value = LabelTag> {
    let len = prop_oneof![Just(20), Just(40)];
    (len, 1..=u32::MAX, 1..=u32::MAX, 1..=u32::MAX).prop_map(|(len, doi, snid, scid)| LabelTag {
        len,
        doi: doi.to_be_bytes(),
        label: Label { snid, scid },
    })
}

fn auth_tag() -> impl Strategy<Value = AuthTag> {
    let segments = (0..=127_u8).prop_filter("one segment is none", |segments| *segments != 1);
    (any::<u8>(), any::<bool>(), segments, any::<u32>(), any::<[u8; 12]>()).prop_map(
        |(key_id, covered, segments, seq_low, icv)| AuthTag {
            key_id,
            flags: Flags::new(covered, segments),
            seq_low,
            icv: Icv::from_bytes(&icv),
        },
    )
}

fn emit(option: &LabelOption) -> Vec<u8> {
    let (mut first, mut second) = ([0; LABEL_LEN], [0; LABEL_LEN]);
    option.tag.emit(&mut first);
    let mut bytes = first.to_vec();
    if let Some(auth) = option.auth {
        auth.emit(&mut second);
        bytes.extend(second);
    }
    bytes
}

#[test]
fn the_option_of_dsi_decodes() {
    let bytes = hex::decode(DSI).unwrap();
    let option = LabelOption::parse(&bytes).unwrap();
    let tag = LabelTag { len: 20, doi: DEFAULT_DOI, label: Label { snid: 1, scid: 2 } };
    assert_eq!(option, LabelOption { tag, auth: None });
    assert_eq!(emit(&option), bytes);
}

#[test]
fn an_authenticated_option_decodes() {
    let bytes = "86281000100007220306000000020606000000010714058200bc614e0102030405060708090a0b0c";
    let bytes = hex::decode(bytes).unwrap();
    let option = LabelOption::parse(&bytes).unwrap();
    let auth = option.auth.unwrap();
    assert_eq!((auth.key_id, auth.seq_low), (5, 12_345_678));
    assert_eq!((auth.flags.payload_covered(), auth.flags.segments()), (true, 2));
    assert_eq!(auth.icv.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(emit(&option), bytes);
}

#[test]
fn every_error_names_its_offset() {
    use OptionError::{
        AuthTlv, Doi, Kind, Length, Scid, ScidTlv, Segments, Snid, SnidTlv, TagKind, TagLength,
    };
    let good = "86281000100007220306000000020606000000010714050000bc614e0102030405060708090a0b0c";
    let good = hex::decode(good).unwrap();
    let broken: [(usize, &[u8], OptionError); 15] = [
        (0, &[0x87], Kind),
        (1, &[39], Length),
        (2, &[0, 0, 0, 0], Doi),
        (6, &[1], TagKind),
        (7, &[14], TagLength),
        (8, &[6], ScidTlv),
        (9, &[5], ScidTlv),
        (10, &[0, 0, 0, 0], Scid),
        (14, &[3], SnidTlv),
        (15, &[7], SnidTlv),
        (16, &[0, 0, 0, 0], Snid),
        (20, &[8], AuthTlv),
        (21, &[19], AuthTlv),
        (23, &[0x81], Segments),
        (23, &[0x01], Segments),
    ];
    for (at, with, error) in broken {
        let mut bytes = good.clone();
        bytes.splice(at..at + with.len(), with.iter().copied());
        assert_eq!(LabelOption::parse(&bytes), Err(error));
        assert_eq!(
            error.offset(),
            if with.len() == 1 { at & !usize::from(at < 22 && at > 7) } else { at }
        );
        assert_eq!(DropReason::from(error), DropReason::BadOption);
    }
    for len in 0..good.len() {
        let error = LabelOption::parse(good.get(..len).unwrap()).unwrap_err();
        assert_eq!(
            (error.offset(), error),
            (len, OptionError::Truncated(u8::try_from(len).unwrap()))
        );
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert_eq!(LabelOption::parse(&longer).unwrap_err().offset(), 40);
}

proptest! {
    #[test]
    fn what_is_emitted_parses(tag in label_tag(), auth in auth_tag()) {
        let option = LabelOption { tag, auth: tag.authenticated().then_some(auth) };
        prop_assert_eq!(LabelOption::parse(&emit(&option)), Ok(option));
    }

    #[test]
    fn what_parses_emits_the_same(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        if let Ok(option) = LabelOption::parse(&bytes) {
            prop_assert_eq!(emit(&option), bytes);
        }
    }

    #[test]
    fn one_changed_byte_is_another_option_or_none(tag in label_tag(), at in 0..20_usize, xor in 1..=255_u8) {
        let mut bytes = [0; LABEL_LEN];
        tag.emit(&mut bytes);
        bytes[at] ^= xor;
        prop_assert_ne!(LabelTag::parse(&bytes), Ok(tag));
    }

    #[test]
    fn etherparse_finds_the_option_in_a_header(tag in label_tag(), auth in auth_tag()) {
        let option = LabelOption { tag, auth: tag.authenticated().then_some(auth) };
        let bytes = emit(&option);
        let mut header = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [1; 4], [2; 4]).unwrap();
        header.options = bytes.as_slice().try_into().unwrap();
        let wire = header.to_bytes();
        let (read, _) = etherparse::Ipv4Header::from_slice(&wire).unwrap();
        prop_assert_eq!(LabelOption::parse(&read.options), Ok(option));
    }
}
