//! Messages there and back, and connections: `lat_udp`, `lat_tcp`, `lat_connect`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use super::{Answer, PATIENCE, Placement, REPEATS, Service, WARM, answer, timed};
use crate::samples::float;

/// How long [`first_answer`] waits before it asks again.
const IMPATIENCE: Duration = Duration::from_micros(200);

pub(super) fn udp(server: Ipv4Addr, placement: Placement, time: Duration) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, placement.port(Service::UdpEcho)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut number, mut repeated) = (0_u32, 0);
    let mut answer = [0; 4];
    let times = timed(time, || {
        number += 1;
        ask(&socket, &number.to_be_bytes(), &mut answer, &mut repeated, |answer| {
            answer == number.to_be_bytes()
        })?;
        Ok(())
    })?;
    Ok(Answer { repeated, ..times })
}

/// Sends a datagram until the answer to it comes, and returns the answer's length.
pub(super) fn ask(
    socket: &UdpSocket,
    question: &[u8],
    answer: &mut [u8],
    repeated: &mut u64,
    fits: impl Fn(&[u8]) -> bool,
) -> Result<usize> {
    for _ in 0..REPEATS {
        socket.send(question).context("send")?;
        loop {
            match socket.recv(answer) {
                Ok(length) if fits(answer.get(..length).unwrap_or_default()) => return Ok(length),
                // The answer to an earlier question that was repeated.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("receive"),
            }
        }
        *repeated += 1;
    }
    bail!("no answer to {REPEATS} datagrams")
}

pub(super) fn tcp(server: Ipv4Addr, placement: Placement, time: Duration) -> Result<Answer> {
    let mut stream = open(server, placement.port(Service::TcpEcho))?;
    let (mut number, mut answer) = (0_u32, [0; 4]);
    timed(time, || {
        number += 1;
        stream.write_all(&number.to_be_bytes()).context("send")?;
        stream.read_exact(&mut answer).context("receive")?;
        ensure!(answer == number.to_be_bytes(), "another answer came back");
        Ok(())
    })
}

pub(super) fn open(server: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(server, port).into(), 5 * PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    stream.set_write_timeout(Some(10 * PATIENCE))?;
    Ok(stream)
}

/// Times the socket and its connection. The server closes first, so that the client's ports never
/// wait, and its closing is awaited outside of the time, so that its queue never overflows.
pub(super) fn connect(server: Ipv4Addr, placement: Placement, time: Duration) -> Result<Answer> {
    let mut times = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end || times.len() <= WARM {
        let start = Instant::now();
        let stream = TcpStream::connect((server, placement.port(Service::Greet)))?;
        times.push(u64::try_from(start.elapsed().as_nanos())?);
        close(stream)?;
    }
    answer(times.split_off(WARM))
}

pub(super) fn connections(server: Ipv4Addr, time: Duration) -> Result<Answer> {
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        close(TcpStream::connect((server, Placement::Pinned.port(Service::Greet)))?)?;
        count += 1;
    }
    let value = float(count) / start.elapsed().as_secs_f64();
    Ok(Answer { value, count, ..Answer::default() })
}

fn close(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    ensure!(stream.read(&mut [0])? == 0, "the server said something");
    Ok(())
}

/// Sends datagrams to a server that may not be reached yet, until one is answered.
pub(super) fn first_answer(server: Ipv4Addr, time: Duration) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, Placement::Free.port(Service::UdpEcho)))?;
    socket.set_read_timeout(Some(IMPATIENCE))?;
    let (end, mut answer, mut count) = (Instant::now() + time, [0; 4], 0);
    while Instant::now() < end {
        count += 1;
        // Refusals are what it waits the end of.
        if socket.send(&[0; 4]).is_ok() && socket.recv(&mut answer).is_ok() {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            return Ok(Answer { value: now.as_secs_f64(), count, ..Answer::default() });
        }
    }
    bail!("no answer to {count} datagrams in {time:?}")
}
