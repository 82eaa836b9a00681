//! What programs at LSM hooks refuse: each attack fails with EPERM, before anything happens. Where the
//! kernel does not take such programs these tests cannot run: `scripts/test-kernels` runs them where it
//! does.

mod code;
mod disk;
mod verity;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sigil_binary::{How, PrivateKey, label};
use sigil_datapath::Backend;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, Process, Programs};
use sigil_tests::kernel::Kernel;

const POLICY: &str = include_str!("../processes/policy.xml");
const USER: u32 = 10;
const SECURE: u32 = 20;
const RIGID: u32 = 30;
const SINGLE: u32 = 40;
const STRICT: u32 = 50;
const FRONT: u32 = 60;
const WORKER: u32 = 70;

const PYTHON: &str = "/usr/bin/python3";

/// What only this backend can refuse, denied to zones that the other suite needs for other things.
const DENIED: &str = "
  <SOCKET_class_rule><sSnID> * </sSnID><sScID> user </sScID><deny> ACCEPT </deny></SOCKET_class_rule>
  <SOCKET_class_rule><sSnID> * </sSnID><sScID> single </sScID><deny> LISTEN </deny></SOCKET_class_rule>
  <signer>";

/// The key that the policy names: of RFC 8032, for each test's own.
const NOBODYS: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn prepared(policy: &str) -> Result<Cluster> {
    let policy = policy.replacen("<signer>", DENIED, 1);
    let mut cluster = Cluster::prepare("lsm", &Setting { suite: None, ..Setting::of(&policy) })?;
    // Or it does not start.
    cluster.member("one")?.config.backend = "lsm".into();
    Ok(cluster)
}

fn node() -> Result<Cluster> {
    let mut cluster = prepared(POLICY)?;
    cluster.member("one")?.start()?;
    Ok(cluster)
}

/// A node with a copy of a program that is signed for `secure`.
fn signed(program: &str) -> Result<(Cluster, Programs, PathBuf)> {
    let keys = tempfile::tempdir()?;
    let key = PrivateKey::generate(keys.path().join("key"))?;
    let hex = key.public().map(|byte| format!("{byte:02x}")).concat();
    let mut cluster = prepared(&POLICY.replace(NOBODYS, &hex))?;
    let programs = Programs::mount(cluster.node("one")?)?;
    let copy = programs.copy(&fs::canonicalize(Path::new(program))?, "signed")?;
    label(&copy, SECURE, 1, Some(&key), How::default())?;
    let member = cluster.member("one")?;
    member.config.guard_exec = vec![programs.path().into()];
    member.start()?;
    Ok((cluster, programs, copy))
}

/// Runs a python program in a zone, or in none, to its end: what it printed.
fn python(node: &Node, zone: Option<u32>, program: &str) -> Result<String> {
    let program = format!(
        "import os, socket, sys\n\
         def attempt(act):\n\
         \x20   try: act(); return 'ok'\n\
         \x20   except OSError as error: return type(error).__name__\n\
         {program}"
    );
    let argv = [PYTHON, "-c", &program];
    let output = zone.map_or_else(|| node.run(&argv), |zone| node.run_zone(zone, &argv))?;
    anyhow::ensure!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(output.stdout.trim().to_owned())
}

/// Instructions that the verifier may walk, of programs that it takes on such kernels alone.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn every_program_loads_within_its_budget() -> Result<()> {
    let budgets: toml::Table = toml::from_str(include_str!("../../budgets.toml"))?;
    let budgets: BTreeMap<String, u32> = budgets["lsm"].clone().try_into()?;
    let mut kernel = Kernel::with_backend(1, Backend::Lsm)?;
    kernel.programs.retain(|(program, _)| program.starts_with("lsm_"));
    let broken = kernel.over(budgets, &["lsm_ioctl32", "lsm_persona32"]);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_fork_that_no_rule_allows_fails() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let fork = "child = attempt(lambda: os.fork() or os._exit(0))\nprint(child)";
    assert_eq!(python(one, Some(SINGLE), fork)?, "PermissionError");
    assert_eq!(python(one, Some(USER), fork)?, "ok");
    assert_eq!(python(one, None, fork)?, "ok");
    let vfork = "print(attempt(lambda: os.posix_spawn('/bin/true', ['true'], {})))";
    assert_eq!(python(one, Some(SINGLE), vfork)?, "PermissionError");
    let threads = "import threading\nthreading.Thread(target=lambda: print('ran')).start()";
    assert_eq!(python(one, Some(SINGLE), threads)?, "ran", "threads are no children");
    assert_eq!(one.stats()?.dropped("process", "process-permission"), 2);
    one.stats()?.balanced()
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn an_exec_that_no_rule_allows_fails() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let mut watch = one.watch()?;
    // Nobody guards the file system of these programs: the gate is not asked.
    for (zone, reason) in [(RIGID, "process-permission"), (STRICT, "unsigned")] {
        let refused = one.run_zone(zone, &["/bin/echo", "ran"])?;
        assert_eq!((refused.code, refused.stdout.as_str()), (126, ""), "{refused:?}");
        let event = watch.next(PATIENCE, |event| event.reason == reason)?;
        assert_eq!((event.source.scid, event.hook.as_str()), (zone, "process"));
    }
    one.stats()?.balanced()
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn status_says_that_it_refuses() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    assert_eq!(one.status()?["backend"], "lsm");
    let table = one.ctl(&["status"])?.stdout;
    assert!(table.contains("refused before it happens"), "{table}");
    Ok(())
}

/// A python program that enters a zone by itself, without an exec.
fn entering(node: &Node, zone: u32, program: &str) -> String {
    let socket = node.socket();
    format!(
        "agent = socket.socket(socket.AF_UNIX); agent.connect('{}')\n\
         agent.sendall(b'{{\"version\":1,\"request\":\"run\",\"zone\":{zone}}}\\n'); said = agent.recv(999)\n\
         assert b'labelled' in said, said\n\
         {program}",
        socket.display()
    )
}

/// The refused process goes on as it was.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_process_survives_its_refused_exec() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let execute = "print(attempt(lambda: os.execv('/bin/echo', ['echo', 'ran'])), 'goes on')";
    assert_eq!(python(one, Some(USER), execute)?, "ran");
    assert_eq!(python(one, None, &entering(one, RIGID, execute))?, "PermissionError goes on");
    Ok(())
}

/// A process of a zone that waits for its end, with a file of its own to be told by.
fn sleeper(node: &Node, zone: Option<u32>) -> Result<Process> {
    let wait = "import time; print('ready', flush=True); time.sleep(99)";
    let argv = [PYTHON, "-c", wait];
    let process = zone.map_or_else(|| node.spawn(&argv), |zone| node.spawn_zone(zone, &argv))?;
    process.wait_line(PATIENCE, |line| line == "ready")?;
    Ok(process)
}

/// Root in a zone has every capability that the kernel asks for, and no rule.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn nobody_controls_a_process_outside_its_zone() -> Result<()> {
    let mut cluster = node()?;
    let agent = cluster.member("one")?.agent()?.pid();
    let one = cluster.node("one")?;
    let same = sleeper(one, Some(USER))?;
    let other = sleeper(one, Some(SINGLE))?;
    let host = sleeper(one, None)?;
    let control = |pid: u32| {
        format!(
            "import ctypes\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             def ptrace(request):\n\
             \x20   if libc.ptrace(request, {pid}, 0, 0): raise OSError(ctypes.get_errno(), '')\n\
             print(attempt(lambda: (ptrace(16), os.waitpid({pid}, 0), ptrace(17))),\n\
             \x20   attempt(lambda: open('/proc/{pid}/mem', 'r+b').close()),\n\
             \x20   attempt(lambda: open('/proc/{pid}/environ').read()),\n\
             \x20   attempt(lambda: os.kill({pid}, 18)))"
        )
    };
    let all = |outcome: &str| [outcome; 4].join(" ");
    assert_eq!(python(one, Some(USER), &control(same.pid()))?, all("ok"), "its own zone");
    for process in [&other, &host] {
        assert_eq!(python(one, Some(USER), &control(process.pid()))?, all("PermissionError"));
    }
    assert_eq!(python(one, None, &control(other.pid()))?, all("ok"), "the operator");
    // Another user of the host, with the same user id as a process of the zone.
    let drop = "os.setresuid(1000, 1000, 1000)\nimport ctypes; ctypes.CDLL(None).prctl(4, 1)\n";
    let wait = "import time; print('ready', flush=True); time.sleep(99)";
    let argv = [PYTHON, "-c", &format!("import os\n{drop}{wait}")];
    let refused = "PermissionError PermissionError PermissionError ok";
    for (target, outcome) in [
        (one.spawn(&argv)?, all("ok")),
        // Signals the user may send.
        (one.spawn_zone(SINGLE, &argv)?, refused.to_owned()),
    ] {
        target.wait_line(PATIENCE, |line| line == "ready")?;
        assert_eq!(python(one, None, &format!("{drop}{}", control(target.pid())))?, outcome);
    }
    assert_eq!(python(one, Some(USER), &control(agent))?, all("PermissionError"), "the agent");
    assert!(one.stats()?.dropped("process", "confined") >= 12);
    one.stats()?.balanced()
}

/// In python: `ioctl` as 32-bit programs call it (`mov eax, 54; int 0x80`, all below 4 GiB), with a number
/// for its argument.
const IOCTL32: &str = "import ctypes, mmap, struct\n\
    page = mmap.mmap(-1, 4096, flags=0x62, prot=7)\n\
    at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n\
    code = bytes.fromhex('53b83600000089fb89f1cd805bc3')\n\
    page[:len(code)] = code\n\
    enter = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_long)(at)\n\
    def ioctl32(file, command, number):\n\
    \x20   page[64:68] = struct.pack('i', number)\n\
    \x20   error = -enter(file.fileno(), command, at + 64)\n\
    \x20   if error: raise OSError(error, '')\n";

/// What ends or stops a process as well as a signal does, and is none.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn nobody_limits_a_process_outside_its_zone() -> Result<()> {
    let mut cluster = node()?;
    let agent = cluster.member("one")?.agent()?.pid();
    let one = cluster.node("one")?;
    let same = sleeper(one, Some(USER))?;
    let other = sleeper(one, Some(SINGLE))?;
    let limit = |pid: u32| {
        format!(
            "import fcntl, resource, struct\n\
             {IOCTL32}\
             pair, _ = socket.socketpair()\n\
             print(attempt(lambda: resource.prlimit({pid}, resource.RLIMIT_CPU, (9999, 9999))),\n\
             \x20   attempt(lambda: os.sched_setaffinity({pid}, os.sched_getaffinity(0))),\n\
             \x20   attempt(lambda: os.setpriority(os.PRIO_PROCESS, {pid}, 0)),\n\
             \x20   attempt(lambda: fcntl.fcntl(pair, fcntl.F_SETOWN, {pid})),\n\
             \x20   attempt(lambda: fcntl.fcntl(pair, 15, struct.pack('ii', 1, {pid}))),\n\
             \x20   attempt(lambda: fcntl.ioctl(pair, 0x8901, struct.pack('i', {pid}))),\n\
             \x20   attempt(lambda: ioctl32(pair, 0x8901, {pid})))"
        )
    };
    // Whom the last three name, the kernel reads when nobody can look any more.
    let own = "ok ok ok ok PermissionError PermissionError PermissionError";
    assert_eq!(python(one, Some(USER), &limit(same.pid()))?, own, "its own zone");
    for pid in [other.pid(), agent] {
        assert_eq!(python(one, Some(USER), &limit(pid))?, ["PermissionError"; 7].join(" "));
    }
    assert_eq!(python(one, None, &limit(other.pid()))?, ["ok"; 7].join(" "), "the operator");
    let itself = "import fcntl; pair, _ = socket.socketpair()\n\
                  print(attempt(lambda: fcntl.fcntl(pair, fcntl.F_SETOWN, os.getpid())))";
    assert_eq!(python(one, Some(USER), itself)?, "ok");
    // In a namespace of process ids where the same numbers are others'.
    let within = "import ctypes, fcntl; pair, _ = socket.socketpair()\n\
                  ctypes.CDLL(None).unshare(0x20000000)\n\
                  child = os.fork()\n\
                  if child: os.waitpid(child, 0); os._exit(0)\n\
                  own = int(os.readlink('/proc/self'))\n\
                  assert own != os.getpid()\n\
                  print(attempt(lambda: fcntl.fcntl(pair, fcntl.F_SETOWN, own)), flush=True)";
    assert_eq!(python(one, Some(USER), within)?, "PermissionError");
    assert_eq!(python(one, None, within)?, "ProcessLookupError", "the operator");
    one.stats()?.balanced()
}

/// A tracer's child would take it along into a zone.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_traced_process_enters_no_zone() -> Result<()> {
    let (cluster, _programs, signed) = signed("/bin/sh")?;
    let one = cluster.node("one")?;
    let traced = |traced: bool| {
        format!(
            "import ctypes\n\
             libc = ctypes.CDLL(None)\n\
             child = os.fork()\n\
             if child == 0:\n\
             \x20   if {traced}: libc.ptrace(0, 0, 0, 0)\n\
             \x20   print(attempt(lambda: os.execv('{0}', ['{0}', '-c', 'echo entered'])), flush=True)\n\
             \x20   os._exit(0)\n\
             while True:\n\
             \x20   _, status = os.waitpid(child, 0)\n\
             \x20   if not os.WIFSTOPPED(status): break\n\
             \x20   libc.ptrace(7, child, 0, 0)",
            signed.display(),
            traced = if traced { "True" } else { "False" },
        )
    };
    assert_eq!(python(one, Some(USER), &traced(false))?, "entered");
    assert_eq!(python(one, Some(USER), &traced(true))?, "PermissionError");
    Ok(())
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_socket_is_not_received_by_another_zone() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let path = |name: &str| one.directory().join(name).display().to_string();
    for (at, (zone, outcome)) in
        [(Some(USER), "1"), (Some(SINGLE), "0"), (None, "1")].into_iter().enumerate()
    {
        // The two meet at a socket of the host's; what goes through it is another matter.
        let (meet, gift) = (path(&format!("meet-{at}")), "socket.socket(socket.AF_INET)");
        let giver = format!(
            "import socket, array\n\
             meet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); own = {gift}\n\
             print('ready', flush=True)\n\
             import time\n\
             while True:\n\
             \x20   try: meet.connect('{meet}'); break\n\
             \x20   except OSError: time.sleep(0.05)\n\
             meet.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [own.fileno()]))])\n\
             time.sleep(99)"
        );
        let _giver = one.spawn_zone(USER, &[PYTHON, "-c", &giver])?;
        let taker = format!(
            "meet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); meet.bind('{meet}')\n\
             _, passed, _, _ = meet.recvmsg(1, 64)\n\
             print(len(passed))"
        );
        // A socket made before the zone was entered is the host's.
        let said = match zone {
            Some(zone) => {
                let (make, take) = taker.split_once('\n').unwrap_or_default();
                python(one, None, &format!("{make}\n{}", entering(one, zone, take)))?
            }
            None => python(one, None, &taker)?,
        };
        assert_eq!(said, outcome, "{zone:?}");
    }
    assert_eq!(one.stats()?.dropped("socket", "socket-label"), 1);
    one.stats()?.balanced()
}

/// Descriptors that come over an exec, not by a message: refused before the first byte.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_strangers_first_write_is_refused() -> Result<()> {
    let (cluster, _programs, program) = signed("/usr/bin/env")?;
    let one = cluster.node("one")?;
    let inner = "import os, socket; sock = socket.socket(fileno=9); pipe = os.pipe(); sock.settimeout(1)\n\
                 def attempt(act):\n\
                 \x20   try: act(); return 'ok'\n\
                 \x20   except OSError as error: return type(error).__name__\n\
                 print(attempt(lambda: sock.send(b'a')), attempt(lambda: os.write(9, b'b')),\n\
                 \x20   attempt(lambda: os.sendfile(9, os.open('/etc/passwd', 0), 0, 5)),\n\
                 \x20   attempt(lambda: (os.write(pipe[1], b'c'), os.splice(pipe[0], 9, 1))),\n\
                 \x20   attempt(lambda: os.read(9, 1)))";
    let outer = |program: &str| {
        format!(
            "sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(('127.0.0.1', 0))\n\
             sink.set_inheritable(True); sock.connect(sink.getsockname()); os.dup2(sock.fileno(), 9)\n\
             os.execv('{program}', ['{program}', '{PYTHON}', '-c', \"\"\"{inner}\"\"\"])"
        )
    };
    let into = |program: &str| python(one, Some(USER), &outer(program));
    let stranger = into(program.to_str().context("a path")?)?;
    assert_eq!(stranger, ["PermissionError"; 5].join(" "));
    assert_eq!(into("/usr/bin/env")?, "ok ok ok ok BlockingIOError", "the same zone");
    assert_eq!(one.stats()?.dropped("socket", "socket-label"), 5);
    Ok(())
}

/// One zone opens a port and hands it to another one, a third calls there: what the caller gets.
fn handed_over(node: &Node, from: u32, to: u32, caller: u32) -> Result<String> {
    let agent = node.socket().display().to_string();
    let program = format!(
        "give, take = socket.socketpair(); ports = os.pipe()\n\
         def enter(zone):\n\
         \x20   agent = socket.socket(socket.AF_UNIX); agent.connect('{agent}')\n\
         \x20   agent.sendall(b'{{\"version\":1,\"request\":\"run\",\"zone\":%d}}\\n' % zone)\n\
         \x20   said = agent.recv(999); assert b'labelled' in said, said\n\
         def child(zone, act):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid: return pid\n\
         \x20   try: enter(zone); act()\n\
         \x20   finally: os._exit(0)\n\
         def opener():\n\
         \x20   listener = socket.create_server(('127.0.0.1', 0))\n\
         \x20   socket.send_fds(give, [b'x'], [listener.fileno()])\n\
         \x20   os.write(ports[1], b'%d' % listener.getsockname()[1]); give.recv(1)\n\
         def acceptor():\n\
         \x20   _, fds, _, _ = socket.recv_fds(take, 1, 1)\n\
         \x20   if not fds: print('not received', flush=True); return\n\
         \x20   one, _ = socket.socket(fileno=fds[0]).accept()\n\
         \x20   one.send(b'hello'); one.recv(1)\n\
         def call():\n\
         \x20   port = int(os.read(ports[0], 9))\n\
         \x20   try:\n\
         \x20       one = socket.create_connection(('127.0.0.1', port), timeout=8)\n\
         \x20       print(one.recv(5).decode(), flush=True)\n\
         \x20   except OSError as error: print(type(error).__name__, flush=True)\n\
         others = child({from}, opener), child({to}, acceptor)\n\
         os.waitpid(child({caller}, call), 0)\n\
         for pid in others: os.kill(pid, 9)"
    );
    python(node, None, &program)
}

/// What is accepted has its acceptor's label from the start, and so has the listener. A zone that no rule
/// names does not even get it.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn an_accepted_socket_has_its_acceptors_label() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    // `single` may talk with front and not with worker.
    assert_eq!(handed_over(one, FRONT, WORKER, USER)?, "hello");
    assert_eq!(handed_over(one, FRONT, WORKER, SINGLE)?, "TimeoutError");
    let said = handed_over(one, WORKER, FRONT, USER)?;
    assert!(said.contains("not received") && !said.contains("hello"), "{said}");
    one.stats()?.balanced()
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_zone_needs_permission_to_listen_and_to_accept() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let program = "s = socket.socket(); s.bind(('127.0.0.1', 0))\n\
                   print(attempt(lambda: s.listen(1)))\n\
                   s.setblocking(False); print(attempt(s.accept))";
    for (zone, said) in [
        (None, "ok\nBlockingIOError"),
        (Some(SECURE), "ok\nBlockingIOError"),
        (Some(USER), "ok\nPermissionError"),
        (Some(SINGLE), "PermissionError\nOSError"),
    ] {
        assert_eq!(python(one, zone, program)?, said, "{zone:?}");
    }
    Ok(())
}

/// As on loopback: `secure` may talk to itself, `user` to nobody. What the host offers is for all.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn unix_sockets_are_judged_between_zones() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let serve = |zone: Option<u32>, name: &str| -> Result<(Process, String)> {
        let path = one.directory().join(name).display().to_string();
        let program = format!(
            "import socket, time\n\
             s = socket.socket(socket.AF_UNIX); s.bind('{path}'); s.listen(9)\n\
             d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('{path}.d')\n\
             print('ready', flush=True); time.sleep(99)"
        );
        let argv = [PYTHON, "-c", &program];
        let process = zone.map_or_else(|| one.spawn(&argv), |zone| one.spawn_zone(zone, &argv))?;
        process.wait_line(PATIENCE, |line| line == "ready")?;
        Ok((process, path))
    };
    let servers = [serve(Some(SECURE), "zone")?, serve(None, "host")?];
    let [zone, host] = servers.each_ref().map(|(_, path)| {
        format!(
            "print(attempt(lambda: socket.socket(socket.AF_UNIX).connect('{path}')),\n\
             \x20   attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '{path}.d')))"
        )
    });
    let refused = "PermissionError PermissionError";
    for (from, to_zone) in [(None, "ok ok"), (Some(SECURE), "ok ok"), (Some(USER), refused)] {
        assert_eq!(python(one, from, &zone)?, to_zone, "{from:?}");
        assert_eq!(python(one, from, &host)?, "ok ok", "{from:?}");
    }
    one.stats()?.balanced()
}

/// Root of a zone, with all capabilities.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn what_keeps_the_rules_is_out_of_a_zones_reach() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let bpffs = one.bpffs().display().to_string();
    let link = format!("{bpffs}/sigil/links/task_fork");
    let program = format!(
        "import ctypes\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         def call(*args):\n\
         \x20   if libc.syscall(*args) < 0: raise OSError(ctypes.get_errno(), '')\n\
         attr = ctypes.create_string_buffer(128)\n\
         print(attempt(lambda: socket.socket(17, 3, 0)),\n\
         \x20   attempt(lambda: call(321, 11, attr, 128)),\n\
         \x20   attempt(lambda: open('/sys/kernel/tracing/trace').close()),\n\
         \x20   attempt(lambda: os.unlink('{link}-none')),\n\
         \x20   attempt(lambda: os.unlink('{link}')),\n\
         \x20   attempt(lambda: os.rename('{link}', '{link}-away')),\n\
         \x20   attempt(lambda: call(166, b'{bpffs}', 0)))"
    );
    let said = python(one, Some(USER), &program)?;
    let no = "PermissionError";
    assert_eq!(said, [no, no, no, "FileNotFoundError", no, no, no].join(" "));
    assert!(std::path::Path::new(&link).exists());
    let harmless = program.lines().take(7).collect::<Vec<_>>().join("\n") + " 0)";
    let host = python(one, None, &harmless)?;
    assert_eq!(host, "ok ok 0", "the host");
    Ok(())
}
