//! Traffic as a program, to be put into a security zone. Servers print `ready`, clients one JSON
//! object.
//!
//!     sigil-traffic tcp-echo PORT
//!     sigil-traffic udp-echo PORT
//!     sigil-traffic tcp-exchange ADDRESS:PORT BYTES|SECONDSs
//!     sigil-traffic udp-exchange ADDRESS:PORT COUNT|SECONDSs SIZE
//!     sigil-traffic ping ADDRESS COUNT

use anyhow::{Context, Result, bail};
use sigil_harness::traffic;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let exchange = match *arguments.as_slice() {
        ["tcp-echo", port] => {
            let address = (Ipv4Addr::UNSPECIFIED, port.parse()?);
            let listener = TcpListener::bind(address).context("bind")?;
            println!("ready");
            return traffic::tcp_echo(&listener);
        }
        ["udp-echo", port] => {
            let address = (Ipv4Addr::UNSPECIFIED, port.parse()?);
            let socket = UdpSocket::bind(address).context("bind")?;
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
        _ => bail!("usage: see the head of the source file"),
    };
    println!("{}", serde_json::to_string(&exchange)?);
    Ok(())
}
