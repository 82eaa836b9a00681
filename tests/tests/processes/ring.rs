//! `io_uring`, sendfile and splice: whoever has the kernel move data through a socket, and in whichever
//! thread it does so, is judged as if he wrote it himself.

use anyhow::{Context, Result};
use sigil_harness::binary;

use crate::{Bench, PYTHON, USER, WORKER, text};

/// A process of `user` has a socket that is connected to `worker`, which `secure` may not talk to, and
/// executes `then`, in which `ENTER` is a program that leads to `secure`, or one that does not.
fn with_a_socket(bench: &Bench, into_secure: bool, then: &str) -> Result<String> {
    let directory = bench.programs.path().join("enter");
    let enter = if !into_secure {
        "/usr/bin/env".into()
    } else if directory.exists() {
        directory
    } else {
        let copy = bench.programs.copy(&std::fs::canonicalize("/usr/bin/env")?, "enter")?;
        bench.sign(&copy)?;
        copy
    };
    let (enter, traffic) = (text(&enter)?.to_owned(), binary("sigil-traffic")?);
    let traffic = traffic.to_str().context("a path")?;
    let words = then.replace("ENTER", &enter).replace("TRAFFIC", traffic);
    let program = format!(
        "import os, socket\n\
         sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.connect(('127.0.0.1', 8001))\n\
         os.dup2(sock.fileno(), 9); words = '{words}'.split()\n\
         os.execv(words[0], words)"
    );
    let output = bench.node()?.run_zone(USER, &[PYTHON, "-c", &program])?;
    anyhow::ensure!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(output.stdout.trim().to_owned())
}

fn bench(name: &str) -> Result<(Bench, sigil_harness::Process)> {
    let bench = Bench::start(name)?;
    let server = bench.node()?.serve(Some(WORKER), &["udp-echo", "8001"])?;
    Ok((bench, server))
}

/// Nothing came back, or the call failed: never an answer that the label's owner would have had twice.
const REFUSED: [&str; 3] = ["silence", "EPERM", "EACCES"];

/// The task itself, a worker thread of its, its ring's polling thread: all of them are its process.
#[test]
fn a_ring_of_ones_own_borrows_no_label() -> Result<()> {
    let (bench, _server) = bench("ring-own")?;
    for how in ["plain", "worker", "poller"] {
        let then = format!("ENTER TRAFFIC ring send {how} 9");
        assert_eq!(with_a_socket(&bench, false, &then)?, "echoed", "{how}: the socket's own zone");
    }
    let before = bench.node()?.stats()?.dropped("socket", "socket-label");
    for (at, how) in (1..).zip(["plain", "worker", "poller"]) {
        let then = format!("ENTER TRAFFIC ring send {how} 9");
        let said = with_a_socket(&bench, true, &then)?;
        // The first datagram may have left: it is answered before the kernel says that it was sent.
        assert!(REFUSED.contains(&&*said) || said == "echoed", "{how}: {said}");
        let dropped = bench.node()?.stats()?.dropped("socket", "socket-label");
        assert!(dropped >= before + at, "{how}: it was not refused");
    }
    bench.node()?.stats()?.balanced()
}

/// A request that was put into the ring before the exec, on a registered file, with registered data: whoever
/// submits it sends it.
#[test]
fn what_was_queued_before_an_exec_is_sent_by_who_submits_it() -> Result<()> {
    let (bench, _server) = bench("ring-queued")?;
    let then = "TRAFFIC ring queue 9 ENTER TRAFFIC ring submit";
    assert_eq!(with_a_socket(&bench, false, then)?, "echoed");
    assert_eq!(bench.node()?.stats()?.dropped("socket", "socket-label"), 0);
    let said = with_a_socket(&bench, true, then)?;
    assert!(REFUSED.contains(&&*said) || said == "echoed", "{said}");
    assert!(bench.node()?.stats()?.dropped("socket", "socket-label") >= 1);
    bench.node()?.stats()?.balanced()
}

/// A polling thread is one of the process that made the ring. What it sends, that process sends, whoever
/// else it lent its ring to; and no ring goes through a Unix socket.
#[test]
fn a_polling_thread_has_its_makers_label() -> Result<()> {
    let (bench, _server) = bench("ring-lent")?;
    let lend = "TRAFFIC ring lend 9 ENTER TRAFFIC ring wake";
    for into_secure in [false, true] {
        assert_eq!(with_a_socket(&bench, into_secure, lend)?, "woken, echoed");
    }
    assert_eq!(bench.node()?.stats()?.dropped("socket", "socket-label"), 0);
    assert_eq!(with_a_socket(&bench, false, "TRAFFIC ring pass")?, "EINVAL");
    bench.node()?.stats()?.balanced()
}
