//! The server of all loops.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

use super::bulk::CHUNK;
use super::{Placement, Service, rpc};
use crate::environment;

/// Serves on all ports until it is killed; registers with the node's rpcbind where one runs. Prints
/// `ready` when all is there.
///
/// # Errors
/// A port is taken, or rpcbind refuses.
pub fn serve(with_rpcbind: bool) -> Result<()> {
    for placement in [Placement::Pinned, Placement::Free] {
        let (near, far) = (placement.near(), placement.far());
        let port = |service| (Ipv4Addr::UNSPECIFIED, placement.port(service));
        let udp = UdpSocket::bind(port(Service::UdpEcho))?;
        on(near, move || echo_datagrams(&udp))?;
        let tcp = TcpListener::bind(port(Service::TcpEcho))?;
        on(near, move || each(&tcp, echo_stream))?;
        let greet = TcpListener::bind(port(Service::Greet))?;
        on(far, move || greet.incoming().for_each(drop))?;
        let sink = TcpListener::bind(port(Service::Stream))?;
        on(far, move || each(&sink, read_to_end))?;
        let (received, counted) =
            (Arc::new(AtomicU64::new(0)), UdpSocket::bind(port(Service::Packets))?);
        let arrivals = Arc::clone(&received);
        on(far, move || count_datagrams(&counted, &arrivals))?;
        let count = TcpListener::bind(port(Service::Count))?;
        on(far, move || {
            for stream in count.incoming().flatten() {
                tell(stream, received.load(Ordering::Relaxed));
            }
        })?;
        if with_rpcbind {
            let (udp, tcp) = rpc::register(placement)?;
            on(near, move || rpc::serve_datagrams(&udp))?;
            on(near, move || each(&tcp, rpc::serve_stream))?;
        }
    }
    println!("ready");
    loop {
        thread::park();
    }
}

/// A thread on a CPU.
fn on(cpu: Option<usize>, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().spawn(move || {
        if let Err(error) = environment::pin(cpu) {
            eprintln!("{error:#}");
        }
        work();
    })?;
    Ok(())
}

/// Each connection on a thread of its own, on the CPUs of this one.
fn each(listener: &TcpListener, serve: fn(TcpStream)) {
    for stream in listener.incoming().flatten() {
        drop(stream.set_nodelay(true));
        thread::spawn(move || serve(stream));
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        drop(socket.send_to(buffer.get(..length).unwrap_or_default(), from));
    }
}

fn echo_stream(mut stream: TcpStream) {
    let mut buffer = [0; 4];
    while stream.read_exact(&mut buffer).is_ok() && stream.write_all(&buffer).is_ok() {}
}

fn read_to_end(mut stream: TcpStream) {
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

fn count_datagrams(socket: &UdpSocket, counter: &AtomicU64) {
    let mut buffer = [0; 1];
    loop {
        if socket.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn tell(mut stream: TcpStream, count: u64) {
    drop(stream.write_all(&count.to_be_bytes()));
}
