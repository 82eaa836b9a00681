//! Streams, datagrams and connections per second.

use std::time::Duration;

use anyhow::Result;

use super::{Pace, run};
use crate::bed::{Beds, Options};
use crate::end::Work;
use crate::mode::{
    FLOOR_TC, HMAC_TC, INTEGRITY_TC, LABEL_TC, Mode, NFTABLES, PASS_XDP, PLAIN, SIPHASH_TC,
    SIPHASH_XDP, WIREGUARD,
};
use crate::samples::Samples;

/// Streams at once.
const FLOWS: [usize; 4] = [1, 4, 16, 64];
/// Bytes of an IPv4 packet without a label; the last needs jumbo frames.
const SIZES: [usize; 4] = [64, 512, 1400, 8900];
/// IPv4's and UDP's headers.
const HEADERS: usize = 28;
const JUMBO: usize = 1500;

/// The modes that are compared.
const MODES: [Mode; 10] = [
    PLAIN,
    FLOOR_TC,
    LABEL_TC,
    SIPHASH_TC,
    HMAC_TC,
    INTEGRITY_TC,
    PASS_XDP,
    SIPHASH_XDP,
    NFTABLES,
    WIREGUARD,
];

/// Measures throughput, client and server on a CPU each.
///
/// # Errors
/// A mode cannot be set up, or moves nothing.
pub fn throughput(modes: &[Mode], pace: Pace) -> Result<Samples> {
    let modes: Vec<_> = MODES.into_iter().filter(|mode| modes.contains(mode)).collect();
    let mut samples = Samples::default();
    let small: Vec<_> = SIZES.into_iter().filter(|size| *size <= JUMBO).collect();
    measure(&modes, 1500, &FLOWS, &small, pace, &mut samples)?;
    // Native XDP on veth takes frames of a page at most.
    let xdp = [PASS_XDP, SIPHASH_XDP];
    let modes: Vec<_> = modes.into_iter().filter(|mode| !xdp.contains(mode)).collect();
    let large: Vec<_> = SIZES.into_iter().filter(|size| *size > JUMBO).collect();
    measure(&modes, 9000, &[1], &large, pace, &mut samples)?;
    Ok(samples)
}

fn measure(
    modes: &[Mode],
    mtu: u32,
    flows: &[usize],
    sizes: &[usize],
    pace: Pace,
    samples: &mut Samples,
) -> Result<()> {
    let mut beds = Beds::new(modes, Options { mtu, ..Options::default() })?;
    let streams = flows
        .iter()
        .map(|flows| ("stream", Work::Stream(*flows), format!("flows={flows} mtu={mtu}"), "bit/s"));
    let packets =
        sizes.iter().flat_map(|size| {
            let at = move |flows| format!("flows={flows} bytes={size}");
            flows.iter().take(1).chain(flows.get(1..).and_then(<[_]>::last)).map(move |flows| {
                ("packets", Work::Packets(*flows, size - HEADERS), at(*flows), "1/s")
            })
        });
    let connections = [("connections", Work::Connections, "flows=1".to_owned(), "1/s")];
    let connections = connections.into_iter().filter(|_| mtu <= 1500);
    let all: Vec<_> = streams.chain(packets).chain(connections).collect();
    for round in 0..pace.rounds {
        beds.round(round, |mode, bed| {
            for (row, work, at, unit) in &all {
                let answer = run(&mut bed.driver, mode.id, *work, pace.time)?;
                samples.push(["throughput", row, mode.id, at], round, answer.value, unit);
                // What is still in queues is the next one's no more.
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        })?;
    }
    Ok(())
}
