//! IPv4 packets as they were before they got a label, made by `etherparse`, and the label on them,
//! made by `sigil_common` in user space. Comparing both with what the kernel makes of them is the
//! point of it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use etherparse::{Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header, TcpHeader, UdpHeader};
use sigil_common::icv::{self, ChecksumField, IcvInput, MacKey, Suite};
use sigil_common::label::Label;
use sigil_common::wire::option::{AUTH_LEN, AuthTag, DEFAULT_DOI, Flags, LABEL_LEN, LabelTag};

/// Bytes of the Ethernet header.
pub const ETHERNET: usize = 14;
/// Offset of the options in a frame.
pub const OPTIONS: usize = ETHERNET + 20;

/// An IPv4 packet; lengths and checksum of the header are filled in when it becomes a frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The header.
    pub ip: Ipv4Header,
    /// All behind the header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Any payload.
    ///
    /// # Errors
    /// When it is too long.
    pub fn new(route: Route, protocol: IpNumber, payload: Vec<u8>) -> Result<Self> {
        let Route { source, target } = route;
        let mut ip = Ipv4Header::new(0, 64, protocol, source.octets(), target.octets())?;
        ip.identification = 0x1234;
        Ok(Self { ip, payload })
    }

    /// A datagram.
    ///
    /// # Errors
    /// When it is too long.
    pub fn udp(route: Route, port: u16, data: &[u8]) -> Result<Self> {
        let mut packet = Self::new(route, IpNumber::UDP, Vec::new())?;
        let udp = UdpHeader::with_ipv4_checksum(40_000, port, &packet.ip, data)?;
        packet.payload = [&udp.to_bytes(), data].concat();
        Ok(packet)
    }

    /// A segment of a connection that is open.
    ///
    /// # Errors
    /// When it is too long.
    pub fn tcp(route: Route, port: u16, data: &[u8]) -> Result<Self> {
        let mut packet = Self::new(route, IpNumber::TCP, Vec::new())?;
        let mut tcp = TcpHeader::new(40_000, port, 0x0102_0304, 8192);
        tcp.ack = true;
        tcp.checksum = tcp.calc_checksum_ipv4(&packet.ip, data)?;
        packet.payload = [&tcp.to_bytes(), data].concat();
        Ok(packet)
    }

    /// An ICMP message with 16 bytes behind its header.
    ///
    /// # Errors
    /// None on these inputs.
    pub fn icmp(route: Route, type_u8: u8, code_u8: u8) -> Result<Self> {
        let data = [0x5a; 16];
        let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8: [0; 4] };
        let icmp = Icmpv4Header::with_checksum(kind, &data);
        Self::new(route, IpNumber::ICMP, [icmp.to_bytes().as_slice(), &data].concat())
    }

    /// The frame without a label.
    ///
    /// # Errors
    /// When it is too long.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let ip = self.header(&[])?;
        Ok([&ethernet(0x0800), ip.to_bytes().as_slice(), &self.payload].concat())
    }

    /// The frame with a label in front of the packet's own options.
    ///
    /// # Errors
    /// When it is too long, or its options are.
    pub fn stamped(&self, stamp: &Stamp) -> Result<Vec<u8>> {
        let len = if stamp.proof.is_some() { AUTH_LEN } else { LABEL_LEN };
        let mut option = [0; AUTH_LEN];
        let (first, second) = option.split_first_chunk_mut().context("two halves")?;
        let len_u8 = u8::try_from(len)?;
        LabelTag { len: len_u8, doi: stamp.doi, label: stamp.label }.emit(first);
        let room = self.header(&vec![0; len])?;
        if let Some(proof) = &stamp.proof {
            let second = second.first_chunk_mut().context("two halves")?;
            proof.tag(&room, stamp.label, &self.payload)?.emit(second);
        }
        let ip = self.header(option.get(..len).context("40 bytes")?)?;
        Ok([&ethernet(0x0800), ip.to_bytes().as_slice(), &self.payload].concat())
    }

    fn header(&self, option: &[u8]) -> Result<Ipv4Header> {
        let mut ip = self.ip.clone();
        ip.options = [option, &self.ip.options].concat().as_slice().try_into()?;
        ip.set_payload_len(self.payload.len())?;
        ip.header_checksum = ip.calc_header_checksum();
        Ok(ip)
    }
}

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub target: Ipv4Addr,
}

/// The label on a packet.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Whose.
    pub label: Label,
    /// Domain of interpretation.
    pub doi: [u8; 4],
    /// Of an authenticated option.
    pub proof: Option<Proof>,
}

impl Stamp {
    /// A label without proof.
    #[must_use]
    pub fn bare(label: Label) -> Self {
        Self { label, doi: DEFAULT_DOI, proof: None }
    }

    /// A label with proof.
    #[must_use]
    pub fn proven(label: Label, proof: Proof) -> Self {
        Self { proof: Some(proof), ..Self::bare(label) }
    }
}

/// What an ICV is made from.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// The MAC.
    pub suite: Suite,
    /// Its key.
    pub key: [u8; 32],
    /// The key's id.
    pub key_id: u8,
    /// The whole sequence number; of a segment, the first of its super-frame.
    pub seq: u64,
    /// Whether the payload is covered.
    pub covered: bool,
    /// Segments of the super-frame, 0 for none.
    pub segments: u8,
}

impl Proof {
    fn tag(&self, ip: &Ipv4Header, label: Label, payload: &[u8]) -> Result<AuthTag> {
        let flags = Flags::new(self.covered, self.segments);
        let super_frame = self.segments >= 2;
        let more = if ip.more_fragments { 0x2000 } else { 0 };
        let fragment = ip.fragment_offset.value() | more;
        let first = ip.fragment_offset.value() == 0;
        let ports = payload.first_chunk().filter(|_| first);
        let protocol = ip.protocol.0;
        let header = IcvInput {
            key_id: self.key_id,
            flags: flags.byte(),
            protocol,
            label,
            seq: self.seq,
            source: u32::from_be_bytes(ip.source),
            destination: u32::from_be_bytes(ip.destination),
            total_len: if super_frame { 0 } else { ip.total_len },
            id: if super_frame { 0 } else { ip.identification },
            fragment,
            transport: ports.map_or(0, |ports| u32::from_be_bytes(*ports)),
        }
        .header();
        let key = MacKey::prepare(self.suite, &self.key);
        let mut message = if self.covered { payload.to_vec() } else { Vec::new() };
        let field = match ChecksumField::of(protocol, fragment) {
            ChecksumField::None => 0..0,
            ChecksumField::Tcp => 16..18,
            ChecksumField::Udp => 6..8,
            ChecksumField::Sctp => 8..12,
        };
        message
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| field.contains(at))
            .for_each(|(_, b)| *b = 0);
        let icv = icv::of_message(self.suite, &key, &header, &message).context("too long")?;
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let seq_low = self.seq as u32;
        Ok(AuthTag { key_id: self.key_id, flags, seq_low, icv })
    }
}

/// An Ethernet header.
#[must_use]
pub fn ethernet(kind: u16) -> [u8; ETHERNET] {
    let [high, low] = kind.to_be_bytes();
    [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, high, low]
}

/// Makes the checksum of a frame's IPv4 header right again, if there is a whole header.
pub fn repair_checksum(frame: &mut [u8]) {
    let len = frame.get(ETHERNET).map_or(0, |first| usize::from(first & 0x0f) * 4);
    let Some(header) = frame.get_mut(ETHERNET..ETHERNET + len).filter(|h| h.len() >= 20) else {
        return;
    };
    let sum: u32 = header
        .as_chunks()
        .0
        .iter()
        .enumerate()
        .filter(|(word, _)| *word != 5)
        .map(|(_, word)| u32::from(u16::from_be_bytes(*word)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded & 0xffff).unwrap_or(0);
    for (to, byte) in header.iter_mut().skip(10).zip(checksum.to_be_bytes()) {
        *to = byte;
    }
}
