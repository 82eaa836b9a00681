//! One end of measured traffic, on one CPU. Servers print `ready`, clients one JSON object.
//!
//!     sigil-bench-peer echo CPU PORT
//!     sigil-bench-peer sink CPU PORT
//!     sigil-bench-peer ping CPU ADDRESS:PORT COUNT
//!     sigil-bench-peer stream CPU ADDRESS:PORT MILLISECONDS

use anyhow::{Result, bail};
use sigil_bench::{machine, peer};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let pin = |cpu: &str| machine::pin(cpu.parse()?);
    let answer = match *arguments.as_slice() {
        ["echo", cpu, port] => {
            pin(cpu)?;
            return peer::echo(port.parse()?);
        }
        ["sink", cpu, port] => {
            pin(cpu)?;
            return peer::sink(port.parse()?);
        }
        ["ping", cpu, address, count] => {
            pin(cpu)?;
            peer::ping(address.parse()?, count.parse()?)?
        }
        ["stream", cpu, address, milliseconds] => {
            pin(cpu)?;
            peer::stream(address.parse()?, milliseconds.parse()?)?
        }
        _ => bail!("not a role; see the top of bench/src/bin/peer.rs"),
    };
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}
