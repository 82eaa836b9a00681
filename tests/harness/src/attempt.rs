//! Single socket operations, each with its outcome in one word: `ok`, `silence` where nothing came in
//! time, or the name of the errno that the application sees, `ECONNREFUSED`.
//!
//! The program `sigil-traffic try …` runs one of them, so that it can be put into a security zone.

use crate::{Node, PATIENCE};
use anyhow::{Context, Result, bail};
use etherparse::{
    IcmpEchoHeader, Icmpv4Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options,
    PacketBuilder,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, sendto,
    setsockopt, socket, sockopt,
};
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// What makes a datagram special.
#[derive(Clone, Copy, Debug, Default)]
struct Special<'a> {
    /// `unconnected`: sent by sendto(2) from a socket that is connected to nobody.
    unconnected: bool,
    /// `mark=N`: `SO_MARK`.
    mark: Option<u32>,
    /// `options=HEX`: `IP_OPTIONS`.
    options: Option<&'a str>,
    /// `segment=N`: `UDP_SEGMENT`.
    segment: Option<i32>,
    /// `device=NAME`: `SO_BINDTODEVICE`.
    device: Option<&'a str>,
    /// `source=ADDRESS:PORT`: bound there.
    source: Option<SocketAddr>,
}

/// Does what the arguments say.
///
/// ```text
/// socket tcp|udp|raw-tcp|raw-udp|raw-sctp|raw-icmp
/// bind tcp|udp ADDRESS:PORT
/// connect ADDRESS:PORT                  opens a TCP connection
/// greeted ADDRESS:PORT COUNT            short TCP connections that the server closes first
/// send ADDRESS:PORT SIZE [SPECIAL]…     a datagram, which must come back whole
/// raw SOURCE ADDRESS:PORT HEX           a datagram with its IP header made by hand: only sent
/// echo ADDRESS                          an echo request from a datagram socket: only sent
/// ```
///
/// # Errors
///
/// It says nothing of the kind.
pub fn attempt(arguments: &[&str]) -> Result<String> {
    let outcome = match *arguments {
        ["socket", kind] => open(kind, "127.0.0.1:0".parse()?).map(drop),
        ["bind", kind, address] => bound(kind, address.parse()?),
        ["connect", address] => TcpStream::connect_timeout(&address.parse()?, ANSWER).map(drop),
        ["greeted", address, count] => greeted(address.parse()?, count.parse()?),
        ["send", address, size, ref how @ ..] => {
            echoed(address.parse()?, size.parse()?, &special(how)?)
        }
        ["raw", source, address, options] => {
            let packet = by_hand(source.parse()?, address.parse()?, &bytes(options)?)?;
            raw(address.parse()?, &packet)
        }
        ["echo", address] => echo(address.parse()?),
        _ => bail!("usage: see the head of the source file"),
    };
    Ok(match outcome {
        Ok(()) => "ok".into(),
        Err(error) => word(&error),
    })
}

fn word(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::WouldBlock | ErrorKind::TimedOut, _) => "silence".into(),
        (_, Some(code)) => format!("{:?}", Errno::from_raw(code)),
        _ => error.to_string(),
    }
}

fn special<'a>(words: &[&'a str]) -> Result<Special<'a>> {
    let mut special = Special::default();
    for word in words {
        match word.split_once('=') {
            None if *word == "unconnected" => special.unconnected = true,
            Some(("mark", value)) => special.mark = Some(value.parse()?),
            Some(("options", value)) => special.options = Some(value),
            Some(("segment", value)) => special.segment = Some(value.parse()?),
            Some(("device", value)) => special.device = Some(value),
            Some(("source", value)) => special.source = Some(value.parse()?),
            _ => bail!("no special {word}"),
        }
    }
    Ok(special)
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digit = |at| hex.get(at..at + 2).context("an odd number of digits");
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(digit(at)?, 16)?)).collect()
}

fn open(kind: &str, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match kind {
        "tcp" => (SockType::Stream, None),
        "udp" => (SockType::Datagram, None),
        "raw-tcp" => (SockType::Raw, Some(SockProtocol::Tcp)),
        "raw-udp" => (SockType::Raw, Some(SockProtocol::Udp)),
        "raw-icmp" => (SockType::Raw, Some(SockProtocol::Icmp)),
        // nix does not know the protocol's number for one.
        "raw-sctp" => return raw_sctp(),
        other => return Err(io::Error::other(format!("no socket {other}"))),
    };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?)
}

#[expect(unsafe_code, reason = "nix does not know the protocol")]
fn raw_sctp() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed; the descriptor that comes is nobody else's.
    unsafe {
        let fd =
            libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP);
        Ok(OwnedFd::from_raw_fd(Errno::result(fd)?))
    }
}

/// An identifier of its own the kernel puts in.
fn echo(to: Ipv4Addr) -> io::Result<()> {
    let none = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, none, SockProtocol::Icmp)?;
    let request = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 0, seq: 0 });
    let request = etherparse::Icmpv4Header::with_checksum(request, &[]).to_bytes();
    let to = SockaddrStorage::from(SocketAddr::from((to, 0)));
    sendto(fd.as_raw_fd(), &request, &to, MsgFlags::empty())?;
    Ok(())
}

fn bound(kind: &str, address: SocketAddr) -> io::Result<()> {
    let socket = open(kind, address)?;
    Ok(bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?)
}

fn greeted(address: SocketAddr, count: u32) -> io::Result<()> {
    for _ in 0..count {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut greeting = Vec::new();
        stream.read_to_end(&mut greeting)?;
        if greeting != crate::traffic::GREETING {
            return Err(io::Error::other("another greeting"));
        }
    }
    Ok(())
}

fn echoed(to: SocketAddr, size: usize, special: &Special) -> io::Result<()> {
    let any = SocketAddr::new(
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() },
        0,
    );
    let socket = UdpSocket::bind(special.source.unwrap_or(any))?;
    socket.set_read_timeout(Some(ANSWER))?;
    if let Some(device) = special.device {
        setsockopt(&socket, sockopt::BindToDevice, &device.into())?;
    }
    if let Some(mark) = special.mark {
        setsockopt(&socket, sockopt::Mark, &mark)?;
    }
    if let Some(segment) = special.segment {
        setsockopt(&socket, sockopt::UdpGsoSegment, &segment)?;
    }
    if let Some(options) = special.options {
        set_options(&socket, &bytes(options).map_err(io::Error::other)?)?;
    }
    let datagram: Vec<u8> = (0..size).map(|at| (at % 251).to_le_bytes()[0]).collect();
    if special.unconnected {
        socket.send_to(&datagram, to)?;
    } else {
        socket.connect(to)?;
        socket.send(&datagram)?;
    }
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while answer.len() < size {
        let (length, from) = socket.recv_from(&mut buffer)?;
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if from != to {
            return Err(io::Error::other("an answer from elsewhere"));
        }
    }
    if answer == datagram { Ok(()) } else { Err(io::Error::other("another answer")) }
}

/// `IP_OPTIONS`, as an application sets its own.
fn set_options(socket: &impl AsRawFd, options: &[u8]) -> io::Result<()> {
    let length = u32::try_from(options.len()).map_err(io::Error::other)?;
    let data = options.as_ptr().cast();
    // SAFETY: the kernel reads `length` bytes, all of the slice.
    #[expect(unsafe_code, reason = "nix does not know this option")]
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, libc::IP_OPTIONS, data, length)
    };
    Errno::result(result)?;
    Ok(())
}

fn by_hand(source: Ipv4Addr, to: SocketAddr, options: &[u8]) -> Result<Vec<u8>> {
    let SocketAddr::V4(to) = to else { bail!("{to} is not IPv4") };
    let mut header = Ipv4Header::new(0, 64, IpNumber::UDP, source.octets(), to.ip().octets())?;
    header.options = Ipv4Options::try_from(options)?;
    let headers = IpHeaders::Ipv4(header, Ipv4Extensions::default());
    let mut packet = Vec::new();
    PacketBuilder::ip(headers).udp(9, to.port()).write(&mut packet, b"by hand")?;
    Ok(packet)
}

fn raw(to: SocketAddr, packet: &[u8]) -> io::Result<()> {
    let (family, none) = (AddressFamily::Inet, SockFlag::SOCK_CLOEXEC);
    // This protocol leaves the header to the application.
    let fd = socket(family, SockType::Raw, none, SockProtocol::Raw)?;
    sendto(fd.as_raw_fd(), packet, &SockaddrStorage::from(to), MsgFlags::empty())?;
    Ok(())
}

impl Node {
    /// Runs `sigil-traffic try <words>` on the node, in a security zone or in none: the outcome.
    ///
    /// # Errors
    ///
    /// There is no such operation.
    pub fn attempt(&self, zone: Option<u32>, words: &str) -> Result<String> {
        let mut arguments = vec!["try"];
        arguments.extend(words.split(' '));
        let output = self.traffic(zone, &arguments)?.wait(PATIENCE)?;
        if !output.success() {
            bail!("{words}: {}", output.stderr.trim());
        }
        Ok(output.stdout.trim().into())
    }
}
