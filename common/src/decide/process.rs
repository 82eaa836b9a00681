//! Fork and exec: what a process may do, and the ScID it then has.
#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns")]

use super::Refusal;
use crate::abi::policy::demand::SIGNED_CODE;
use crate::abi::policy::process::{EXECVE, FORK};
use crate::abi::process::ProcessRule;
use crate::verdict::DropReason;

/// Lines of rules that ask for an alarm, 0 for none.
type AlarmLine = u32;

/// May a process of this ScID make a child? `governed`: the policy has PROCESS rules.
///
/// # Errors
/// [`DropReason::ProcessPermission`] with the line of the rule that denies it, if one does.
#[inline(always)]
pub fn fork(scid: u32, governed: bool, rule: Option<&ProcessRule>) -> Result<AlarmLine, Refusal> {
    let none = ProcessRule::default();
    let rule = rule.unwrap_or(&none);
    permitted(scid, governed, rule, FORK, rule.fork_line)
}

/// What is known when a program is executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exec {
    /// The process's ScID, 0 for none.
    pub parent: u32,
    /// The ScID that the program's file is vouched for, 0 for an unsigned one.
    pub binary: u32,
    /// The policy says where the two lead.
    pub decided: bool,
    /// Where: the ScID after the exec; 0 refuses it.
    pub transition: u32,
    /// The policy has PROCESS rules.
    pub governed: bool,
}

/// The ScID after an exec, and the line of an alarm.
///
/// - A process without ScID keeps none unless a rule gives it one: nothing refuses it.
/// - A process in a zone needs EXECVE. TRANSITION rules and the policy's word on unsigned files decide
///   where it gets to; where they are silent it may run programs of its own zone, and unsigned ones,
///   and stays where it is.
///
/// # Errors
/// [`DropReason::ProcessPermission`], [`DropReason::Unsigned`] or [`DropReason::NoTransition`].
#[inline(always)]
pub fn exec(facts: &Exec, rule: Option<&ProcessRule>) -> Result<(u32, AlarmLine), Refusal> {
    let none = ProcessRule::default();
    let rule = rule.unwrap_or(&none);
    if facts.parent == 0 {
        return Ok((facts.transition, 0));
    }
    let alarm = permitted(facts.parent, facts.governed, rule, EXECVE, rule.execve_line)?;
    let own = facts.binary == facts.parent || facts.binary == 0;
    if facts.decided && facts.transition != 0 {
        Ok((facts.transition, alarm))
    } else if own && !facts.decided {
        Ok((facts.parent, alarm))
    } else if facts.binary == 0 {
        Err(DropReason::Unsigned.into())
    } else {
        Err(DropReason::NoTransition.into())
    }
}

/// Whether a zone demands that all its code is signed. `rule`: the zone's.
#[inline(always)]
#[must_use]
pub fn demands_signed_code(rule: Option<&ProcessRule>) -> bool {
    rule.is_some_and(|rule| rule.demand & SIGNED_CODE != 0)
}

/// May this be code of a process in a zone? `rule`: the zone's. `signed`: it comes from a signed file and
/// was not changed since. `kept`: the node sees all that becomes code; where it cannot, a zone that
/// demands signed code runs nothing.
///
/// # Errors
/// [`DropReason::UnsignedCode`].
#[inline(always)]
pub fn code(rule: Option<&ProcessRule>, signed: bool, kept: bool) -> Result<(), Refusal> {
    let may = signed && kept || !demands_signed_code(rule);
    if may { Ok(()) } else { Err(DropReason::UnsignedCode.into()) }
}

/// May a process control another one: trace it, read what is in it, signal it? `host`: an actor without
/// ScID may.
///
/// # Errors
/// [`DropReason::Confined`].
#[inline(always)]
pub fn control(actor: u32, target: u32, host: bool) -> Result<(), Refusal> {
    if actor == target || actor == 0 && host { Ok(()) } else { Err(DropReason::Confined.into()) }
}

/// May a process do what is the host's alone?
///
/// # Errors
/// [`DropReason::Confined`], where it is in a zone.
#[inline(always)]
pub fn outside(scid: u32) -> Result<(), Refusal> {
    control(scid, 0, true)
}

/// May a process get a descriptor of somebody's socket? Without a zone it may: whoever uses the socket is
/// judged anyway, and an operator's tools only keep it. `relabels`: a RELABEL rule hands the owner's
/// sockets to the receiver's zone.
///
/// # Errors
/// [`DropReason::SocketLabel`].
#[inline(always)]
pub fn receive(receiver: u32, owner: u32, relabels: bool) -> Result<(), Refusal> {
    let may = receiver == 0 || receiver == owner || relabels;
    if may { Ok(()) } else { Err(DropReason::SocketLabel.into()) }
}

/// May a process have another zone's socket for its own, as soon as it uses it? `relabels` as for
/// [`receive`]; `creates`: its zone may make sockets. Who has no zone takes none.
///
/// # Errors
/// [`DropReason::SocketLabel`].
#[inline(always)]
pub fn take_over(user: u32, relabels: bool, creates: bool) -> Result<(), Refusal> {
    let may = user != 0 && relabels && creates;
    if may { Ok(()) } else { Err(DropReason::SocketLabel.into()) }
}

#[inline(always)]
fn permitted(
    scid: u32,
    governed: bool,
    rule: &ProcessRule,
    permission: u32,
    line: u32,
) -> Result<AlarmLine, Refusal> {
    if scid != 0 && governed && rule.allow & permission == 0 {
        return Err(Refusal { reason: DropReason::ProcessPermission, line });
    }
    Ok(if scid != 0 && rule.alarm & permission != 0 { line } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: u32 = 10;
    const APP: u32 = 20;

    fn rule(allow: u32) -> ProcessRule {
        ProcessRule { allow, alarm: 0, fork_line: 7, execve_line: 8, demand: 0 }
    }

    fn refused(reason: DropReason, line: u32) -> Refusal {
        Refusal { reason, line }
    }

    #[test]
    fn a_zone_forks_and_executes_what_its_rule_grants() {
        let refusal = |line| refused(DropReason::ProcessPermission, line);
        assert_eq!(fork(WEB, true, None), Err(refusal(0)));
        assert_eq!(fork(WEB, true, Some(&rule(EXECVE))), Err(refusal(7)));
        assert_eq!(fork(WEB, true, Some(&rule(FORK))), Ok(0));
        let facts = Exec { parent: WEB, governed: true, ..Exec::default() };
        assert_eq!(exec(&facts, None), Err(refusal(0)));
        assert_eq!(exec(&facts, Some(&rule(FORK))), Err(refusal(8)));
        assert_eq!(exec(&facts, Some(&rule(EXECVE))), Ok((WEB, 0)));
    }

    #[test]
    fn a_policy_without_process_rules_governs_no_process() {
        assert_eq!(fork(WEB, false, None), Ok(0));
        assert_eq!(exec(&Exec { parent: WEB, ..Exec::default() }, None), Ok((WEB, 0)));
    }

    #[test]
    fn no_rule_no_other_zones_program() {
        let facts = Exec { parent: WEB, binary: APP, ..Exec::default() };
        assert_eq!(exec(&facts, None), Err(refused(DropReason::NoTransition, 0)));
        assert_eq!(exec(&Exec { binary: WEB, ..facts }, None), Ok((WEB, 0)));
        let led = Exec { decided: true, transition: 30, ..facts };
        assert_eq!(exec(&led, None), Ok((30, 0)));
        assert_eq!(exec(&Exec { binary: WEB, ..led }, None), Ok((30, 0)), "a rule beats the zone");
    }

    #[test]
    fn an_unsigned_program_stays_or_is_refused() {
        let facts = Exec { parent: WEB, ..Exec::default() };
        assert_eq!(exec(&facts, None), Ok((WEB, 0)));
        let strict = Exec { decided: true, ..facts };
        assert_eq!(exec(&strict, None), Err(refused(DropReason::Unsigned, 0)));
    }

    #[test]
    fn who_has_no_zone_gains_none_without_a_rule_and_is_never_refused() {
        let facts = Exec { binary: APP, governed: true, decided: true, ..Exec::default() };
        assert_eq!(exec(&facts, None), Ok((0, 0)));
        assert_eq!(exec(&Exec { transition: APP, ..facts }, None), Ok((APP, 0)));
        assert_eq!(fork(0, true, None), Ok(0));
    }

    #[test]
    fn a_zone_controls_its_own_and_the_host_controls_all() {
        let confined = Err(refused(DropReason::Confined, 0));
        for host in [false, true] {
            assert_eq!(control(WEB, WEB, host), Ok(()));
            assert_eq!(control(0, 0, host), Ok(()));
            assert_eq!(control(WEB, APP, host), confined);
            assert_eq!(control(WEB, 0, host), confined, "nor the host");
        }
        assert_eq!(control(0, WEB, true), Ok(()));
        assert_eq!(control(0, WEB, false), confined);
        assert_eq!((outside(0), outside(WEB)), (Ok(()), confined));
    }

    #[test]
    fn a_zone_gets_no_socket_of_others() {
        let refused = Err(refused(DropReason::SocketLabel, 0));
        for (receiver, owner) in [(WEB, WEB), (0, WEB), (0, 0)] {
            assert_eq!(receive(receiver, owner, false), Ok(()));
        }
        assert_eq!((receive(APP, WEB, false), receive(APP, 0, false)), (refused, refused));
        assert_eq!(receive(APP, WEB, true), Ok(()));
    }

    #[test]
    fn a_socket_changes_hands_by_a_rule_and_into_a_zone_that_may_have_sockets() {
        let refused = Err(refused(DropReason::SocketLabel, 0));
        assert_eq!(take_over(APP, true, true), Ok(()));
        assert_eq!(take_over(APP, false, true), refused);
        assert_eq!(take_over(APP, true, false), refused);
        assert_eq!(take_over(0, true, true), refused, "nobody without a zone");
    }

    #[test]
    fn a_zone_that_demands_signed_code_runs_no_other_and_none_where_nobody_looks() {
        let refused = Err(refused(DropReason::UnsignedCode, 0));
        let strict = ProcessRule { demand: SIGNED_CODE, ..ProcessRule::default() };
        assert_eq!(code(Some(&strict), true, true), Ok(()));
        for (signed, kept) in [(false, true), (true, false), (false, false)] {
            assert_eq!(code(Some(&strict), signed, kept), refused);
            assert_eq!(code(Some(&rule(FORK)), signed, kept), Ok(()));
            assert_eq!(code(None, signed, kept), Ok(()));
        }
    }

    #[test]
    fn alarms_name_their_line() {
        let alarming = ProcessRule { alarm: FORK | EXECVE, ..rule(FORK | EXECVE) };
        assert_eq!(fork(WEB, true, Some(&alarming)), Ok(7));
        let facts = Exec { parent: WEB, governed: true, ..Exec::default() };
        assert_eq!(exec(&facts, Some(&alarming)), Ok((WEB, 8)));
    }
}
