//! What the number of rules costs established flows, beside a packet filter's.

use anyhow::Result;

use super::{Pace, run};
use crate::bed::{Bed, Options};
use crate::end::{Placement, Row, Work};
use crate::mode::{Kind, Mode, PLAIN, SIPHASH_TC, Sigil};
use crate::samples::Samples;

/// Numbers of rules.
const COUNTS: [u32; 4] = [10, 1000, 100_000, 1_000_000];
/// Beyond this a chain takes longer than anybody would wait.
const LONGEST_CHAIN: u32 = 1000;

/// Measures a UDP round trip with so many rules.
///
/// # Errors
/// A mode cannot be set up, or a loop fails.
pub fn rules(pace: Pace, quick: bool) -> Result<Samples> {
    let Kind::Sigil(sigil) = SIPHASH_TC.kind else { unreachable!("a mode of Sigil's") };
    let mut modes = vec![PLAIN];
    let mut counts = vec![0];
    let mut add = |id, title, kind, count| {
        modes.push(Mode { id, title, kind });
        counts.push(count);
    };
    for rules in COUNTS.into_iter().filter(|count| !quick || *count <= 1000) {
        add("siphash-tc", "SipHash, TC", Kind::Sigil(Sigil { rules, ..sigil }), rules);
        add("nft-set", "nftables, a set", Kind::NftSet(rules), rules);
        if rules <= LONGEST_CHAIN {
            add("nft-chain", "nftables, a chain", Kind::NftChain(rules), rules);
        }
    }
    let mut samples = Samples::default();
    // A mode after the other: with a million rules it takes long to stand, and none of them must while
    // another is measured.
    for (mode, count) in modes.iter().zip(&counts) {
        let mut bed = Bed::new(mode, Options::default())?;
        for round in 0..pace.rounds {
            let work = Work::Loop(Row::Udp, Placement::Pinned);
            let answer = run(&mut bed.driver, mode.id, work, pace.time)?;
            let at = format!("rules={count}");
            samples.push(["rules", "udp", mode.id, &at], round, answer.value, "ns");
        }
    }
    Ok(samples)
}
