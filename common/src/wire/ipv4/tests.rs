use super::*;
use crate::wire::option::{LABEL_LEN, LabelTag};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header};
use proptest::prelude::*;

fn words(bytes: &[u8]) -> Words {
    let mut words = [0; 5];
    for (word, piece) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_ne_bytes(*piece);
    }
    words
}

fn header() -> impl Strategy<Value = Ipv4Header> {
    let lead = (0..1400_u16, any::<u8>(), any::<u8>(), any::<u16>(), any::<[bool; 2]>());
    let rest = (0..0x2000_u16, any::<[u8; 4]>(), any::<[u8; 4]>(), 0..=10_usize);
    (lead, rest).prop_map(
        |((len, ttl, protocol, id, [df, mf]), (offset, source, target, options))| {
            let mut header = Ipv4Header::new(len, ttl, IpNumber(protocol), source, target).unwrap();
            header.identification = id;
            header.dont_fragment = df;
            header.more_fragments = mf;
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.options = vec![1_u8; options * 4].as_slice().try_into().unwrap();
            header.total_len += u16::from(header.options.len_u8());
            header.header_checksum = header.calc_header_checksum();
            header
        },
    )
}

/// Walks from option to option, as a receiver does.
fn naive(options: &[u8]) -> Scan {
    let mut rest = options;
    loop {
        rest = match *rest {
            [] | [0, ..] => return Scan::Clear,
            [1, ref rest @ ..] => rest,
            [KIND, ..] => return Scan::Foreign,
            [_, len, ..] if len >= 2 => match rest.get(len as usize..) {
                Some(rest) => rest,
                None => return Scan::Malformed,
            },
            _ => return Scan::Malformed,
        };
    }
}

fn scan(options: &[u8]) -> Scan {
    let mut bytes = [0xff; 40];
    bytes[..options.len()].copy_from_slice(options);
    scan_options(&bytes, u32::try_from(options.len()).unwrap())
}

#[test]
fn options_of_an_application() {
    let cases: [(&[u8], Scan); 12] = [
        (&[], Scan::Clear),
        (&[1; 40], Scan::Clear),
        (&[1, 1, 0, KIND], Scan::Clear),
        (&[0x94, 4, 0, 0], Scan::Clear),
        (&[0x94, 4, KIND, KIND], Scan::Clear),
        (&[0x94, 4, 0, 0, KIND, 20], Scan::Foreign),
        (&[1, KIND], Scan::Foreign),
        (&[0x94], Scan::Malformed),
        (&[0x94, 0, 0, 0], Scan::Malformed),
        (&[0x94, 1, 0, 0], Scan::Malformed),
        (&[0x94, 5, 0, 0], Scan::Malformed),
        (&[7, 255, 4, 0], Scan::Malformed),
    ];
    for (options, expected) in cases {
        assert_eq!(scan(options), expected, "{options:?}");
    }
    assert_eq!(scan_options(&[1; 40], 41), Scan::Malformed);
}

proptest! {
    #[test]
    fn fields_are_those_that_etherparse_reads(header in header()) {
        let ip = Ipv4(words(&header.to_bytes()));
        prop_assert_eq!(ip.check(u32::from(header.total_len)), Ok(ip));
        prop_assert_eq!(ip.check(u32::from(header.total_len) - 1), Err(DropReason::BadHeader));
        prop_assert_eq!(ip.header_len() as usize, header.header_len());
        prop_assert_eq!(ip.total_len(), header.total_len);
        prop_assert_eq!(ip.id(), header.identification);
        prop_assert_eq!(ip.fragment() & OFFSET_MASK, header.fragment_offset.value());
        prop_assert_eq!(ip.fragment() & DONT_FRAGMENT != 0, header.dont_fragment);
        prop_assert_eq!(ip.fragment() & MORE_FRAGMENTS != 0, header.more_fragments);
        prop_assert_eq!(ip.fragmented(), header.is_fragmenting_payload());
        prop_assert_eq!(ip.first_fragment(), header.fragment_offset.value() == 0);
        prop_assert_eq!(ip.protocol(), header.protocol.0);
        prop_assert_eq!(ip.checksum(), header.header_checksum);
        prop_assert_eq!(ip.source(), u32::from_be_bytes(header.source));
        prop_assert_eq!(ip.target(), u32::from_be_bytes(header.destination));
    }

    #[test]
    fn lengths_that_cannot_be(mut bytes: [u8; 20], available: u32) {
        bytes[0] = bytes[0] & 0x0f | 0x40;
        let ip = Ipv4(words(&bytes));
        let total = u32::from(ip.total_len());
        let fits = ip.header_len() >= 20 && total >= ip.header_len() && total <= available;
        prop_assert_eq!(ip.check(available).is_ok(), fits);
        bytes[0] ^= 0x20;
        prop_assert!(Ipv4(words(&bytes)).check(available).is_err());
    }

    /// Stamping makes the header longer by the option, whole or by halves; both ways to the new
    /// checksum agree with etherparse's.
    #[test]
    fn the_checksum_follows_a_stamp(mut header in header(), scid: u32, snid: u32) {
        header.options = etherparse::Ipv4Options::new();
        header.total_len &= 0x3ff;
        header.header_checksum = header.calc_header_checksum();
        let before = words(&header.to_bytes());
        let tag = LabelTag { len: 20, doi: [9; 4], label: crate::label::Label { snid, scid } };
        let mut option = [0; LABEL_LEN];
        tag.emit(&mut option);

        let old = header.header_checksum;
        header.options = option.as_slice().try_into().unwrap();
        header.total_len += 20;
        header.header_checksum = header.calc_header_checksum();
        let mut after = words(&header.to_bytes());

        let removed = fold(u64::from(before[0]));
        let added = fold(sum(u64::from(after[0]), tag.words()));
        let updated = update(old.to_be(), removed, added);
        prop_assert_eq!(u16::from_be(updated), header.header_checksum);

        let [a, b, ..] = after[2].to_ne_bytes();
        after[2] = u32::from_ne_bytes([a, b, 0, 0]);
        let whole = !fold(sum(sum(0, after), tag.words()));
        prop_assert_eq!(u16::from_be(whole), header.header_checksum);
    }

    #[test]
    fn fold_is_the_remainder(sum in 1..1_u64 << 48) {
        let folded = fold(sum);
        prop_assert_eq!(u64::from(folded) % 0xffff, sum % 0xffff);
        prop_assert_ne!(folded, 0);
    }

    #[test]
    fn a_scan_agrees_with_a_walk(options in prop::collection::vec(prop_oneof![3 => 0..12_u8, 1 => Just(KIND), 1 => any::<u8>()], 0..=40)) {
        prop_assert_eq!(scan(&options), naive(&options));
    }
}
