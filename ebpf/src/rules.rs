//! The rules in force: one bank of maps, picked once per packet.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sigil_common::{
    abi::{
        Config, Generation, config_flag, control,
        process::{ProcessRule, TransitionKey},
        rule::{NO_NODE, NodeRef, Peer, PortKey, SocketRule, Verdict, VerdictKey},
        socket::RelabelKey,
    },
    decide::{self, Refusal, Sending},
    label::Label,
    verdict::DropReason,
};

use crate::maps::{
    ADDRESSES, CONFIG, GENERATIONS, HANDLES, PEERS, PERIMETER, PORTS, PROCESS_RULES, RELABELS,
    SOCKET_RULES, TRANSITIONS, VERDICTS, rule,
};

/// The node's settings and the generation of rules in force.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) config: &'static Config,
    pub(crate) generation: &'static Generation,
    bank: u32,
}

/// Where a packet to an address would go.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    /// The peer's label; ScID 0 where the port's zone is not declared.
    pub(crate) peer: Label,
    /// Index in `NODES`, or [`NO_NODE`] for a host of the perimeter.
    pub(crate) node: u32,
}

impl Rules {
    /// The rules in force. No rules, no packets.
    #[inline(always)]
    pub(crate) fn now() -> Result<Self, DropReason> {
        let config = CONFIG.get(0).ok_or(DropReason::NoPolicy)?;
        // SAFETY: an aligned word that user space flips with one store.
        let bank = unsafe { core::ptr::from_ref(&config.active).read_volatile() } & 1;
        let generation = GENERATIONS.get(bank).ok_or(DropReason::NoPolicy)?;
        if generation.number == 0 {
            return Err(DropReason::NoPolicy);
        }
        Ok(Self { config, generation, bank })
    }

    #[inline(always)]
    pub(crate) fn observing() -> bool {
        CONFIG.get(0).is_some_and(|config| config.flags & config_flag::OBSERVE != 0)
    }

    /// Whether a server is there, by its TCP address.
    #[inline(always)]
    pub(crate) fn is_server(&self, address: u32, port: u16) -> bool {
        let [a, b, c, d] = self.config.control;
        let asked = control(address, port);
        asked != 0 && (a == asked || b == asked || c == asked || d == asked)
    }

    #[inline(always)]
    pub(crate) fn number(&self) -> u32 {
        self.generation.number
    }

    /// A socket's or process's ScID, or the node's default; 0 if there is neither.
    #[inline(always)]
    pub(crate) fn scid_or_default(&self, scid: u32) -> u32 {
        if scid == 0 { self.generation.default_scid } else { scid }
    }

    #[inline(always)]
    pub(crate) fn own(&self, scid: u32) -> Label {
        Label { snid: self.config.snid, scid }
    }

    #[inline(always)]
    pub(crate) fn peer(&self, label: Label) -> Option<&'static Peer> {
        rule(&PEERS, self.bank, label)
    }

    /// What the rules hold for a peer and a ScID of this node. A copy: the verifier would follow the
    /// two maps that it may come from one after the other, and all that depends on them.
    #[inline(always)]
    pub(crate) fn verdict(&self, peer: &Peer, scid: u32) -> Verdict {
        if peer.scid == scid {
            return peer.verdict;
        }
        let key = VerdictKey { class: peer.class, scid };
        rule(&VERDICTS, self.bank, key).copied().unwrap_or(Verdict::NONE)
    }

    #[inline(always)]
    pub(crate) fn port(&self, snid: u32, protocol: u8, port: u16) -> Option<u32> {
        rule(&PORTS, self.bank, PortKey { snid, port, protocol, pad: 0 }).copied()
    }

    #[inline(always)]
    pub(crate) fn node_at(&self, address: u32) -> Option<&'static NodeRef> {
        rule(&ADDRESSES, self.bank, address)
    }

    /// The static label of an unlabelled host.
    #[inline(always)]
    pub(crate) fn perimeter(&self, address: u32) -> Result<Label, DropReason> {
        let key = Key::new(32, address.to_be_bytes());
        let mut label = Label::default();
        if let Some([snid, scid]) = PERIMETER.get(self.bank).and_then(|map| map.get(&key)) {
            label = Label { snid: *snid, scid: *scid };
        }
        if label.snid == 0 { Err(DropReason::NoPeer) } else { Ok(label) }
    }

    #[inline(always)]
    pub(crate) fn socket(&self, scid: u32) -> Option<&'static SocketRule> {
        rule(&SOCKET_RULES, self.bank, scid)
    }

    #[inline(always)]
    pub(crate) fn process(&self, scid: u32) -> Option<&'static ProcessRule> {
        rule(&PROCESS_RULES, self.bank, scid)
    }

    /// Where an exec leads to: whether the policy says so, and the ScID.
    #[inline(always)]
    pub(crate) fn transition(&self, parent: u32, binary: u32) -> (bool, u32) {
        let key = TransitionKey { parent, binary };
        let found = rule(&TRANSITIONS, self.bank, key);
        (found.is_some(), found.copied().unwrap_or(0))
    }

    /// Whether a process of the zone `user` has the sockets of `owner` for its own once it uses them.
    #[inline(always)]
    pub(crate) fn relabels(&self, owner: u32, user: u32) -> bool {
        let key = RelabelKey { owner: self.scid_or_default(owner), user };
        rule(&RELABELS, self.bank, key).is_some()
    }

    /// The label behind a handle; none for a handle that was never given out.
    #[inline(always)]
    pub(crate) fn label_of(handle: u32) -> Option<Label> {
        HANDLES.get(handle).copied().filter(|label| label.snid != 0)
    }

    /// Where a packet to `address` goes, and to which label, as far as its port tells.
    #[inline(always)]
    pub(crate) fn route(&self, address: u32, protocol: u8, port: u16) -> Result<Route, DropReason> {
        // Set on every path: the verifier follows no enum.
        let mut route = Route { peer: Label::default(), node: NO_NODE };
        if let Some(node) = self.node_at(address) {
            let port = if protocol == decide::protocol::ICMP { 0 } else { port };
            let scid = self.port(node.snid, protocol, port).unwrap_or(0);
            route = Route { peer: Label { snid: node.snid, scid }, node: node.node };
        } else if let Ok(label) = self.perimeter(address) {
            route.peer = label;
        }
        if route.peer.snid == 0 { Err(DropReason::NoPeer) } else { Ok(route) }
    }

    /// What the rules hold for a label and a ScID of this node.
    #[inline(always)]
    pub(crate) fn between(&self, label: Label, scid: u32) -> Verdict {
        self.peer(label).map_or(Verdict::NONE, |peer| self.verdict(peer, scid))
    }

    /// May the kernel itself answer a peer? It may, on a conversation that came this far.
    #[inline(always)]
    pub(crate) fn kernel_answer(&self, peer: Label, scid: u32) -> Sending {
        let protection = self.between(peer, scid).protection;
        Sending { opens: false, protection, alarm_line: 0 }
    }
}

/// A refusal with the labels it is about.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) reason: DropReason,
    pub(crate) line: u32,
    pub(crate) source: Label,
    pub(crate) target: Label,
}

impl From<DropReason> for Refused {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Refusal::from(reason).between(Label::default(), Label::default())
    }
}

/// Adds the labels to a refusal.
pub(crate) trait Between {
    fn between(self, source: Label, target: Label) -> Refused;
}

impl Between for Refusal {
    #[inline(always)]
    fn between(self, source: Label, target: Label) -> Refused {
        Refused { reason: self.reason, line: self.line, source, target }
    }
}

impl Between for DropReason {
    #[inline(always)]
    fn between(self, source: Label, target: Label) -> Refused {
        Refusal::from(self).between(source, target)
    }
}
