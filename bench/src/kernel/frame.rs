//! Frames to run single programs on.

use anyhow::{Context, Result};
use sigil_common::icv::{self, ChecksumField, IcvInput, MacKey, Suite};
use sigil_common::label::Label;
use sigil_common::wire::option::{AUTH_LEN, AuthTag, DEFAULT_DOI, Flags, LABEL_LEN, LabelTag};

use super::rules::{PORT, address, key, key_id};

const ETH_LEN: usize = 14;
const IP_LEN: usize = 20;
const UDP: u8 = 17;
/// Where a UDP datagram has its checksum.
const CHECKSUM: std::ops::Range<usize> = 6..8;

/// A UDP datagram of so many bytes, header included, between two nodes, as an application sends it.
///
/// # Errors
/// It is too long for a packet.
pub(super) fn plain(source: u32, target: u32, len: usize) -> Result<Vec<u8>> {
    let mut frame = header(source, target, &[], len)?;
    frame.extend(datagram(len)?);
    Ok(frame)
}

/// The same with a label in front, as `source` would have stamped it for `target`.
///
/// # Errors
/// It is too long for a packet.
pub(super) fn labelled(
    source: Label,
    target: u32,
    suite: Option<Suite>,
    covered: bool,
    seq: u64,
    len: usize,
) -> Result<Vec<u8>> {
    let datagram = datagram(len)?;
    let option_len = if suite.is_some() { AUTH_LEN } else { LABEL_LEN };
    let tag = LabelTag { len: u8::try_from(option_len)?, doi: DEFAULT_DOI, label: source };
    let mut first = [0; LABEL_LEN];
    tag.emit(&mut first);
    let mut option = first.to_vec();
    if let Some(suite) = suite {
        let flags = Flags::new(covered, 0);
        let message = IcvInput {
            key_id: key_id(suite),
            flags: flags.byte(),
            protocol: UDP,
            label: source,
            seq,
            source: address(source.snid).into(),
            destination: address(target).into(),
            total_len: u16::try_from(IP_LEN + option_len + len)?,
            id: ID,
            fragment: 0,
            transport: u32::from(PORT) << 16 | u32::from(PORT),
        };
        let mac = MacKey::prepare(suite, &key(source.snid, target));
        let mut payload = datagram.clone();
        payload.get_mut(CHECKSUM).context("no datagram")?.fill(0);
        debug_assert_eq!(ChecksumField::of(UDP, 0), ChecksumField::Udp);
        let payload = if covered { payload.as_slice() } else { &[] };
        let icv = icv::of_message(suite, &mac, &message.header(), payload);
        let low = u32::try_from(seq & u64::from(u32::MAX))?;
        let auth =
            AuthTag { key_id: key_id(suite), flags, seq_low: low, icv: icv.context("too long")? };
        let mut second = [0; LABEL_LEN];
        auth.emit(&mut second);
        option.extend(second);
    }
    let mut frame = header(source.snid, target, &option, len)?;
    frame.extend(datagram);
    Ok(frame)
}

const ID: u16 = 7;

fn header(source: u32, target: u32, option: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    debug_assert_eq!(frame.len(), ETH_LEN);
    let words = u8::try_from((IP_LEN + option.len()) / 4)?;
    frame.extend([0x40 | words, 0]);
    frame.extend(u16::try_from(IP_LEN + option.len() + len)?.to_be_bytes());
    frame.extend(ID.to_be_bytes());
    // DF, TTL 64; the programs carry the checksum on without judging it.
    frame.extend([0x40, 0, 64, UDP, 0, 0]);
    frame.extend(address(source).octets());
    frame.extend(address(target).octets());
    frame.extend(option);
    Ok(frame)
}

fn datagram(len: usize) -> Result<Vec<u8>> {
    let mut datagram = Vec::with_capacity(len);
    datagram.extend(PORT.to_be_bytes());
    datagram.extend(PORT.to_be_bytes());
    datagram.extend(u16::try_from(len)?.to_be_bytes());
    datagram.extend([0xab, 0xcd]);
    datagram.resize(len, 0x5a);
    Ok(datagram)
}
