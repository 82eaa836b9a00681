//! ONC RPC (RFC 5531) with a real rpcbind: `lat_rpc`.
//!
//! As in `LMBench`, the procedure takes a byte and gives it back, each as an XDR word.

use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use onc_rpc::auth::AuthFlavor;
use onc_rpc::{AcceptedReply, AcceptedStatus, CallBody, MessageType, ReplyBody, RpcMessage};

use super::exchange::{ask, open};
use super::{Answer, PATIENCE, Placement, timed};

/// Of the range that RFC 5531 leaves to users.
const PROGRAM: u32 = 0x2000_5161;
const EXCHANGE: u32 = 1;
/// The port mapper, RFC 1833.
const PORTMAP: u32 = 100_000;
const PORTMAP_VERSION: u32 = 2;
const PORTMAP_PORT: u16 = 111;
const SET: u32 = 1;
const GETPORT: u32 = 3;
const TCP: u32 = 6;
const UDP: u32 = 17;
/// Record marking (RFC 5531, 11): the last fragment's bit and the length, before messages on streams.
const MARK: usize = 4;
/// No message here is longer.
const ROOM: usize = 512;

type Message<'a> = RpcMessage<&'a [u8], &'a [u8]>;

/// A call with its record mark.
fn call(xid: u32, program: u32, version: u32, procedure: u32, arguments: &[u8]) -> Result<Vec<u8>> {
    let none = || AuthFlavor::AuthNone(None);
    let body = CallBody::new(program, version, procedure, none(), none(), arguments);
    Ok(Message::new(xid, MessageType::Call(body)).serialise()?)
}

/// The results of an accepted reply to this call, from a message with its record mark.
fn results(reply: &[u8], xid: u32) -> Result<&[u8]> {
    let message = Message::try_from(reply)?;
    ensure!(message.xid() == xid, "a reply to call {}", message.xid());
    let Some(ReplyBody::Accepted(reply)) = message.reply_body() else { bail!("no accepted reply") };
    let AcceptedStatus::Success(results) = reply.status() else { bail!("{:?}", reply.status()) };
    Ok(results)
}

/// Answers a call that has its record mark, with its own arguments.
fn answer(call: &[u8]) -> Result<Vec<u8>> {
    let message = Message::try_from(call)?;
    let body = message.call_body().context("no call")?;
    let status = match (body.program(), body.procedure()) {
        (PROGRAM, EXCHANGE) => AcceptedStatus::Success(*body.payload()),
        (PROGRAM, 0) => AcceptedStatus::Success(&[][..]),
        (PROGRAM, _) => AcceptedStatus::ProcedureUnavailable,
        _ => AcceptedStatus::ProgramUnavailable,
    };
    let reply = AcceptedReply::new(AuthFlavor::AuthNone(None), status);
    let reply = MessageType::Reply(ReplyBody::Accepted(reply));
    Ok(Message::new(message.xid(), reply).serialise()?)
}

/// Datagrams have no record mark; the codec wants one.
fn marked(datagram: &[u8]) -> Result<Vec<u8>> {
    let mut message = (u32::try_from(datagram.len())? | 1 << 31).to_be_bytes().to_vec();
    message.extend(datagram);
    Ok(message)
}

fn unmarked(message: &[u8]) -> &[u8] {
    message.get(MARK..).unwrap_or_default()
}

/// Reads a record, of one fragment.
fn read_record(stream: &mut impl Read, record: &mut Vec<u8>) -> Result<()> {
    record.resize(MARK, 0);
    stream.read_exact(record)?;
    let mark: [u8; MARK] = record.as_slice().try_into()?;
    let length = usize::try_from(u32::from_be_bytes(mark) & !(1 << 31))?;
    ensure!(length <= ROOM, "a record of {length} bytes");
    record.resize(MARK + length, 0);
    stream.read_exact(record.get_mut(MARK..).unwrap_or_default())?;
    Ok(())
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

fn word(results: &[u8]) -> Result<u32> {
    Ok(u32::from_be_bytes(results.try_into().context("no XDR word")?))
}

/// Asks the port mapper at a host.
fn portmap(host: Ipv4Addr, procedure: u32, arguments: &[u8]) -> Result<u32> {
    let xid = std::process::id();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((host, PORTMAP_PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let question = call(xid, PORTMAP, PORTMAP_VERSION, procedure, arguments)?;
    let mut reply = [0; ROOM];
    let of_call = |reply: &[u8]| reply.starts_with(&xid.to_be_bytes());
    let length = ask(&socket, unmarked(&question), &mut reply, &mut 0, of_call);
    let length = length.context("rpcbind")?;
    word(results(&marked(reply.get(..length).unwrap_or_default())?, xid)?)
}

/// Opens a datagram and a stream server and registers them with this node's rpcbind.
pub(super) fn register(placement: Placement) -> Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    for (protocol, port) in [(UDP, udp.local_addr()?.port()), (TCP, tcp.local_addr()?.port())] {
        let mapping = words([PROGRAM, placement.version(), protocol, port.into()]);
        let set = portmap(Ipv4Addr::LOCALHOST, SET, &mapping)?;
        ensure!(set == 1, "rpcbind does not register port {port}");
    }
    Ok((udp, tcp))
}

/// Where a host's rpcbind says the server is.
fn find(host: Ipv4Addr, placement: Placement, protocol: u32) -> Result<u16> {
    let port = portmap(host, GETPORT, &words([PROGRAM, placement.version(), protocol, 0]))?;
    ensure!(port != 0, "rpcbind knows no such program");
    Ok(u16::try_from(port)?)
}

pub(super) fn serve_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; ROOM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let reply = marked(buffer.get(..length).unwrap_or_default());
        if let Ok(reply) = reply.and_then(|call| answer(&call)) {
            drop(socket.send_to(unmarked(&reply), from));
        }
    }
}

pub(super) fn serve_stream(mut stream: TcpStream) {
    let mut record = Vec::with_capacity(ROOM);
    while read_record(&mut stream, &mut record).is_ok() {
        let Ok(reply) = answer(&record) else { return };
        if stream.write_all(&reply).is_err() {
            return;
        }
    }
}

pub(super) fn udp(server: Ipv4Addr, placement: Placement, time: Duration) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = find(server, placement, UDP)?;
    socket.connect(SocketAddr::from((server, port)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut xid, mut repeated) = (0_u32, 0);
    let mut reply = [0; ROOM];
    let times = timed(time, || {
        xid += 1;
        let question = call(xid, PROGRAM, placement.version(), EXCHANGE, &words([xid & 0xff]))?;
        ask(&socket, unmarked(&question), &mut reply, &mut repeated, |reply| {
            let reply = marked(reply);
            let results = reply.as_deref().map(|reply| results(reply, xid).and_then(word));
            results.is_ok_and(|results| results.is_ok_and(|byte| byte == xid & 0xff))
        })?;
        Ok(())
    })?;
    Ok(Answer { repeated, ..times })
}

pub(super) fn tcp(server: Ipv4Addr, placement: Placement, time: Duration) -> Result<Answer> {
    let mut stream = open(server, find(server, placement, TCP)?)?;
    let (mut xid, mut record) = (0_u32, Vec::with_capacity(ROOM));
    timed(time, || {
        xid += 1;
        let question = call(xid, PROGRAM, placement.version(), EXCHANGE, &words([xid & 0xff]))?;
        stream.write_all(&question).context("send")?;
        read_record(&mut stream, &mut record).context("receive")?;
        ensure!(word(results(&record, xid)?)? == xid & 0xff, "another byte came back");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_the_words_of_the_rfc() {
        let bytes =
            call(7, PORTMAP, PORTMAP_VERSION, GETPORT, &words([PROGRAM, 1, TCP, 0])).unwrap();
        let body = [7, 0, 2, PORTMAP, 2, GETPORT, 0, 0, 0, 0, PROGRAM, 1, TCP, 0];
        assert_eq!(unmarked(&bytes), words(body));
        assert_eq!(bytes, marked(&words(body)).unwrap());
    }

    #[test]
    fn a_call_is_answered_with_its_own_byte() {
        let reply = answer(&call(7, PROGRAM, 1, EXCHANGE, &words([42])).unwrap()).unwrap();
        assert_eq!(word(results(&reply, 7).unwrap()).unwrap(), 42);
        assert!(results(&reply, 8).is_err());
        let refused = answer(&call(7, PROGRAM, 1, 9, &[]).unwrap()).unwrap();
        assert!(results(&refused, 7).is_err());
    }

    #[test]
    fn records_are_bounded() {
        let mut endless: &[u8] = &[0xff; 64];
        assert!(read_record(&mut endless, &mut Vec::new()).is_err());
    }
}
