//! Streams and floods.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::exchange::open;
use super::{Answer, Placement, Service};
use crate::environment;
use crate::samples::float;

/// What is written and read at once.
pub(super) const CHUNK: usize = 1 << 16;
/// Datagrams between two looks at the clock.
const BURST: u64 = 32;

/// Writes on all flows for some time and waits until all of it was read.
pub(super) fn stream(server: Ipv4Addr, flows: usize, time: Duration) -> Result<Answer> {
    environment::pin(Placement::Pinned.client())?;
    let port = Placement::Pinned.port(Service::Stream);
    let streams: Vec<_> = (0..flows).map(|_| open(server, port)).collect::<Result<_>>()?;
    let start = Instant::now();
    let write = |mut stream: std::net::TcpStream| {
        let (chunk, mut sent) = (vec![0x5a; CHUNK], 0);
        while start.elapsed() < time {
            sent += stream.write(&chunk)?;
        }
        stream.shutdown(Shutdown::Write)?;
        // The server closes when it has read everything.
        ensure!(stream.read(&mut [0])? == 0, "a sink that answers");
        Ok(u64::try_from(sent)?)
    };
    let sent = thread::scope(|scope| {
        let writers: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || write(stream))).collect();
        let join = |writer: thread::ScopedJoinHandle<'_, Result<u64>>| {
            writer.join().map_err(|_| anyhow!("a writer has panicked"))?
        };
        writers.into_iter().map(join).sum::<Result<u64>>()
    })?;
    let value = 8.0 * float(sent) / start.elapsed().as_secs_f64();
    Ok(Answer { value, count: sent, ..Answer::default() })
}

/// Sends as fast as it goes, on the flows in turn, and asks how many arrived.
pub(super) fn packets(
    server: Ipv4Addr,
    flows: usize,
    size: usize,
    time: Duration,
) -> Result<Answer> {
    environment::pin(Placement::Pinned.client())?;
    let sockets: Vec<_> = (0..flows)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((server, Placement::Pinned.port(Service::Packets)))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let datagram = vec![0x5a; size];
    let before = delivered(server)?;
    let start = Instant::now();
    while start.elapsed() < time {
        for socket in sockets.iter().cycle().take(usize::try_from(BURST)?) {
            // A full queue is part of it.
            drop(socket.send(&datagram));
        }
    }
    let elapsed = start.elapsed();
    let count = delivered(server)? - before;
    ensure!(count > 0, "no datagram arrived");
    let value = float(count) / elapsed.as_secs_f64();
    Ok(Answer { value, count, ..Answer::default() })
}

/// How many datagrams the server has read so far.
fn delivered(server: Ipv4Addr) -> Result<u64> {
    let mut stream = open(server, Placement::Pinned.port(Service::Count))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}
