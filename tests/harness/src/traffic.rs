//! Small generators of traffic that count exactly what they send and receive.
//!
//! They run on any thread, so inside a node by [`crate::Netns::enter`], and as the program
//! `sigil-traffic`, which alone can be put into a security zone.

use crate::{Node, PATIENCE, Process, binary};
use anyhow::{Context, Result, bail, ensure};
use etherparse::{IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Ipv4HeaderSlice};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// What a TCP exchange writes at once.
const CHUNK: usize = 1 << 16;

/// How much to send: a number of bytes or datagrams, or for how long (`3s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes or datagrams.
    Count(u64),
    /// Until it has passed.
    Time(Duration),
}

impl FromStr for Amount {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('s') {
            Some(seconds) => Ok(Self::Time(Duration::from_secs(seconds.parse()?))),
            None => Ok(Self::Count(text.parse()?)),
        }
    }
}

impl Amount {
    fn left(self, done: u64, start: Instant) -> u64 {
        match self {
            Self::Count(count) => count.saturating_sub(done),
            Self::Time(time) if start.elapsed() < time => u64::MAX,
            Self::Time(_) => 0,
        }
    }
}

/// What an exchange counted, in bytes (TCP) or datagrams (UDP, ICMP).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Sent.
    pub sent: u64,
    /// Came back as they were sent.
    pub received: u64,
    /// Came back a second time.
    pub duplicates: u64,
}

impl Exchange {
    /// Whether something was sent, and all of it came back once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sent > 0 && self.received == self.sent && self.duplicates == 0
    }
}

/// Sends back whatever comes in on any connection.
///
/// # Errors
///
/// The listener's.
pub fn tcp_echo(listener: &TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut reader = stream.try_clone()?;
            std::io::copy(&mut reader, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        });
    }
    Ok(())
}

/// What [`tcp_greet`] says.
pub const GREETING: &[u8] = b"hello and good-bye";

/// Greets whoever connects, and closes: the side that closes first keeps the connection in `TIME_WAIT`.
///
/// # Errors
///
/// The listener's.
pub fn tcp_greet(listener: &TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        // Whoever hung up before wants no greeting.
        drop(stream?.write_all(GREETING));
    }
    Ok(())
}

/// Sends a pattern to a [`tcp_echo`] on one connection and checks what comes back.
///
/// # Errors
///
/// The connection fails, or something else came back.
pub fn tcp_exchange(address: SocketAddr, amount: Amount) -> Result<Exchange> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = stream.try_clone()?;
    let reading = thread::spawn(move || read_pattern(&mut reader));
    let (start, block) = (Instant::now(), pattern());
    let mut sent = 0;
    while let left @ 1.. = amount.left(sent, start) {
        let at = usize::try_from(sent)? % PATTERN;
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = block.get(at..at + length).context("the block is shorter")?;
        stream.write_all(chunk).context("send")?;
        sent += u64::try_from(length)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let received = reading.join().unwrap_or_else(|_| bail!("the reader has panicked"))?;
    Ok(Exchange { sent, received, duplicates: 0 })
}

/// The pattern's period: a prime, so that a lost or repeated block shows.
const PATTERN: usize = 251;

fn pattern() -> Vec<u8> {
    (0..PATTERN + CHUNK).map(|at| (at % PATTERN).to_le_bytes()[0]).collect()
}

fn read_pattern(reader: &mut TcpStream) -> Result<u64> {
    let (block, mut buffer) = (pattern(), vec![0; CHUNK]);
    let mut total = 0;
    loop {
        let length = reader.read(&mut buffer).context("receive")?;
        let at = usize::try_from(total)? % PATTERN;
        ensure!(
            buffer.get(..length) == block.get(at..at + length),
            "byte {total} or later differs"
        );
        total += u64::try_from(length)?;
        if length == 0 {
            return Ok(total);
        }
    }
}

/// Sends back every datagram.
///
/// # Errors
///
/// The socket's.
pub fn udp_echo(socket: &UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An ICMP error to an earlier answer is no reason to stop.
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        drop(socket.send_to(buffer.get(..length).unwrap_or_default(), from));
    }
}

/// Sends numbered datagrams to a [`udp_echo`] one after the other; one that has not come back after
/// `patience` counts as lost.
///
/// # Errors
///
/// The kernel refuses to send.
pub fn udp_exchange(
    address: SocketAddr,
    amount: Amount,
    size: usize,
    patience: Duration,
) -> Result<Exchange> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(patience))?;
    let (start, mut seen) = (Instant::now(), HashSet::new());
    let mut exchange = Exchange::default();
    let mut datagram = vec![0x5a; size.max(8)];
    let mut answer = datagram.clone();
    while amount.left(exchange.sent, start) > 0 {
        let number = exchange.sent.to_be_bytes();
        datagram.splice(..8, number);
        socket.send(&datagram).context("send")?;
        exchange.sent += 1;
        loop {
            match socket.recv(&mut answer) {
                Ok(length) if answer.get(..length) == Some(&datagram) && seen.insert(number) => {
                    exchange.received += 1;
                    break;
                }
                Ok(_) => exchange.duplicates += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
                Err(error) => return Err(error).context("receive"),
            }
        }
    }
    Ok(exchange)
}

/// Sends ICMP echo requests one after the other.
///
/// # Errors
///
/// This is not root, or the kernel refuses to send.
pub fn ping(address: Ipv4Addr, count: u16, patience: Duration) -> Result<Exchange> {
    let none = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Raw, none, SockProtocol::Icmp)?;
    let micros = i64::try_from(patience.as_micros())?;
    let timeout = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(address, 0));
    let id = u16::try_from(std::process::id() & 0xffff)?;
    let mut exchange = Exchange::default();
    let mut answer = [0; 2048];
    for seq in 0..count {
        let request = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq });
        let request = etherparse::Icmpv4Header::with_checksum(request, &[]).to_bytes();
        sendto(fd.as_raw_fd(), &request, &to, MsgFlags::empty())?;
        exchange.sent += 1;
        while let Ok(length) = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            if echo_reply(answer.get(..length).unwrap_or_default()) == Some((id, seq)) {
                exchange.received += 1;
                break;
            }
        }
    }
    Ok(exchange)
}

fn echo_reply(packet: &[u8]) -> Option<(u16, u16)> {
    let header = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let icmp = Icmpv4Slice::from_slice(packet.get(header.slice().len()..)?).ok()?;
    match icmp.icmp_type() {
        Icmpv4Type::EchoReply(echo) => Some((echo.id, echo.seq)),
        _ => None,
    }
}

impl Node {
    /// Starts `sigil-traffic <arguments>` on the node, in a security zone or in none.
    ///
    /// # Errors
    ///
    /// It is not built.
    pub fn traffic(&self, zone: Option<u32>, arguments: &[&str]) -> Result<Process> {
        let program = binary("sigil-traffic")?;
        let Some(scid) = zone else {
            return self.start(Command::new(program).args(arguments));
        };
        let mut command = self.labelctl()?;
        command.args(["run", "--scid", &scid.to_string(), "--"]).arg(program).args(arguments);
        self.start(&mut command)
    }

    /// Starts a server, `sigil-traffic tcp-echo PORT` or `udp-echo PORT`, and waits until it serves.
    ///
    /// # Errors
    ///
    /// It is not built, or may not serve.
    pub fn serve(&self, zone: Option<u32>, arguments: &[&str]) -> Result<Process> {
        let process = self.traffic(zone, arguments)?;
        process.wait_line(PATIENCE, |line| line == "ready")?;
        Ok(process)
    }

    /// Runs a client, `sigil-traffic tcp-exchange …` or `udp-exchange …`, to its end.
    ///
    /// # Errors
    ///
    /// What the client says.
    pub fn exchange(&self, zone: Option<u32>, arguments: &[&str]) -> Result<Exchange> {
        finish(self.traffic(zone, arguments)?)
    }
}

/// Waits for a client that [`Node::traffic`] started.
///
/// # Errors
///
/// What the client says.
pub fn finish(client: Process) -> Result<Exchange> {
    let output = client.wait(Duration::from_mins(2))?;
    ensure!(output.success(), "{}", output.stderr.trim());
    serde_json::from_str(&output.stdout).context(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_counts_or_seconds() {
        assert_eq!("5".parse(), Ok(Amount::Count(5)));
        assert_eq!("5s".parse(), Ok(Amount::Time(Duration::from_secs(5))));
        assert!("s".parse::<Amount>().is_err());
    }

    #[test]
    fn a_tcp_exchange_checks_every_byte() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || tcp_echo(&listener));
        let exchange = tcp_exchange(address, Amount::Count(1_000_001)).unwrap();
        assert_eq!(exchange, Exchange { sent: 1_000_001, received: 1_000_001, duplicates: 0 });
    }

    #[test]
    fn a_udp_exchange_counts_every_datagram() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        thread::spawn(move || udp_echo(&server));
        let exchange = udp_exchange(address, Amount::Count(100), 64, ANSWER).unwrap();
        assert!(exchange.is_complete());
        assert_eq!(exchange.received, 100);
    }
}
