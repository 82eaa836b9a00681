//! Sockets follow processes.

use anyhow::Result;
use sigil_harness::{PATIENCE, Process, until};

use crate::{Bench, PYTHON, SECURE, USER, text};

/// Passes a socket to whoever connects to a path, and says so.
fn giver(path: &str, make: &str) -> String {
    format!(
        "import array, os, socket\n\
         own = {make}\n\
         meet = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)\n\
         meet.bind('{path}'); meet.listen(1); print('ready', flush=True)\n\
         to, _ = meet.accept()\n\
         to.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [own.fileno()]))])\n\
         to.recv(1)\n"
    )
}

/// Takes the socket and uses it.
fn taker(path: &str, with: &str) -> String {
    format!(
        "import array, os, socket, struct\n\
         meet = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); meet.connect('{path}')\n\
         _, with_it, _, _ = meet.recvmsg(1, 64)\n\
         fd = struct.unpack('i', with_it[0][2])[0]\n\
         sock = socket.socket(fileno=fd)\n\
         sock.settimeout(1)\n\
         def attempt(act):\n\
         \x20   try: return str(act())\n\
         \x20   except OSError as error: return type(error).__name__\n\
         {with}\n"
    )
}

fn server(bench: &Bench) -> Result<Process> {
    bench.node()?.serve(Some(SECURE), &["udp-echo", "8000"])
}

const DATAGRAMS: &str = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)";

/// With LSM programs the two do not even meet: see `lsm`.
#[test]
fn a_socket_that_was_passed_on_serves_its_own_zone_only() -> Result<()> {
    let bench = Bench::without_lsm("sockets-passed")?;
    let _server = server(&bench)?;
    for (at, (zone, outcome)) in
        [(SECURE, "b'hello'"), (USER, "PermissionError")].into_iter().enumerate()
    {
        let path = bench.node()?.directory().join(format!("meet-{at}"));
        let give = giver(text(&path)?, DATAGRAMS);
        let giver = bench.node()?.spawn_zone(SECURE, &[PYTHON, "-c", &give])?;
        giver.wait_line(PATIENCE, |line| line == "ready")?;
        let with =
            "print(attempt(lambda: (sock.sendto(b'hello', ('127.0.0.1', 8000)), sock.recv(9))[1]))";
        let said = bench.python(zone, &taker(text(&path)?, with))?;
        assert_eq!(said, outcome, "{zone}");
    }
    assert!(bench.node()?.stats()?.dropped("socket", "socket-label") >= 1);
    bench.node()?.stats()?.balanced()
}

/// Connected sockets name no address in their calls: after the first use by a stranger they are dead.
#[test]
fn a_connected_socket_dies_in_a_strangers_hands() -> Result<()> {
    let bench = Bench::without_lsm("sockets-connected")?;
    let _server = server(&bench)?;
    let path = bench.node()?.directory().join("meet");
    let make = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM); own.connect(('127.0.0.1', 8000))";
    let giver = bench.node()?.spawn_zone(SECURE, &[PYTHON, "-c", &giver(text(&path)?, make)])?;
    giver.wait_line(PATIENCE, |line| line == "ready")?;
    let with = "first = attempt(lambda: sock.send(b'one'))\n\
                os.write(fd, b'two')\n\
                print(attempt(lambda: sock.recv(9)), attempt(lambda: sock.recv(9)))";
    let said = bench.python(USER, &taker(text(&path)?, with))?;
    // An answer to the first may be faster than the kernel's word that it was sent.
    let silent = ["TimeoutError TimeoutError", "b'one' TimeoutError"];
    assert!(silent.contains(&said.as_str()), "{said}");
    assert!(bench.node()?.stats()?.dropped("socket", "socket-label") >= 1);
    bench.node()?.stats()?.balanced()
}

/// Every way to write to a stream without naming an address, where LSM programs do not keep the two apart.
#[test]
fn no_way_to_write_gets_round_it() -> Result<()> {
    let bench = Bench::without_lsm("sockets-ways")?;
    let _server = bench.node()?.serve(Some(SECURE), &["tcp-echo", "9000"])?;
    let ways = [
        "sock.send(b'hello')",
        "os.write(fd, b'hello')",
        "os.sendfile(fd, os.open('/etc/passwd', os.O_RDONLY), 0, 5)",
        "(os.write(pipe[1], b'hello'), os.splice(pipe[0], fd, 5))",
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let path = bench.node()?.directory().join(format!("way-{at}"));
        let make = "socket.create_connection(('127.0.0.1', 9000))";
        let giver =
            bench.node()?.spawn_zone(SECURE, &[PYTHON, "-c", &giver(text(&path)?, make)])?;
        giver.wait_line(PATIENCE, |line| line == "ready")?;
        let with = format!(
            "pipe = os.pipe()\nattempt(lambda: {way})\nprint(attempt(lambda: sock.recv(5)))"
        );
        let said = bench.python(USER, &taker(text(&path)?, &with))?;
        assert_eq!(said, "TimeoutError", "{way}: something came back");
    }
    Ok(())
}

/// Every way to read from a stream, also without receiving a message. What was there at the first read may be
/// had; nothing comes after it.
#[test]
fn no_way_to_read_gets_round_it() -> Result<()> {
    let bench = Bench::without_lsm("sockets-reads")?;
    let _server = bench.node()?.serve(Some(SECURE), &["tcp-echo", "9000"])?;
    let ways = [
        "len(sock.recv(4))",
        "os.readv(fd, [bytearray(4)])",
        "len(os.read(pipe[0], os.splice(fd, pipe[1], 4)))",
        // What is less than a page is copied.
        "zerocopy()",
    ];
    // Four bytes come back every 20 ms. A stranger may be noticed at a splice that finds nothing yet.
    let give = "own = socket.create_connection(('127.0.0.1', 9000))";
    let write = "for _ in range(200):\n\
                 \x20   own.send(b'four'); time.sleep(0.02)\n";
    let read = "import ctypes, time\n\
                libc = ctypes.CDLL(None); pipe = os.pipe()\n\
                def zerocopy():\n\
                \x20   held = ctypes.create_string_buffer(4096)\n\
                \x20   word = ctypes.create_string_buffer(struct.pack('QIIiiQiIQQII', 0, 0, 0, 0, 0, ctypes.addressof(held), 4096, 0, 0, 0, 0, 0), 64)\n\
                \x20   if libc.getsockopt(fd, socket.IPPROTO_TCP, 35, word, ctypes.byref(ctypes.c_uint(64))): return 0\n\
                \x20   return struct.unpack('QIIiiQiIQQII', word.raw)[6] % 4096\n\
                sock.setblocking(False)\n\
                def read():\n\
                \x20   try: return WAY\n\
                \x20   except OSError: return 0\n\
                while not read(): time.sleep(0.02)\n\
                for _ in range(1000):\n\
                \x20   if not read(): break\n\
                late = 0\n\
                for _ in range(20):\n\
                \x20   time.sleep(0.02); late += read()\n\
                print(late)";
    for (at, way) in ways.into_iter().enumerate() {
        for zone in [SECURE, USER] {
            let path = bench.node()?.directory().join(format!("read-{at}-{zone}"));
            let giver = giver(text(&path)?, give).replace("own = own", "import time\nown");
            let giver = giver.replace("to.recv(1)\n", write);
            let giver = bench.node()?.spawn_zone(SECURE, &[PYTHON, "-c", &giver])?;
            giver.wait_line(PATIENCE, |line| line == "ready")?;
            let said = bench.python(zone, &taker(text(&path)?, &read.replace("WAY", way)))?;
            let late: u32 = said.parse()?;
            assert_eq!(late > 8, zone == SECURE, "{way} in zone {zone}: {late} bytes came later");
        }
    }
    Ok(())
}

#[test]
fn a_socket_does_not_follow_its_process_into_another_zone() -> Result<()> {
    let bench = Bench::start("sockets-exec")?;
    let _server = server(&bench)?;
    let program = bench.programs.copy(&std::fs::canonicalize("/usr/bin/env")?, "enter")?;
    bench.sign(&program)?;
    // A socket of `user`, which no rule lets send to `secure`, is inherited by a process of `secure`.
    let inner = "import os, socket; sock = socket.socket(fileno=9)\n\
                 try: sock.sendto(b'hello', ('127.0.0.1', 8000)); print('sent')\n\
                 except PermissionError: print('refused')";
    let outer = format!(
        "import os, socket\n\
         sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         os.dup2(sock.fileno(), 9)\n\
         os.execv('{0}', ['{0}', '{PYTHON}', '-c', '''{inner}'''])\n",
        program.display()
    );
    assert_eq!(bench.python(USER, &outer)?, "refused");
    let refused =
        || Ok((bench.node()?.stats()?.dropped("socket", "socket-label") == 1).then_some(()));
    until("count of the refused use", PATIENCE, refused)
}
