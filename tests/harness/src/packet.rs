//! Ethernet frames built, read and mutated by hand, independently of the code under test.
#![expect(clippy::similar_names, reason = "SnID and ScID are the model's own words")]

use crate::Node;
use anyhow::{Context, Result, ensure};
use etherparse::{
    Ethernet2Header, IpHeaders, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder, PacketBuilderStep,
};
use std::net::Ipv4Addr;

/// Length of the Ethernet header.
pub const ETHERNET: usize = 14;
/// The option's type.
pub const LABEL: u8 = 0x86;
/// The option's domain of interpretation unless configured.
pub const DOI: u32 = 0x1000_1000;

/// The label-only option, as the original DSI kernel module sent it.
#[must_use]
pub fn label(snid: u32, scid: u32) -> Vec<u8> {
    option(snid, scid, &[])
}

/// The authenticated option with any value for each field.
#[must_use]
pub fn authenticated(
    snid: u32,
    scid: u32,
    key_id: u8,
    flags: u8,
    seq: u32,
    icv: [u8; 12],
) -> Vec<u8> {
    let mut auth = vec![0x07, 0x14, key_id, flags];
    auth.extend(seq.to_be_bytes());
    auth.extend(icv);
    option(snid, scid, &auth)
}

fn option(snid: u32, scid: u32, auth: &[u8]) -> Vec<u8> {
    let length = if auth.is_empty() { 20 } else { 40 };
    let mut option = vec![LABEL, length];
    option.extend(DOI.to_be_bytes());
    option.extend([0x07, length - 6, 0x03, 0x06]);
    option.extend(scid.to_be_bytes());
    option.extend([0x06, 0x06]);
    option.extend(snid.to_be_bytes());
    option.extend(auth);
    option
}

/// The headers up to IPv4 of a frame to be.
#[derive(Clone, Debug)]
pub struct Headers {
    /// Ethernet header.
    pub ethernet: Ethernet2Header,
    /// IPv4 header; lengths and checksum are filled in.
    pub ip: Ipv4Header,
}

impl Headers {
    /// From one node to another.
    ///
    /// # Errors
    ///
    /// None on these inputs.
    pub fn between(from: &Node, to: &Node) -> Result<Self> {
        let (source, target) = (from.address().octets(), to.address().octets());
        Ok(Self {
            ethernet: Ethernet2Header {
                source: from.mac(),
                destination: to.mac(),
                ether_type: etherparse::EtherType::IPV4,
            },
            ip: Ipv4Header::new(0, 64, IpNumber::UDP, source, target)?,
        })
    }

    /// Pretends to come from another address; the hardware address stays the sender's own, so that
    /// bridges do not learn a wrong place for the real one.
    #[must_use]
    pub fn pretending(mut self, source: Ipv4Addr) -> Self {
        self.ip.source = source.octets();
        self
    }

    /// Adds IP options, padded with end-of-list to whole words.
    ///
    /// # Errors
    ///
    /// More than 40 bytes.
    pub fn options(mut self, options: &[u8]) -> Result<Self> {
        let mut padded = options.to_vec();
        padded.resize(options.len().next_multiple_of(4), 0);
        self.ip.options = Ipv4Options::try_from(padded.as_slice())?;
        Ok(self)
    }

    /// A frame with a UDP datagram.
    ///
    /// # Errors
    ///
    /// The payload is too long.
    pub fn udp(&self, source: u16, target: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.builder().udp(source, target).write(&mut frame, payload)?;
        Ok(frame)
    }

    /// A frame with a TCP SYN.
    ///
    /// # Errors
    ///
    /// None on these inputs.
    pub fn tcp_syn(&self, source: u16, target: u16, seq: u32) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.builder().tcp(source, target, seq, 64240).syn().write(&mut frame, &[])?;
        Ok(frame)
    }

    /// A frame with a TCP segment.
    ///
    /// # Errors
    ///
    /// The payload is too long.
    pub fn tcp_data(
        &self,
        source: u16,
        target: u16,
        seq: u32,
        ack: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        let segment = self.builder().tcp(source, target, seq, 64240).ack(ack).psh();
        segment.write(&mut frame, payload)?;
        Ok(frame)
    }

    /// A frame with an ICMP echo request.
    ///
    /// # Errors
    ///
    /// The payload is too long.
    pub fn ping(&self, id: u16, seq: u16, payload: &[u8]) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.builder().icmpv4_echo_request(id, seq).write(&mut frame, payload)?;
        Ok(frame)
    }

    fn builder(&self) -> PacketBuilderStep<IpHeaders> {
        PacketBuilder::ethernet2(self.ethernet.source, self.ethernet.destination)
            .ip(IpHeaders::Ipv4(self.ip.clone(), etherparse::Ipv4Extensions::default()))
    }
}

/// The IPv4 header of a frame.
///
/// # Errors
///
/// The frame holds none.
pub fn ip(frame: &[u8]) -> Result<Ipv4Header> {
    ensure!(frame.get(12..ETHERNET) == Some(&[0x08, 0x00]), "no IPv4 frame");
    Ok(Ipv4Header::from_slice(frame.get(ETHERNET..).unwrap_or_default())?.0)
}

/// Where in a frame its label starts, if it has one.
#[must_use]
pub fn label_offset(frame: &[u8]) -> Option<usize> {
    let header = ip(frame).ok()?;
    let options = header.options.as_slice();
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        match kind {
            &LABEL => return Some(ETHERNET + Ipv4Header::MIN_LEN + at),
            0 => return None,
            1 => at += 1,
            _ => at += usize::from(*options.get(at + 1)?).max(2),
        }
    }
    None
}

/// Where in a frame the transport header starts.
///
/// # Errors
///
/// The frame holds no IPv4.
pub fn transport_offset(frame: &[u8]) -> Result<usize> {
    Ok(ETHERNET + ip(frame)?.header_len())
}

/// Flips one bit, counted from the frame's start.
///
/// # Errors
///
/// The frame is shorter.
pub fn flip(frame: &mut [u8], bit: usize) -> Result<()> {
    *frame.get_mut(bit / 8).context("the frame is shorter")? ^= 0x80 >> (bit % 8);
    Ok(())
}

/// Overwrites bytes from an offset on.
///
/// # Errors
///
/// The frame is shorter.
pub fn overwrite(frame: &mut [u8], offset: usize, bytes: &[u8]) -> Result<()> {
    let place = frame.get_mut(offset..offset + bytes.len()).context("the frame is shorter")?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// Changes the IPv4 header and repairs its checksum.
///
/// # Errors
///
/// The frame holds no IPv4, or the header has another length now.
pub fn edit_ip(frame: &mut [u8], edit: impl FnOnce(&mut Ipv4Header)) -> Result<()> {
    let mut header = ip(frame)?;
    let length = header.header_len();
    edit(&mut header);
    ensure!(header.header_len() == length, "the header's length has changed");
    header.header_checksum = header.calc_header_checksum();
    overwrite(frame, ETHERNET, &header.to_bytes())
}

/// Repairs the IPv4 checksum.
///
/// # Errors
///
/// The frame holds no IPv4.
pub fn repair_ip(frame: &mut [u8]) -> Result<()> {
    edit_ip(frame, |_| ())
}

/// Repairs the IPv4 and the transport checksum; frames seen on a veth carry half of the latter.
///
/// # Errors
///
/// The frame holds no whole IPv4 packet of TCP, UDP or ICMP.
pub fn repair(frame: &mut [u8]) -> Result<()> {
    repair_ip(frame)?;
    let header = ip(frame)?;
    let start = transport_offset(frame)?;
    let end = ETHERNET + usize::from(header.total_len);
    let field = start
        + match header.protocol {
            IpNumber::TCP => 16,
            IpNumber::UDP => 6,
            IpNumber::ICMP => 2,
            other => anyhow::bail!("no checksum known in protocol {}", other.0),
        };
    overwrite(frame, field, &[0, 0])?;
    let transport = frame.get(start..end).context("the frame is shorter")?;
    let mut sum = words(transport);
    if header.protocol != IpNumber::ICMP {
        sum += words(&header.source) + words(&header.destination);
        sum += u64::from(header.protocol.0) + u64::try_from(transport.len())?;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum)?;
    // In UDP, 0 is no checksum.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    overwrite(frame, field, &checksum.to_be_bytes())
}

fn words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u64::from(*high) << 8 | u64::from(*low),
        [high] => u64::from(*high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::SlicedPacket;

    fn headers() -> Headers {
        Headers {
            ethernet: Ethernet2Header {
                source: [2; 6],
                destination: [4; 6],
                ether_type: etherparse::EtherType::IPV4,
            },
            ip: Ipv4Header::new(0, 64, IpNumber::UDP, [10, 77, 0, 1], [10, 77, 0, 2]).unwrap(),
        }
    }

    #[test]
    fn options_have_the_bytes_of_the_design() {
        let bytes = [
            0x86, 0x14, 0x10, 0x00, 0x10, 0x00, 0x07, 0x0e, 0x03, 0x06, 0, 0, 0, 3, 0x06, 0x06, 0,
            0, 0, 2,
        ];
        assert_eq!(label(2, 3), bytes);
        let long = authenticated(2, 3, 1, 0x80, 9, [7; 12]);
        assert_eq!((long.len(), long[1], long[7]), (40, 0x28, 0x22));
        assert_eq!(long[20..28], [0x07, 0x14, 1, 0x80, 0, 0, 0, 9]);
    }

    #[test]
    fn the_label_is_found_behind_other_options() {
        let plain = headers().udp(1, 2, b"x").unwrap();
        assert_eq!(label_offset(&plain), None);
        let mut options = vec![1, 1, 1, 1];
        options.extend(label(2, 3));
        let frame = headers().options(&options).unwrap().udp(1, 2, b"x").unwrap();
        assert_eq!(label_offset(&frame), Some(14 + 20 + 4));
        assert_eq!(transport_offset(&frame).unwrap(), 14 + 20 + 24);
    }

    #[test]
    fn repaired_checksums_are_those_of_etherparse() {
        for mut frame in [
            headers().udp(1, 2, b"odd").unwrap(),
            headers().tcp_data(1, 2, 3, 4, b"even").unwrap(),
            headers().ping(1, 2, b"ping").unwrap(),
        ] {
            let right = frame.clone();
            let start = transport_offset(&frame).unwrap();
            for offset in [ETHERNET + 10, start + if frame[ETHERNET + 9] == 6 { 16 } else { 2 }] {
                if frame[ETHERNET + 9] != 17 || offset < start {
                    flip(&mut frame, offset * 8).unwrap();
                }
            }
            repair(&mut frame).unwrap();
            assert_eq!(frame, right);
            assert!(SlicedPacket::from_ethernet(&frame).is_ok());
        }
    }

    #[test]
    fn an_edited_header_is_valid_again() {
        let mut frame = headers().udp(1, 2, b"x").unwrap();
        edit_ip(&mut frame, |ip| ip.time_to_live = 1).unwrap();
        let header = ip(&frame).unwrap();
        assert_eq!(header.time_to_live, 1);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert!(flip(&mut frame, 8 * 1500).is_err());
    }
}
