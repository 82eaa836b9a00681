//! `io_uring`: what a process has the kernel do for it, on a connected socket that it has as a descriptor.
//!
//! The program `sigil-traffic ring …` does one thing and says what became of it, so that it can be put
//! into a security zone, or started by a process of another one.
#![expect(
    unsafe_code,
    reason = "rings are shared memory; descriptors come from whoever started this"
)]

use anyhow::{Context, Result, bail};
use io_uring::{IoUring, opcode, squeue, types};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt,
    socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is sent, in memory that stays where it is.
static HELLO: [u8; 5] = *b"hello";
/// How long an echo may take.
const ANSWER: TimeVal = TimeVal::new(1, 0);
/// Milliseconds after which a polling thread goes to sleep.
const IDLE: u32 = 1;

/// What the program does, by its arguments.
///
/// - `send plain|worker|poller FD`: sends by a ring of its own, in its own task, a worker thread, or the
///   ring's polling thread.
/// - `queue FD PROGRAM…`: puts a request into a ring that outlives exec, with file and data registered,
///   and executes PROGRAM with the descriptors of ring and socket added.
/// - `submit RING FD`: has the kernel take what was queued there.
/// - `lend FD PROGRAM…`: queues it with a polling thread that sleeps, and runs PROGRAM beside it.
/// - `wake RING FD`: wakes the polling thread.
/// - `pass`: sends a ring through a Unix socket.
///
/// Prints `echoed`, `silence`, `passed` or the name of an errno.
///
/// # Errors
///
/// Wrong usage, or no ring.
pub fn ring(arguments: &[&str]) -> Result<String> {
    match *arguments {
        ["send", how, fd] => send(how, fd.parse()?),
        ["queue", fd, program, ref rest @ ..] => {
            let ring = IoUring::new(8).context("a ring")?;
            queue(ring, fd.parse()?, |ring| {
                let mut command = Command::new(program);
                let error = command.args(rest).args([ring, fd]).exec();
                Err(error).context(program.to_owned())
            })
        }
        ["submit", ring, fd] => {
            let submitted = enter(ring.parse()?, 1, 0);
            if submitted != Ok(1) {
                return Ok(format!("{submitted:?}"));
            }
            echo(fd.parse()?)
        }
        ["lend", fd, program, ref rest @ ..] => {
            let ring = IoUring::builder().setup_sqpoll(IDLE).build(8).context("a ring")?;
            let asleep = Instant::now() + Duration::from_secs(5);
            let mut ring = ring;
            while !ring.submission().need_wakeup() {
                if Instant::now() > asleep {
                    bail!("the polling thread does not sleep");
                }
            }
            queue(ring, fd.parse()?, |ring| {
                let mut command = Command::new(program);
                let output = command.args(rest).args([ring, fd]).output()?;
                let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Ok(format!("{said}, {}", echo(fd.parse()?)?))
            })
        }
        ["wake", ring, _fd] => {
            const WAKEUP: u32 = 2;
            Ok(enter(ring.parse()?, 0, WAKEUP).map_or_else(name, |_| "woken".to_owned()))
        }
        ["pass"] => pass(),
        _ => bail!("usage: see the source of `ring`"),
    }
}

fn name(errno: Errno) -> String {
    format!("{errno:?}")
}

fn send(how: &str, fd: RawFd) -> Result<String> {
    let mut ring = match how {
        "poller" => IoUring::builder().setup_sqpoll(IDLE).build(8),
        _ => IoUring::new(8),
    }
    .context("a ring")?;
    let request = opcode::Send::new(types::Fd(fd), HELLO.as_ptr(), 5).build();
    let request = match how {
        "worker" => request.flags(squeue::Flags::ASYNC),
        "plain" | "poller" => request,
        _ => bail!("plain, worker or poller"),
    };
    // SAFETY: what it points to stays.
    unsafe { ring.submission().push(&request) }?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().context("no completion")?.result();
    if done < 0 { Ok(name(Errno::from_raw(-done))) } else { echo(fd) }
}

/// Registers socket and data, queues a write, and goes on with the ring open for others.
fn queue(
    mut ring: IoUring,
    fd: RawFd,
    then: impl FnOnce(&str) -> Result<String>,
) -> Result<String> {
    ring.submitter().register_files(&[fd])?;
    // Registered memory must be writable.
    let hello = Box::leak(Box::new(HELLO));
    let data = libc::iovec { iov_base: hello.as_mut_ptr().cast(), iov_len: hello.len() };
    // SAFETY: the data stays.
    unsafe { ring.submitter().register_buffers(&[data]) }?;
    let request = opcode::WriteFixed::new(types::Fixed(0), hello.as_ptr(), 5, 0).build();
    // SAFETY: as above.
    unsafe { ring.submission().push(&request) }?;
    // SAFETY: the ring is open until the end of this function.
    let open = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    fcntl(open, FcntlArg::F_SETFD(FdFlag::empty()))?;
    then(&ring.as_raw_fd().to_string())
}

fn enter(ring: RawFd, submit: u32, flags: u32) -> Result<i64, Errno> {
    const NOTHING: usize = 0;
    // SAFETY: no pointer is passed.
    Errno::result(unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring, submit, 0, flags, NOTHING, NOTHING)
    })
}

fn echo(fd: RawFd) -> Result<String> {
    // SAFETY: whoever started this says that it is open.
    setsockopt(&unsafe { BorrowedFd::borrow_raw(fd) }, sockopt::ReceiveTimeout, &ANSWER)?;
    let mut answer = [0; 5];
    Ok(match recv(fd, &mut answer, MsgFlags::empty()) {
        Ok(5) if answer == HELLO => "echoed".to_owned(),
        Ok(length) => format!("{length} bytes"),
        Err(Errno::EAGAIN) => "silence".to_owned(),
        Err(errno) => name(errno),
    })
}

fn pass() -> Result<String> {
    let ring = IoUring::new(8).context("a ring")?;
    let (one, _other) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty())?;
    let fds = [ring.as_raw_fd()];
    let with = [ControlMessage::ScmRights(&fds)];
    let sent =
        sendmsg::<()>(one.as_raw_fd(), &[IoSlice::new(b"x")], &with, MsgFlags::empty(), None);
    Ok(sent.map_or_else(name, |_| "passed".to_owned()))
}
