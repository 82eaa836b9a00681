use super::*;
use crate::label::Label;
use proptest::prelude::*;
use ring::hmac as ring_hmac;
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use std::hash::Hasher as _;

/// What `ring`, `blake3` and `siphasher` say.
fn oracle(suite: Suite, key: &[u8; 32], message: &[u8]) -> Icv {
    let whole = match suite {
        Suite::HmacSha256 => {
            let key = ring_hmac::Key::new(ring_hmac::HMAC_SHA256, key);
            ring_hmac::sign(&key, message).as_ref().to_vec()
        }
        Suite::Blake3 => ::blake3::keyed_hash(key, message).as_bytes().to_vec(),
        Suite::SipHash24 => {
            let mut hasher = SipHasher24::new_with_key(key.first_chunk().unwrap());
            hasher.write(message);
            hasher.finish128().as_bytes().to_vec()
        }
    };
    Icv::from_bytes(whole.first_chunk().unwrap())
}

fn ours(suite: Suite, key: &[u8; 32], message: &[u8]) -> Icv {
    let (header, payload) = message.split_first_chunk().unwrap();
    let (key, header) = (MacKey::prepare(suite, key), Header::from_bytes(header));
    of_message(suite, &key, &header, payload).unwrap()
}

fn icv(hex: &str) -> Icv {
    Icv::from_bytes(hex::decode(hex).unwrap().first_chunk().unwrap())
}

/// RFC 4231, test case 6 and 7 use a key of 131 bytes, which HMAC hashes first.
#[test]
fn hmac_matches_rfc_4231() {
    let cases: [(Vec<u8>, &[u8], &str); 2] = [
        (
            hex::decode("0102030405060708090a0b0c0d0e0f10111213141516171819").unwrap(),
            &[0xcd; 50],
            "82558a389a443c0ea4cc819899f2083a",
        ),
        (
            ring::digest::digest(&ring::digest::SHA256, &[0xaa; 131]).as_ref().to_vec(),
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f",
        ),
    ];
    for (key, message, expected) in cases {
        let mut padded = [0; 32];
        padded[..key.len()].copy_from_slice(&key);
        assert_eq!(ours(Suite::HmacSha256, &padded, message), icv(expected));
    }
    let case_7: &[u8] = b"This is a test using a larger than block-size key and a larger than \
        block-size data. The key needs to be hashed before being used by the HMAC algorithm.";
    let key = ring::digest::digest(&ring::digest::SHA256, &[0xaa; 131]);
    let key = key.as_ref().first_chunk().unwrap();
    let expected = icv("9b09ffa71b942fcb27635fbcd5b0e944");
    assert_eq!(ours(Suite::HmacSha256, key, case_7), expected);
}

/// `test_vectors.json` of the BLAKE3 repository: key and message are fixed, lengths vary.
#[test]
fn blake3_matches_its_reference_vectors() {
    let key = b"whats the Elvish word for friend";
    let vectors = [
        (1023, "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e"),
        (1024, "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"),
        (1025, "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"),
        (2049, "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5"),
        (7169, "ed9b1a922c046fdb3d423ae34e143b05ca1bf28b710432857bf738bcedbfa511"),
        (8193, "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5"),
        (16384, "9e9fc4eb7cf081ea7c47d1807790ed211bfec56aa25bb7037784c13c4b707b0d"),
    ];
    for (len, expected) in vectors {
        let message: Vec<u8> = (0..=250).cycle().take(len).collect();
        assert_eq!(
            ::blake3::keyed_hash(key, &message).to_hex().as_str(),
            expected,
            "the oracle at {len}"
        );
        assert_eq!(ours(Suite::Blake3, key, &message), icv(expected), "{len}");
    }
}

/// `vectors_sip128` of the SipHash reference: key 00..0f, message 00..n-1.
#[test]
fn siphash_matches_its_reference_vectors() {
    let mut key = [0; 32];
    for (byte, value) in key.iter_mut().zip(0..16) {
        *byte = value;
    }
    let vectors = [
        (40, "df6a301e95c95dad97ae0cc8c6913bd8"),
        (41, "801189902c857f39e73591285e70b6db"),
        (48, "f7e5aef549f782cf379055a608269b16"),
        (63, "5150d1772f50834a503e069a973fbd7c"),
    ];
    for (len, expected) in vectors {
        let message: Vec<u8> = (0..len).collect();
        assert_eq!(ours(Suite::SipHash24, &key, &message), icv(expected), "{len}");
    }
}

#[test]
fn every_payload_length_around_the_edges() {
    let key = core::array::from_fn(|at| u8::try_from(at).unwrap() ^ 0x5a);
    let message: Vec<u8> = (0..=u8::MAX).cycle().take(40 + PAYLOAD_MAX as usize).collect();
    let edges = (0..400).chain((1..=16).flat_map(|chunk| chunk * 1024 - 66..chunk * 1024 + 26));
    for len in edges.chain([PAYLOAD_MAX as usize]) {
        for suite in Suite::ALL {
            let message = message.get(..40 + len.min(PAYLOAD_MAX as usize)).unwrap();
            assert_eq!(ours(suite, &key, message), oracle(suite, &key, message), "{suite} {len}");
        }
    }
}

#[test]
fn a_payload_over_the_maximum_has_no_icv() {
    let payload = vec![0; PAYLOAD_MAX as usize + 1];
    let header = IcvInput::default().header();
    for suite in Suite::ALL {
        assert_eq!(of_message(suite, &MacKey::ZERO, &header, &payload), None);
    }
}

proptest! {
    #[test]
    fn a_header_alone(key: [u8; 32], header: [u8; 40]) {
        for suite in Suite::ALL {
            let prepared = MacKey::prepare(suite, &key);
            let message = Header::from_bytes(&header);
            let icv = of_header(suite, &prepared, &message, &mut Scratch::new());
            prop_assert_eq!(icv, oracle(suite, &key, &header));
            prop_assert_eq!(Some(icv), of_message(suite, &prepared, &message, &[]));
        }
    }

    #[test]
    fn a_scratch_is_reused(key: [u8; 32], header: [u8; 40], messages in prop::collection::vec((0..3_usize, 0..5_u32), 1..6)) {
        let mut scratch = Scratch::new();
        for (suite, blocks) in messages {
            let suite = *Suite::ALL.get(suite).unwrap();
            scratch.begin(suite, &MacKey::prepare(suite, &key), &Header::from_bytes(&header));
            let mut message = header.to_vec();
            message.resize(40 + 24 + blocks as usize * 64, 0);
            for _ in 0..blocks {
                scratch.absorb(suite);
                scratch.block = [0; 8];
            }
            prop_assert_eq!(scratch.finish(suite, 64), oracle(suite, &key, &message));
        }
    }

    #[test]
    fn equal_is_equality(bytes: [u8; 12], at in 0..12_usize, bit in 0..8_u8) {
        let mut other = bytes;
        other[at] ^= 1 << bit;
        let (left, right) = (Icv::from_bytes(&bytes), Icv::from_bytes(&other));
        prop_assert!(equal(&left, &left));
        prop_assert!(!equal(&left, &right));
    }

    #[test]
    fn the_header_has_the_documented_layout(
        key_id: u8, flags: u8, protocol: u8, snid: u32, scid: u32, seq: u64, source: u32,
        destination: u32, total_len: u16, id: u16, fragment: u16, transport: u32,
    ) {
        let label = Label { snid, scid };
        let input = IcvInput {
            key_id, flags, protocol, label, seq, source, destination, total_len, id, fragment,
            transport,
        };
        let mut bytes = vec![0x53, key_id, flags, protocol];
        bytes.extend(snid.to_be_bytes());
        bytes.extend(scid.to_be_bytes());
        bytes.extend(seq.to_be_bytes());
        bytes.extend(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend(total_len.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend((fragment & 0x3fff).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(transport.to_be_bytes());
        let bytes: [u8; 40] = bytes.try_into().unwrap();
        prop_assert_eq!(input.header().to_bytes(), bytes);
        prop_assert_eq!(Header::from_bytes(&bytes), input.header());
    }
}

#[test]
fn the_checksum_reads_as_zero() {
    let key = MacKey::prepare(Suite::SipHash24, &[7; 32]);
    let header = IcvInput::default().header();
    let cases = [(6, 16..18), (17, 6..8), (132, 8..12), (1, 0..0)];
    for (protocol, field) in cases {
        let mut payload = [0xff_u8; 24];
        let mut scratch = Scratch::new();
        scratch.begin(Suite::SipHash24, &key, &header);
        let len = scratch.fill(HEADER_LEN, &payload);
        scratch.clear(ChecksumField::of(protocol, 0x4000));
        payload.get_mut(field).unwrap().fill(0);
        let expected = of_message(Suite::SipHash24, &key, &header, &payload);
        assert_eq!(Some(scratch.finish(Suite::SipHash24, len)), expected, "{protocol}");
        assert_eq!(ChecksumField::of(protocol, 0x2001), ChecksumField::None);
    }
}

#[test]
fn suites_have_names_and_numbers() {
    for suite in Suite::ALL {
        assert_eq!(Suite::try_from(suite as u8), Ok(suite));
        assert_eq!(suite.name().parse(), Ok(suite));
    }
    assert_eq!(Suite::try_from(0_u8), Err(UnknownSuite));
    assert_eq!("sha1".parse::<Suite>(), Err(UnknownSuite));
}

#[test]
fn a_key_is_not_printed() {
    let key = MacKey::prepare(Suite::Blake3, &[0xab; 32]);
    assert_eq!(format!("{key:?}"), "MacKey([redacted])");
}
