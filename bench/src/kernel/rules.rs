//! The policy that is measured: a few nodes of one zone, and as many labels more as are asked for.

use std::net::Ipv4Addr;

use sigil_common::abi::policy::{
    CREATE, PEER_ANY, PEER_KERNEL, PROTECTION_AUTHENTICATE, PROTECTION_LABEL, RECEIVE, socket,
};
use sigil_common::icv::{KEY_LEN, Suite};
use sigil_common::label::{KERNEL_SCID, Label};
use sigil_datapath::{EpochKeys, Pair};
use sigil_policy::{
    NodeEntry, NodeRules, PeerEntry, PortKey, SocketEntry, VerdictEntry, VerdictKey, ZoneEntry,
};
use zeroize::Zeroizing;

/// The zone of all traffic.
pub(super) const ZONE: u32 = 10;
/// The port of all servers.
pub(super) const PORT: u16 = 9000;
/// Nodes: 1 and 2 exchange real traffic, the others exist on single packets alone.
pub(super) const NODES: u32 = 6;
/// The node that all further labels are of.
pub(super) const CROWD: u32 = 3;
/// The ScID of the first of them.
pub(super) const FIRST_SCID: u32 = 1000;
/// The class of the zone's labels; those of the further labels follow.
const CLASS: u32 = 1;
/// The class of labels that come without authentication.
const BARE: u32 = u32::MAX - 1;

/// The nodes that send single packets: which suite the pair's keys have, or none.
pub(super) const SENDERS: [(u32, Option<Suite>); 4] = [
    (CROWD, Some(Suite::SipHash24)),
    (4, Some(Suite::Blake3)),
    (5, Some(Suite::HmacSha256)),
    (6, None),
];

/// A node's address.
#[must_use]
pub(super) fn address(snid: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a4d_0000 + snid)
}

/// A node's index in the kernel, after the first policy.
#[must_use]
pub(super) const fn index(snid: u32) -> u32 {
    snid - 1
}

/// The rules of a node: the zone's, and `count` labels more, each of a class of its own.
#[must_use]
pub(super) fn rules(snid: u32, count: u32) -> NodeRules {
    let verdict = |flags| VerdictEntry {
        flags,
        protection: PROTECTION_AUTHENTICATE,
        create_line: 1,
        receive_line: 1,
    };
    let mut peers = Vec::new();
    for peer in (1..=NODES).filter(|peer| *peer != snid) {
        let bare = SENDERS.contains(&(peer, None));
        for (scid, flags) in [(0, PEER_ANY), (ZONE, 0), (KERNEL_SCID, PEER_KERNEL)] {
            let class = if bare { BARE } else { CLASS };
            peers.push((Label { snid: peer, scid }, PeerEntry { class, flags }));
        }
    }
    let key = |class| VerdictKey { class, scid: ZONE };
    let both = verdict(CREATE | RECEIVE);
    let bare = VerdictEntry { protection: PROTECTION_LABEL, ..both };
    let mut verdicts = vec![(key(CLASS), both), (key(BARE), bare)];
    for number in 0..count {
        let class = CLASS + 1 + number;
        let label = Label { snid: CROWD, scid: FIRST_SCID + number };
        peers.push((label, PeerEntry { class, flags: 0 }));
        // They are admitted and answered, so that the first packet to one opens no conversation.
        verdicts.push((key(class), verdict(RECEIVE)));
    }
    let ports = (1..=NODES)
        .flat_map(|snid| [6, 17].map(|protocol| (PortKey { snid, protocol, port: PORT }, ZONE)));
    let nodes = (1..=NODES).map(|snid| NodeEntry {
        snid,
        name: format!("node{snid}"),
        addresses: vec![address(snid)],
        kernel_scid: KERNEL_SCID,
    });
    let zone = |scid, name: &str| ZoneEntry {
        scid,
        name: name.to_owned(),
        protection: PROTECTION_AUTHENTICATE,
    };
    let all = socket::CREATE | socket::BIND | socket::CONNECT | socket::LISTEN | socket::ACCEPT;
    NodeRules {
        cluster: "bench".to_owned(),
        serial: 1,
        snid,
        kernel_scid: KERNEL_SCID,
        default_scid: ZONE,
        nodes: nodes.collect(),
        zones: vec![zone(ZONE, "bench"), zone(KERNEL_SCID, "kernel")],
        peers,
        verdicts,
        ports: ports.collect(),
        sockets: vec![(ZONE, SocketEntry { allow: all, alarm: 0 })],
        ..NodeRules::default()
    }
}

/// A pair's key, which is nobody's secret.
#[must_use]
pub(super) fn key(source: u32, target: u32) -> [u8; KEY_LEN] {
    let seed = u8::try_from(source * 16 + target).unwrap_or_default();
    [seed; KEY_LEN]
}

/// A suite's key id.
#[must_use]
pub(super) const fn key_id(suite: Suite) -> u8 {
    suite as u8
}

/// The keys of a node: with node 1 or 2 those of SipHash, with the senders each one's own. An epoch
/// for each suite, to be installed one after the other.
#[must_use]
pub(super) fn keys(snid: u32) -> Vec<EpochKeys> {
    let peers = [(1, Some(Suite::SipHash24)), (2, Some(Suite::SipHash24))];
    let of = |wanted: Suite| {
        let peers = peers.into_iter().chain(SENDERS);
        let peers = peers.filter(move |(peer, suite)| *suite == Some(wanted) && *peer != snid);
        let pair =
            |source, target| Pair { source, target, key: Zeroizing::new(key(source, target)) };
        let pairs = peers.flat_map(|(peer, _)| [pair(snid, peer), pair(peer, snid)]);
        EpochKeys { key_id: key_id(wanted), suite: wanted, pairs: pairs.collect() }
    };
    Suite::ALL.map(of).into()
}
