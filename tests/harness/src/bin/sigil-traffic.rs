//! Traffic as a program, to be put into a security zone. Servers print `ready`, clients one JSON
//! object.
//!
//!     sigil-traffic tcp-echo|tcp-greet|udp-echo PORT|ADDRESS:PORT
//!     sigil-traffic tcp-exchange ADDRESS:PORT BYTES|SECONDSs
//!     sigil-traffic udp-exchange ADDRESS:PORT COUNT|SECONDSs SIZE
//!     sigil-traffic ping ADDRESS COUNT
//!     sigil-traffic storm ADDRESS:PORT SECONDS
//!     sigil-traffic ring …                see [`sigil_harness::ring::ring`]
//!     sigil-traffic try …                 see [`sigil_harness::attempt::attempt`]
//!     sigil-traffic code SIGNED UNSIGNED  see [`sigil_harness::code::code`]

use anyhow::{Context, Result, bail};
use sigil_harness::attempt::attempt;
use sigil_harness::storm::storm;
use sigil_harness::traffic;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let exchange = match *arguments.as_slice() {
        [kind @ ("tcp-echo" | "tcp-greet"), place] => {
            let listener = TcpListener::bind(address(place)?).context("bind")?;
            println!("ready");
            let serve = if kind == "tcp-echo" { traffic::tcp_echo } else { traffic::tcp_greet };
            return serve(&listener);
        }
        ["udp-echo", place] => {
            let socket = UdpSocket::bind(address(place)?).context("bind")?;
            println!("ready");
            return traffic::udp_echo(&socket);
        }
        ["tcp-exchange", address, amount] => {
            traffic::tcp_exchange(address.parse()?, amount.parse()?)?
        }
        ["udp-exchange", address, amount, size] => {
            traffic::udp_exchange(address.parse()?, amount.parse()?, size.parse()?, PATIENCE)?
        }
        ["ping", address, count] => traffic::ping(address.parse()?, count.parse()?, PATIENCE)?,
        ["storm", address, seconds] => {
            let storm = storm(Duration::from_secs(seconds.parse()?), address.parse()?)?;
            println!("{}", serde_json::to_string(&storm)?);
            return Ok(());
        }
        ["ring", ref rest @ ..] => {
            println!("{}", sigil_harness::ring::ring(rest)?);
            return Ok(());
        }
        ["code", signed, unsigned] => return sigil_harness::code::code(signed, unsigned),
        ["try", ref rest @ ..] => {
            println!("{}", attempt(rest)?);
            return Ok(());
        }
        _ => bail!("usage: see the head of the source file"),
    };
    println!("{}", serde_json::to_string(&exchange)?);
    Ok(())
}

/// A port alone is one of all IPv4 addresses.
fn address(place: &str) -> Result<SocketAddr> {
    match place.parse() {
        Ok(port) => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Err(_) => Ok(place.parse()?),
    }
}
