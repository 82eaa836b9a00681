//! The two ends of measured traffic; programs of their own, so that each is in its node's control
//! group. `sigil-bench-peer` runs them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::numbers::{Summary, float};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is written and read at once.
const CHUNK: usize = 1 << 16;

/// Who answers.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    /// Sends datagrams back.
    Echo,
    /// Reads streams to their ends.
    Sink,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// Sends so many datagrams, one after the other, and waits for each.
    Ping,
    /// Writes for so many milliseconds.
    Stream,
}

impl Server {
    /// As `sigil-bench-peer` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Sink => "sink",
        }
    }
}

impl Client {
    /// As `sigil-bench-peer` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Stream => "stream",
        }
    }
}

/// What a client measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Of pings: the least round trip in nanoseconds.
    pub min: f64,
    /// Of pings: the median round trip in nanoseconds.
    pub median: f64,
    /// Of a stream: bits per second.
    pub rate: f64,
    /// Datagrams that did not come back.
    pub lost: u64,
}

/// Sends every datagram back.
///
/// # Errors
/// The port is taken.
pub fn echo(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("ready");
    let mut buffer = [0; 2048];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        drop(socket.send_to(buffer.get(..len).unwrap_or_default(), from));
    }
}

/// Reads stream after stream to its end.
///
/// # Errors
/// The port is taken.
pub fn sink(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("ready");
    let mut buffer = vec![0; CHUNK];
    for stream in listener.incoming() {
        let mut stream = stream?;
        while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
    }
    Ok(())
}

/// Sends datagrams one after the other and times each round trip.
///
/// # Errors
/// Nothing comes back.
pub fn ping(address: SocketAddr, count: u64) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (datagram, mut answer) = ([0x5a; 32], [0; 64]);
    let (mut times, mut lost) = (Vec::new(), 0);
    for _ in 0..count {
        let start = Instant::now();
        socket.send(&datagram).context("send")?;
        if socket.recv(&mut answer).is_ok() {
            times.push(float(u64::try_from(start.elapsed().as_nanos())?));
        } else {
            lost += 1;
            anyhow::ensure!(lost < 3, "three datagrams did not come back");
        }
    }
    let Summary { min, median, .. } = Summary::of(&times);
    Ok(Answer { min, median, lost, ..Answer::default() })
}

/// Writes a stream for so many milliseconds and waits until all of it was read.
///
/// # Errors
/// The connection fails.
pub fn stream(address: SocketAddr, milliseconds: u64) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (chunk, time) = (vec![0x5a; CHUNK], Duration::from_millis(milliseconds));
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < time {
        sent += stream.write(&chunk).context("send")?;
    }
    stream.shutdown(Shutdown::Write)?;
    // The server closes when it has read everything.
    let rest = stream.read(&mut [0])?;
    anyhow::ensure!(rest == 0, "a sink that answers");
    let rate = 8.0 * float(u64::try_from(sent)?) / start.elapsed().as_secs_f64();
    Ok(Answer { rate, ..Answer::default() })
}
