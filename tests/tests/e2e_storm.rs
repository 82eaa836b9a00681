//! A wire that duplicates and reorders at full speed: every genuine packet is accepted once, every
//! copy is dropped as a replay, to the packet. Both places of verification.

use anyhow::Result;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, PATIENCE, Tampering, until};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;
const APP: u32 = 20;
/// 5 % duplicated, 5 % overtaken by two others.
const STORM: Tampering =
    Tampering { duplicate_every: 20, reorder_every: 20, tamper_every: 0, depth: 2 };

fn every_copy_is_a_replay(mode: &str) -> Result<()> {
    let setting = Setting { mode, ..Setting::of(POLICY) };
    let (cluster, middlebox) = Cluster::across("storm", &setting, STORM)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(Some(APP), &["tcp-echo", "8000"])?;
    let exchange = one.exchange(Some(WEB), &["tcp-exchange", "10.77.0.2:8000", "30000000"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    let [there, back] = middlebox.stop()?;
    for (node, counts) in [(two, there), (one, back)] {
        assert!(counts.duplicated > 500 && counts.reordered > 500, "{counts:?}");
        let judged = || Ok(Some(node.stats()?).filter(|s| s.hook("ingress").seen >= counts.sent));
        let stats = until("judgement of every packet", PATIENCE, judged)?;
        let ingress = stats.hook("ingress");
        assert_eq!(ingress.dropped.get("replay"), Some(&counts.duplicated), "{stats:?}");
        assert_eq!(ingress.drops(), counts.duplicated, "{stats:?}");
        stats.balanced()?;
    }
    Ok(())
}

sigil_harness::in_both_modes! { every_copy_is_a_replay }
