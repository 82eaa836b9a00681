//! Ways to run code that nobody signed, each tried once by a process that says what became of it, so that it
//! can be put into a security zone.
#![expect(unsafe_code, reason = "memory is mapped and protected in ways that nobody else wants")]

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::ffi::{CString, c_int, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::ptr;

const PAGE: usize = 4096;
const READ: c_int = libc::PROT_READ;
const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
const READ_EXEC: c_int = libc::PROT_READ | libc::PROT_EXEC;
const ALL: c_int = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
const PRIVATE: c_int = libc::MAP_PRIVATE;
const ANONYMOUS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// `READ_IMPLIES_EXEC` of `personality(2)`.
const READ_IMPLIES_EXEC: libc::c_ulong = 0x0040_0000;

/// Tries all of them with a signed library and one that is not; one line each, `NAME OUTCOME`.
///
/// # Errors
///
/// Not those of the attacks, but that one cannot be tried.
pub fn code(signed: &str, unsigned: &str) -> Result<()> {
    let library = File::open(signed).context("the signed library")?;
    let other = File::open(unsigned).context("the unsigned library")?;
    let (library, other) = (library.as_raw_fd(), other.as_raw_fd());
    let say = |name: &str, outcome: Result<(), Errno>| match outcome {
        Ok(()) => println!("{name} ok"),
        Err(errno) => println!("{name} {errno:?}"),
    };
    say("signed", map(READ_EXEC, PRIVATE, library).map(drop));
    say("signed-later", map(READ, PRIVATE, library).and_then(|at| protect(at, READ_EXEC)));
    say("signed-dlopen", dlopen(signed));
    say("unsigned", map(READ_EXEC, PRIVATE, other).map(drop));
    say("unsigned-shared", map(READ_EXEC, libc::MAP_SHARED, other).map(drop));
    say("unsigned-later", map(READ, PRIVATE, other).and_then(|at| protect(at, READ_EXEC)));
    say("unsigned-dlopen", dlopen(unsigned));
    say("writable", map(ALL, PRIVATE, library).map(drop));
    say("writable-later", map(READ_EXEC, PRIVATE, library).and_then(|at| protect(at, ALL)));
    say(
        "written",
        map(READ_WRITE, PRIVATE, library).and_then(|at| {
            write(at);
            protect(at, READ_EXEC)
        }),
    );
    say("anonymous", map(READ_EXEC, ANONYMOUS, -1).map(drop));
    say("anonymous-all", map(ALL, ANONYMOUS, -1).map(drop));
    say(
        "anonymous-later",
        map(READ_WRITE, ANONYMOUS, -1).and_then(|at| {
            write(at);
            protect(at, READ_EXEC)
        }),
    );
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    say("shared-later", map(READ_WRITE, shared, -1).and_then(|at| protect(at, READ_EXEC)));
    say("memfd", memfd().and_then(|fd| map(READ_EXEC, PRIVATE, fd)).map(drop));
    say("shmat", shmat());
    let own = || OpenOptions::new().read(true).write(true).open("/proc/self/mem");
    say("own-memory", own().map(drop).map_err(errno));
    say("own-memory-read", File::open("/proc/self/mem").map(drop).map_err(errno));
    // SAFETY: no memory is passed.
    let traceme =
        || Errno::result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }).map(drop);
    println!("traced {}", child(traceme)?);
    println!("heap {}", child(heap)?);
    let rewritten = OpenOptions::new().write(true).open(signed);
    say("rewrite", rewritten.map(drop).map_err(errno));
    println!("done");
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

fn map(protection: c_int, flags: c_int, fd: c_int) -> Result<*mut c_void, Errno> {
    // SAFETY: a new mapping, at no place of anybody's.
    let at = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, flags, fd, 0) };
    if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(at) }
}

fn protect(at: *mut c_void, protection: c_int) -> Result<(), Errno> {
    // SAFETY: a page of this module's own, which nobody refers to.
    Errno::result(unsafe { libc::mprotect(at, PAGE, protection) }).map(drop)
}

/// `ret`
fn write(at: *mut c_void) {
    // SAFETY: a writable page of this module's own.
    unsafe { at.cast::<u8>().write_volatile(0xc3) };
}

fn memfd() -> Result<c_int, Errno> {
    // SAFETY: a name that ends with a zero.
    let fd = Errno::result(unsafe { libc::memfd_create(c"code".as_ptr(), 0) })?;
    // SAFETY: as many bytes are there.
    Errno::result(unsafe { libc::write(fd, [0xc3_u8; PAGE].as_ptr().cast(), PAGE) })?;
    Ok(fd)
}

fn shmat() -> Result<(), Errno> {
    const EXECUTE: c_int = 0o100_000;
    // SAFETY: new shared memory, which goes with whoever is attached.
    unsafe {
        let id = Errno::result(libc::shmget(libc::IPC_PRIVATE, PAGE, 0o700 | libc::IPC_CREAT))?;
        let at = libc::shmat(id, ptr::null(), EXECUTE);
        let outcome = if at as isize == -1 { Err(Errno::last()) } else { Ok(()) };
        libc::shmctl(id, libc::IPC_RMID, ptr::null_mut());
        outcome
    }
}

/// `ELIBACC` for whatever the loader says.
fn dlopen(path: &str) -> Result<(), Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a library whose constructors do nothing to this program.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() { Err(Errno::ELIBACC) } else { Ok(()) }
}

/// Makes what is readable executable, and then the heap larger: no mapping call is asked.
fn heap() -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::personality(READ_IMPLIES_EXEC) })?;
    // SAFETY: nobody uses what is added.
    let at = unsafe { libc::sbrk(isize::try_from(16 * PAGE).map_err(|_| Errno::EINVAL)?) };
    let at = (at as usize + PAGE).next_multiple_of(PAGE);
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(errno)?;
    let executable = maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap_or_default();
        let (from, to) = range.split_once('-').unwrap_or_default();
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        number(from) <= at && at < number(to) && rest.starts_with("rwx")
    });
    if executable { Ok(()) } else { Err(Errno::ENOEXEC) }
}

/// What becomes of a child that does this: `ok`, an errno's number, or the signal that ends it.
fn child(act: impl FnOnce() -> Result<(), Errno>) -> Result<String> {
    // SAFETY: this program has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = match act() {
                Ok(()) => 0,
                Err(errno) => errno as c_int,
            };
            // SAFETY: ends this process, and runs nothing of its parent's.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => Ok(match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => "ok".to_owned(),
            WaitStatus::Exited(_, code) => format!("{:?}", Errno::from_raw(code)),
            WaitStatus::Signaled(_, signal, _) => signal.as_str().to_owned(),
            other => bail!("{other:?}"),
        }),
    }
}
