//! The decisions. Pure functions over facts: the same code drops the packet in the kernel and
//! answers `labelctl policy explain`.

#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns and pass five words at most")]

pub mod process;

use crate::abi::policy::{
    CREATE, CREATE_ALARM, CREATE_DENIED, PEER_KERNEL, PROTECTION_AUTHENTICATE, RECEIVE,
    RECEIVE_ALARM, RECEIVE_DENIED,
};
use crate::abi::rule::{NO_NODE, Peer, Verdict};
use crate::verdict::DropReason;

/// Why not, and which line of the policy says so (0: none does).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The counted reason.
    pub reason: DropReason,
    /// Line in the DSP.
    pub line: u32,
}

impl From<DropReason> for Refusal {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self { reason, line: 0 }
    }
}

/// A packet may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The sender may open the conversation; else it may only answer.
    pub opens: bool,
    /// `PROTECTION_*` the packet must get.
    pub protection: u8,
    /// Line of a rule that asks for an alarm, 0 for none.
    pub alarm_line: u32,
}

/// May a local ScID send to a peer? `verdict` is what the rules hold for the two.
///
/// The receiving node is the judge of every packet; refusing here saves the network and gives the
/// application an errno. An answer needs no rule of its own, so the right of the peer to be
/// received is enough to send towards it.
///
/// # Errors
/// [`DropReason::Denied`] with the line of the rule, or [`DropReason::NoRule`].
#[inline(always)]
pub fn send(verdict: &Verdict) -> Result<Sending, Refusal> {
    let flags = verdict.flags;
    if flags & CREATE != 0 {
        let alarm_line = if flags & CREATE_ALARM == 0 { 0 } else { verdict.create_line };
        Ok(Sending { opens: true, protection: verdict.protection, alarm_line })
    } else if flags & RECEIVE != 0 {
        Ok(Sending { opens: false, protection: verdict.protection, alarm_line: 0 })
    } else if flags & CREATE_DENIED != 0 {
        Err(Refusal { reason: DropReason::Denied, line: verdict.create_line })
    } else {
        Err(DropReason::NoRule.into())
    }
}

/// May a local ScID open a conversation with a peer? What `connect` is told.
///
/// # Errors
/// As [`send`]; the right to answer is not enough.
#[inline(always)]
pub fn open(verdict: &Verdict) -> Result<Sending, Refusal> {
    match send(verdict) {
        Ok(sending) if !sending.opens => Err(if verdict.flags & CREATE_DENIED == 0 {
            DropReason::NoRule.into()
        } else {
            Refusal { reason: DropReason::Denied, line: verdict.create_line }
        }),
        other => other,
    }
}

/// May a local ScID send to a host of the perimeter? Nobody judges the packet there, so that the right to
/// be received from is enough for an answer only: `spoken`, the host spoke first in this conversation.
///
/// # Errors
/// As [`open`].
#[inline(always)]
pub fn send_out(verdict: &Verdict, spoken: bool) -> Result<Sending, Refusal> {
    if spoken { send(verdict) } else { open(verdict) }
}

/// May a peer's packet reach a local ScID, whatever was said before?
///
/// # Errors
/// [`DropReason::Denied`] with the line of the rule, or [`DropReason::NoRule`].
#[inline(always)]
pub fn receive(verdict: &Verdict) -> Result<u32, Refusal> {
    if verdict.flags & RECEIVE != 0 {
        Ok(if verdict.flags & RECEIVE_ALARM == 0 { 0 } else { verdict.receive_line })
    } else if verdict.flags & RECEIVE_DENIED != 0 {
        Err(Refusal { reason: DropReason::Denied, line: verdict.receive_line })
    } else {
        Err(DropReason::NoRule.into())
    }
}

/// IP protocol numbers that decisions name.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

/// Who takes a packet in the receiving kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// A socket, where the exact check follows.
    Socket,
    /// The kernel itself, on behalf of its own ScID.
    Kernel,
    /// The kernel's error handling, which acts on other conversations.
    Errors,
}

/// Who takes a packet of this protocol; `icmp_type` matters for ICMP alone.
#[inline(always)]
#[must_use]
pub const fn taker(protocol: u8, icmp_type: u8) -> Taker {
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => Taker::Socket,
        protocol::ICMP => match icmp_type {
            // Replies: of no effect unless a socket waits for them.
            0 | 14 | 16 | 18 => Taker::Socket,
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            3 | 4 | 5 | 11 | 12 => Taker::Errors,
            _ => Taker::Kernel,
        },
        _ => Taker::Kernel,
    }
}

/// [`taker`] for IPv6, which there is on loopback only.
#[inline(always)]
#[must_use]
pub const fn taker_v6(protocol: u8, icmp_type: u8) -> Taker {
    const ICMPV6: u8 = 58;
    match protocol {
        ICMPV6 => match icmp_type {
            128 => Taker::Kernel,
            129 => Taker::Socket,
            // Errors, multicast listeners, routers, neighbours, redirects.
            _ => Taker::Errors,
        },
        _ => taker(protocol, 0),
    }
}

/// May a verified packet reach this node at all? The check for what no socket will judge.
///
/// `kernel` is what the rules hold for the peer and this node's kernel; `protection` is what the
/// packet had.
///
/// # Errors
/// As [`receive`], or [`DropReason::Protection`].
#[inline(always)]
pub fn arrive(taker: Taker, peer: &Peer, kernel: &Verdict, protection: u8) -> Result<(), Refusal> {
    if protection < peer.least() {
        return Err(DropReason::Protection.into());
    }
    match taker {
        Taker::Socket => return Ok(()),
        // A process that may ping this node must not be able to tell it where its routes lead.
        Taker::Errors if peer.flags & PEER_KERNEL != 0 => {}
        Taker::Errors if peer.node != NO_NODE => return Err(DropReason::NoRule.into()),
        Taker::Errors | Taker::Kernel => {
            receive(kernel)?;
        }
    }
    if protection < kernel.protection {
        return Err(DropReason::Protection.into());
    }
    Ok(())
}

/// What a socket's hook knows when a packet arrives.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with its name")]
pub struct Arrival {
    /// The packet's label, as a word.
    pub source: u64,
    /// The label is that of its node's kernel.
    pub kernel: bool,
    /// `PROTECTION_*` that the packet had.
    pub protection: u8,
    /// The label this conversation belongs to, 0 if none yet.
    pub pinned: u64,
    /// The socket listens: it has no conversation of its own.
    pub listener: bool,
    /// The socket is connected to one remote address and port.
    pub connected: bool,
    /// This side opened the conversation, and a rule allowed it to.
    pub opened: bool,
}

/// A packet may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Remember the source as the conversation's peer.
    pub pin: bool,
    /// The verdict holds for every packet with the same label and protection.
    pub cache: bool,
    /// Line of a rule that asks for an alarm, 0 for none.
    pub alarm_line: u32,
}

/// May this packet be delivered to this socket? The exact check.
///
/// A conversation carries packets of the label that was seen in it first, and of the kernel of
/// that label's node, which refuses and closes on behalf of its processes. A label may be admitted
/// by a rule, or because this side opened the conversation and still may.
///
/// # Errors
/// [`DropReason::PeerMismatch`], [`DropReason::Protection`], [`DropReason::Denied`] or
/// [`DropReason::NoRule`].
#[inline(always)]
pub fn deliver(arrival: &Arrival, verdict: &Verdict) -> Result<Delivery, Refusal> {
    let pinned = if arrival.listener { 0 } else { arrival.pinned };
    let foreign = pinned != 0 && pinned != arrival.source;
    if arrival.kernel && !arrival.listener {
        let same_node = pinned >> 32 == arrival.source >> 32;
        if foreign && same_node || pinned == 0 && arrival.opened {
            let protected = arrival.protection >= PROTECTION_AUTHENTICATE;
            return if protected {
                Ok(Delivery { pin: false, cache: false, alarm_line: 0 })
            } else {
                Err(DropReason::Protection.into())
            };
        }
    }
    if foreign && arrival.connected {
        return Err(DropReason::PeerMismatch.into());
    }
    let alarm_line = match receive(verdict) {
        Ok(line) => line,
        // Where only the conversation speaks for a packet, it must be the conversation's own.
        Err(_) if foreign => return Err(DropReason::PeerMismatch.into()),
        Err(refusal) => {
            if !(arrival.opened && !arrival.listener && open(verdict).is_ok()) {
                return Err(refusal);
            }
            0
        }
    };
    if arrival.protection < verdict.protection {
        return Err(DropReason::Protection.into());
    }
    let by_rule = receive(verdict).is_ok();
    Ok(Delivery {
        pin: arrival.connected && !arrival.listener && pinned == 0,
        // An unconnected socket's answers depend on whom it wrote to: judge each of them. And a
        // listener's cache would be inherited by sockets that must learn their own peer.
        cache: !arrival.listener && (arrival.connected || by_rule),
        alarm_line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::policy::{PROTECTION_INTEGRITY, PROTECTION_LABEL};
    use crate::abi::rule::LEAST_SHIFT;
    use crate::label::Label;

    const WEB: u64 = Label { snid: 1, scid: 2 }.word();
    const EVIL: u64 = Label { snid: 1, scid: 66 }.word();
    const KERNEL: u64 = Label { snid: 1, scid: u32::MAX }.word();
    const OTHER_KERNEL: u64 = Label { snid: 9, scid: u32::MAX }.word();

    fn verdict(flags: u32) -> Verdict {
        Verdict {
            flags,
            protection: PROTECTION_AUTHENTICATE,
            create_line: 7,
            receive_line: 8,
            pad: [0; 3],
        }
    }

    fn arrival(source: u64) -> Arrival {
        Arrival {
            source,
            kernel: source == KERNEL || source == OTHER_KERNEL,
            protection: PROTECTION_AUTHENTICATE,
            pinned: 0,
            listener: false,
            connected: true,
            opened: false,
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert_eq!(send(&Verdict::NONE), Err(DropReason::NoRule.into()));
        assert_eq!(receive(&Verdict::NONE), Err(DropReason::NoRule.into()));
        assert_eq!(deliver(&arrival(WEB), &Verdict::NONE), Err(DropReason::NoRule.into()));
        assert_eq!(deliver(&arrival(WEB), &verdict(0)), Err(DropReason::NoRule.into()));
    }

    #[test]
    fn a_denial_names_its_line() {
        let denied = verdict(CREATE_DENIED | RECEIVE_DENIED);
        assert_eq!(send(&denied), Err(Refusal { reason: DropReason::Denied, line: 7 }));
        assert_eq!(
            deliver(&arrival(WEB), &denied),
            Err(Refusal { reason: DropReason::Denied, line: 8 })
        );
    }

    #[test]
    fn who_may_be_received_may_be_answered_but_not_called() {
        let answer = verdict(RECEIVE);
        assert!(send(&answer).is_ok_and(|s| !s.opens));
        assert_eq!(open(&answer), Err(DropReason::NoRule.into()));
    }

    #[test]
    fn a_reply_needs_an_opened_conversation() {
        let may_call = verdict(CREATE);
        let unsolicited = arrival(WEB);
        assert_eq!(deliver(&unsolicited, &may_call), Err(DropReason::NoRule.into()));
        let reply = Arrival { opened: true, ..unsolicited };
        assert!(deliver(&reply, &may_call).is_ok_and(|d| d.pin && d.cache));
    }

    #[test]
    fn a_conversation_is_deaf_to_every_other_label() {
        let allowed = verdict(CREATE | RECEIVE);
        let intruder = Arrival { pinned: WEB, ..arrival(EVIL) };
        assert_eq!(deliver(&intruder, &allowed), Err(DropReason::PeerMismatch.into()));
    }

    #[test]
    fn a_kernel_speaks_for_its_own_node_only() {
        let reset = Arrival { pinned: WEB, ..arrival(KERNEL) };
        assert!(deliver(&reset, &Verdict::NONE).is_ok_and(|d| !d.pin && !d.cache));
        let foreign = Arrival { pinned: WEB, ..arrival(OTHER_KERNEL) };
        assert_eq!(deliver(&foreign, &Verdict::NONE), Err(DropReason::PeerMismatch.into()));
        let spoofed = Arrival { protection: PROTECTION_LABEL, ..reset };
        assert_eq!(deliver(&spoofed, &Verdict::NONE), Err(DropReason::Protection.into()));
        let to_listener = Arrival { listener: true, ..arrival(KERNEL) };
        assert_eq!(deliver(&to_listener, &Verdict::NONE), Err(DropReason::NoRule.into()));
    }

    #[test]
    fn a_listener_neither_pins_nor_caches() {
        let syn = Arrival { listener: true, pinned: EVIL, connected: false, ..arrival(WEB) };
        let delivery = deliver(&syn, &verdict(RECEIVE));
        assert!(delivery.is_ok_and(|d| !d.pin && !d.cache));
    }

    #[test]
    fn protection_is_a_floor() {
        let strict = Verdict { protection: PROTECTION_INTEGRITY, ..verdict(RECEIVE) };
        assert_eq!(deliver(&arrival(WEB), &strict), Err(DropReason::Protection.into()));
        let covered = Arrival { protection: PROTECTION_INTEGRITY, ..arrival(WEB) };
        assert!(deliver(&covered, &strict).is_ok());
    }

    #[test]
    fn an_unconnected_opener_is_judged_packet_by_packet() {
        let reply = Arrival { opened: true, connected: false, ..arrival(WEB) };
        assert!(deliver(&reply, &verdict(CREATE)).is_ok_and(|d| !d.pin && !d.cache));
        assert!(deliver(&reply, &verdict(RECEIVE)).is_ok_and(|d| !d.pin && d.cache));
    }

    #[test]
    fn only_a_kernel_may_send_errors_and_redirects() {
        let process = Peer { handle: 1, node: 3, ..Peer::default() };
        let kernel = Peer { flags: PEER_KERNEL, ..process };
        let may_ping = verdict(RECEIVE);
        let arrive = |taker, peer, verdict| arrive(taker, peer, verdict, PROTECTION_AUTHENTICATE);
        for icmp_type in [3, 4, 5, 11, 12] {
            let taker = taker(protocol::ICMP, icmp_type);
            assert!(arrive(taker, &process, &may_ping).is_err());
            assert!(arrive(taker, &kernel, &Verdict::NONE).is_ok());
            assert_eq!(
                super::arrive(taker, &kernel, &Verdict::NONE, PROTECTION_LABEL),
                Err(DropReason::Protection.into()),
                "a forged label must not speak for a kernel"
            );
        }
        assert!(arrive(taker(protocol::ICMP, 8), &process, &may_ping).is_ok());
        assert!(arrive(taker(protocol::ICMP, 8), &process, &Verdict::NONE).is_err());
        assert!(arrive(taker(47, 0), &kernel, &Verdict::NONE).is_err());
        assert!(arrive(taker(protocol::TCP, 0), &process, &Verdict::NONE).is_ok());
        let strict = Peer { flags: u32::from(PROTECTION_AUTHENTICATE) << LEAST_SHIFT, ..process };
        assert_eq!(
            super::arrive(Taker::Socket, &strict, &Verdict::NONE, PROTECTION_LABEL),
            Err(DropReason::Protection.into()),
            "a forged label must not reach the stack"
        );
    }
}
