//! Handing descriptors from zone to zone.

use anyhow::Result;
use sigil_harness::{PATIENCE, Process};

use crate::{Bench, PYTHON, text};

/// How two processes meet: in a directory that both see, by a socket that is the host's.
pub(crate) struct Meeting {
    /// Somebody without a zone, who hands on what he is given.
    _broker: Process,
    path: String,
}

/// Passes descriptors between zones: Unix sockets of the host are open to all of them.
const BROKER: &str = "
import socket
front = socket.socket(socket.AF_UNIX); front.bind(PATH + '.give'); front.listen(1)
back = socket.socket(socket.AF_UNIX); back.bind(PATH + '.take'); back.listen(1)
print('ready', flush=True)
while True:
    giver, _ = front.accept()
    _, fds, _, _ = socket.recv_fds(giver, 1, 1)
    taker, _ = back.accept()
    socket.send_fds(taker, [b'x'], fds)
    taker.recv(1); giver.send(b'done')
";

/// What givers and takers know.
const PRELUDE: &str = "
import os, socket
def attempt(act):
    try: return str(act())
    except OSError as error: return type(error).__name__
def give(sock):
    meet = socket.socket(socket.AF_UNIX); meet.connect(PATH + '.give')
    socket.send_fds(meet, [b'x'], [sock.fileno()])
    return meet
def take():
    global meet
    meet = socket.socket(socket.AF_UNIX); meet.connect(PATH + '.take')
    _, fds, _, _ = socket.recv_fds(meet, 1, 1)
    sock = socket.socket(fileno=fds[0]); sock.settimeout(1)
    return sock
def echoed(sock):
    return attempt(lambda: (sock.sendto(b'hello', ('127.0.0.1', 8000)), sock.recv(9))[1])
";

impl Meeting {
    pub(crate) fn new(bench: &Bench) -> Result<Self> {
        let path = text(&bench.node()?.directory().join("meet"))?.to_owned();
        let program = format!("PATH = '{path}'\n{BROKER}");
        let broker = bench.node()?.spawn(&[PYTHON, "-c", &program])?;
        broker.wait_line(PATIENCE, |line| line == "ready")?;
        Ok(Self { _broker: broker, path })
    }

    fn program(&self, program: &str) -> String {
        format!("PATH = '{}'\n{PRELUDE}\n{program}", self.path)
    }

    /// Starts a python program in a zone.
    pub(crate) fn start(&self, bench: &Bench, zone: u32, program: &str) -> Result<Process> {
        bench.node()?.spawn_zone(zone, &[PYTHON, "-c", &self.program(program)])
    }

    /// Runs one to its end; what it printed.
    pub(crate) fn run(&self, bench: &Bench, zone: u32, program: &str) -> Result<String> {
        bench.python(zone, &self.program(program))
    }
}
