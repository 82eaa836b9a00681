//! RELABEL rules: a socket that comes into other hands has their label, where the policy says so of both
//! zones, and never lends its own.

use anyhow::Result;
use sigil_harness::PATIENCE;

use crate::meeting::Meeting;
use crate::{BARRED, Bench, FRONT, SECURE, SINGLE, USER, WORKER};

const GIVE: &str = "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                    give(sock).recv(9)\n\
                    sock.settimeout(1); print(echoed(sock))";
const USE: &str = "print(echoed(take()))";

#[test]
fn a_socket_in_other_hands_has_their_label_and_is_theirs_alone() -> Result<()> {
    let bench = Bench::start("relabel")?;
    let meeting = Meeting::new(&bench)?;
    let _server = bench.node()?.serve(Some(SECURE), &["udp-echo", "8000"])?;
    let alone = "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                 sock.settimeout(1); print(echoed(sock))";
    assert_eq!(meeting.run(&bench, FRONT, alone)?, "TimeoutError", "front may not by itself");
    let giver = meeting.start(&bench, FRONT, GIVE)?;
    assert_eq!(meeting.run(&bench, WORKER, USE)?, "b'hello'", "worker may");
    // Who gave it away has no part in what it may do now.
    assert_eq!(giver.wait(PATIENCE)?.stdout.trim(), "PermissionError");
    assert_eq!(bench.node()?.stats()?.dropped("socket", "socket-label"), 1);
    bench.node()?.stats()?.balanced()
}

/// The attacks: to borrow the label of who made it, to take without being named, to have a socket in a
/// zone that may have none, to go a rule's way backwards.
#[test]
fn nobody_takes_a_socket_whom_no_rule_names() -> Result<()> {
    let bench = Bench::start("relabel-not")?;
    let meeting = Meeting::new(&bench)?;
    let _server = bench.node()?.serve(Some(SECURE), &["udp-echo", "8000"])?;
    let connected = "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                     sock.connect(('127.0.0.1', 8000)); give(sock).recv(9)";
    let lsm = bench.node()?.status()?["backend"] == "lsm";
    for (owner, user) in [(WORKER, FRONT), (WORKER, USER), (FRONT, BARRED), (FRONT, USER)] {
        let named = (owner, user) == (FRONT, BARRED);
        // Where the kernel refuses the descriptor itself, none comes.
        let take = if lsm && !named {
            "meet = socket.socket(socket.AF_UNIX); meet.connect(PATH + '.take')\n\
             print('PermissionError' if not socket.recv_fds(meet, 1, 1)[1] else 'received')"
        } else {
            USE
        };
        let _giver = meeting.start(&bench, owner, GIVE)?;
        assert_eq!(meeting.run(&bench, user, take)?, "PermissionError", "{owner} to {user}");
        if lsm && !named {
            continue;
        }
        // Without an address in the call.
        let _giver = meeting.start(&bench, owner, connected)?;
        let silent = "sock = take(); attempt(lambda: sock.send(b'one'));\n\
                      attempt(lambda: sock.recv(9)); print(attempt(lambda: sock.recv(9)))";
        let said = meeting.run(&bench, user, silent)?;
        assert!(["TimeoutError", "PermissionError"].contains(&&*said), "{owner} to {user}: {said}");
    }
    bench.node()?.stats()?.balanced()
}

/// Serves at a port of the kernel's choice, which it prints.
const LISTEN: &str = "listener = socket.create_server(('127.0.0.1', 0))\n\
                      print(listener.getsockname()[1], flush=True)\n";

/// Calls there, and prints what comes.
fn caller(port: &str) -> String {
    format!(
        "sock = socket.create_connection(('127.0.0.1', {port}), timeout=3); print('called', flush=True)\n\
         sock.settimeout(3); print(attempt(lambda: sock.recv(1)), flush=True)\n\
         print(attempt(lambda: sock.recv(1)), flush=True)"
    )
}

/// One zone opens the port, another accepts: what it accepts is its own, also for the caller.
#[test]
fn what_is_accepted_has_its_acceptors_label() -> Result<()> {
    let bench = Bench::start("relabel-accept")?;
    let meeting = Meeting::new(&bench)?;
    for (zone, heard) in [(USER, "b'1'"), (SINGLE, "TimeoutError")] {
        let opener = meeting.start(&bench, FRONT, &format!("{LISTEN}give(listener).recv(9)"))?;
        let port = opener.wait_line(PATIENCE, |line| line.parse::<u16>().is_ok())?;
        let call = meeting.start(&bench, zone, &caller(&port))?;
        // It waits in the queue of a listener that is still front's.
        call.wait_line(PATIENCE, |line| line == "called")?;
        let accept = "listener = take(); one, _ = listener.accept()\n\
                      one.send(b'12'); print('sent', flush=True); one.settimeout(5); attempt(lambda: one.recv(1))";
        let acceptor = meeting.start(&bench, WORKER, accept)?;
        acceptor.wait_line(PATIENCE, |line| line == "sent")?;
        let said = call.wait(PATIENCE)?.stdout;
        assert!(said.contains(heard), "{zone}: {said}");
    }
    // And nobody accepts for a zone that no rule hands the listener to.
    let opener = meeting.start(&bench, WORKER, &format!("{LISTEN}give(listener).recv(9)"))?;
    let port = opener.wait_line(PATIENCE, |line| line.parse::<u16>().is_ok())?;
    let call = meeting.start(&bench, USER, &caller(&port))?;
    call.wait_line(PATIENCE, |line| line == "called")?;
    let accept = "def go():\n\
                  \x20   one, _ = take().accept(); one.send(b'12')\n\
                  try: attempt(go)\n\
                  except IndexError: pass";
    meeting.run(&bench, FRONT, accept)?;
    let said = call.wait(PATIENCE)?.stdout;
    assert!(!said.contains("b'2'"), "{said}");
    bench.node()?.stats()?.balanced()
}

/// A connection that was used by its owner goes on in other hands, with those that may talk to them.
#[test]
fn a_conversation_goes_along_as_far_as_the_rules_do() -> Result<()> {
    let bench = Bench::start("relabel-stream")?;
    let meeting = Meeting::new(&bench)?;
    for (zone, second) in [(USER, "b'2'"), (SINGLE, "TimeoutError")] {
        let serve =
            format!("{LISTEN}one, _ = listener.accept(); one.send(b'1'); give(one).recv(9)");
        let owner = meeting.start(&bench, FRONT, &serve)?;
        let port = owner.wait_line(PATIENCE, |line| line.parse::<u16>().is_ok())?;
        let call = meeting.start(&bench, zone, &caller(&port))?;
        call.wait_line(PATIENCE, |line| line == "b'1'")?;
        let other = "one = take(); one.send(b'2'); one.settimeout(5); attempt(lambda: one.recv(1))";
        let other = meeting.start(&bench, WORKER, other)?;
        let said = call.wait(PATIENCE)?.stdout;
        assert_eq!(said.lines().last(), Some(second), "{zone}: {said}");
        drop(other);
    }
    bench.node()?.stats()?.balanced()
}
