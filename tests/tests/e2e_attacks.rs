//! An attacker on the segment: whatever it sends is dropped, once, for the reason that names the
//! attack, and reaches no socket. Both places of verification.

use anyhow::{Context, Result};
use etherparse::IpNumber;
use sigil_harness::cluster::Setting;
use sigil_harness::packet::{self, Headers};
use sigil_harness::{Attacker, Cluster, Node};
use std::collections::BTreeMap;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const COVERED: &str = include_str!("../harness/dsp/two-nodes-integrity.xml");
const WEB: u32 = 10;
const APP: u32 = 20;
const CLIENT: &[&str] = &["udp-exchange", "10.77.0.2:9000", "1", "64"];

struct Field {
    mallory: Attacker,
    cluster: Cluster,
}

impl Field {
    fn set(policy: &str, mode: &str) -> Result<Self> {
        let cluster = Cluster::start("attacks", &Setting { mode, ..Setting::of(policy) })?;
        Ok(Self { mallory: Attacker::plug(&cluster.lab)?, cluster })
    }

    fn one(&self) -> Result<&Node> {
        self.cluster.node("one")
    }

    fn two(&self) -> Result<&Node> {
        self.cluster.node("two")
    }

    /// A frame as node one would send it, but for the label.
    fn forged(&self, label: &[u8]) -> Result<Vec<u8>> {
        let headers = Headers::between(&self.mallory.node, self.two()?)?;
        headers.pretending(self.one()?.address()).options(label)?.udp(9, 9000, b"forged")
    }

    /// A frame of a conversation that was delivered.
    fn delivered(&self) -> Result<Vec<u8>> {
        let one = self.one()?;
        self.mallory.capture(&self.cluster.lab, one, IpNumber::UDP, || {
            assert!(one.exchange(Some(WEB), CLIENT)?.is_complete());
            Ok(())
        })
    }

    /// A frame of a conversation that was not.
    fn intercepted(&self) -> Result<Vec<u8>> {
        let ends = (self.one()?, self.two()?);
        assert!(ends.0.exchange(Some(WEB), CLIENT)?.is_complete(), "both know their neighbour now");
        self.mallory.intercept(&self.cluster.lab, ends, IpNumber::UDP, || {
            ends.0.exchange(Some(WEB), CLIENT).map(drop)
        })
    }

    /// Node two drops the frame for one reason, and its counters balance.
    fn drops(&self, frame: &[u8], reason: &str) -> Result<()> {
        let drops = self.mallory.inject(self.two()?, &[frame.to_vec()])?;
        assert_eq!(drops, BTreeMap::from([(reason.to_owned(), 1)]));
        self.two()?.stats()?.balanced()
    }
}

fn forged_labels(mode: &str) -> Result<()> {
    let field = Field::set(POLICY, mode)?;
    let _server = field.two()?.serve(Some(APP), &["udp-echo", "9000"])?;
    let genuine = field.delivered()?;
    let label = packet::label_offset(&genuine).context("no label")?;
    let key_id = *genuine.get(label + 22).context("no authentication")?;
    let guess = |snid, key_id| packet::authenticated(snid, WEB, key_id, 0, 1 << 20, [0x42; 12]);
    field.drops(&field.forged(&packet::label(1, WEB))?, "protection")?;
    field.drops(&field.forged(&guess(1, key_id))?, "bad-icv")?;
    field.drops(&field.forged(&guess(1, key_id ^ 0x80))?, "unknown-key")?;
    field.drops(&field.forged(&guess(77, key_id))?, "address-mismatch")?;
    field.drops(&field.forged(&guess(2, key_id))?, "unknown-node")?;
    field.drops(&field.forged(&guess(0, key_id))?, "bad-option")?;
    let own_address = Headers::between(&field.mallory.node, field.two()?)?;
    let undeclared = own_address.options(&guess(77, key_id))?.udp(9, 9000, b"forged")?;
    field.drops(&undeclared, "unknown-node")?;
    let mut foreign = guess(1, key_id);
    packet::overwrite(&mut foreign, 2, &7u32.to_be_bytes())?;
    field.drops(&field.forged(&foreign)?, "bad-doi")
}

fn replayed_packet(mode: &str) -> Result<()> {
    let field = Field::set(POLICY, mode)?;
    let _server = field.two()?.serve(Some(APP), &["udp-echo", "9000"])?;
    let frame = field.delivered()?;
    for _ in 0..3 {
        field.drops(&frame, "replay")?;
    }
    Ok(())
}

fn stolen_address(mode: &str) -> Result<()> {
    let field = Field::set(POLICY, mode)?;
    let _server = field.two()?.serve(Some(APP), &["udp-echo", "9000"])?;
    let mut frame = field.intercepted()?;
    let other = [10, 77, 0, 66];
    packet::edit_ip(&mut frame, |ip| ip.source = other)?;
    field.drops(&frame, "address-mismatch")
}

/// What the ICV covers in every mode; the packet as it was sent still arrives afterwards, since a
/// refused one marks nothing.
fn tampered_header(mode: &str) -> Result<()> {
    let field = Field::set(POLICY, mode)?;
    let _server = field.two()?.serve(Some(APP), &["udp-echo", "9000"])?;
    let genuine = field.intercepted()?;
    let label = packet::label_offset(&genuine).context("no label")?;
    let transport = packet::transport_offset(&genuine)?;
    for (what, offset) in [("port", transport + 3), ("scid", label + 13), ("icv", label + 39)] {
        let mut frame = genuine.clone();
        packet::flip(&mut frame, 8 * offset + 7)?;
        packet::repair(&mut frame)?;
        field.drops(&frame, "bad-icv").context(what)?;
    }
    assert_eq!(field.mallory.inject(field.two()?, &[genuine])?, BTreeMap::new());
    Ok(())
}

fn tampered_payload(mode: &str) -> Result<()> {
    let field = Field::set(COVERED, mode)?;
    let _server = field.two()?.serve(Some(APP), &["udp-echo", "9000"])?;
    let genuine = field.intercepted()?;
    let mut frame = genuine.clone();
    packet::flip(&mut frame, 8 * genuine.len() - 1)?;
    packet::repair(&mut frame)?;
    field.drops(&frame, "bad-icv")?;
    assert_eq!(field.mallory.inject(field.two()?, &[genuine])?, BTreeMap::new());
    Ok(())
}

sigil_harness::in_both_modes! { forged_labels replayed_packet stolen_address tampered_header tampered_payload }
