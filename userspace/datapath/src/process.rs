//! Processes: the table of their labels, and what the exec gate tells the kernel's programs.
#![expect(unsafe_code, reason = "the table is shared memory")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use sigil_common::abi::binary::BinaryKey;
use sigil_common::abi::event::Doom;
use sigil_common::abi::name;
use sigil_common::abi::process::{Binary, Chain, Offsets, Task, Voucher};

use crate::btf::Btf;
use crate::error::Error;
use crate::load::{Datapath, PID_MAX_LIMIT};

/// The kernel's table of process labels, shared with it: entries change under one's eyes.
#[derive(Debug)]
pub struct Tasks {
    words: NonNull<AtomicU64>,
}

// SAFETY: the memory is shared with the kernel anyway, and touched by atomic operations alone.
unsafe impl Send for Tasks {}
// SAFETY: as above.
unsafe impl Sync for Tasks {}

const WORDS: usize = PID_MAX_LIMIT as usize;

impl Tasks {
    const LENGTH: NonZeroUsize = NonZeroUsize::new(WORDS * size_of::<u64>()).unwrap();

    fn map(table: BorrowedFd<'_>) -> Result<Self, Error> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of a map whose values have this size.
        let words = unsafe { mmap(None, Self::LENGTH, protection, MapFlags::MAP_SHARED, table, 0) };
        let words = words
            .map_err(|error| Error::Io { path: name::TASKS.into(), source: error.into() })?
            .cast();
        Ok(Self { words })
    }

    fn word(&self, pid: u32) -> Option<&AtomicU64> {
        let at = usize::try_from(pid).ok().filter(|at| *at < WORDS)?;
        // SAFETY: within the mapping, which lives as long as `self`.
        Some(unsafe { self.words.add(at).as_ref() })
    }

    /// What is known of a process; nothing of an id outside the table.
    #[must_use]
    pub fn of(&self, pid: u32) -> Task {
        self.word(pid).map_or(Task::default(), |word| Task(word.load(Ordering::SeqCst)))
    }

    /// All processes that `which` says of, and some that ended.
    #[must_use]
    pub fn find(&self, which: impl Fn(Task) -> bool) -> Vec<(u32, Task)> {
        let all = (0..PID_MAX_LIMIT).map(|pid| (pid, self.of(pid)));
        all.filter(|(_, task)| which(*task)).collect()
    }

    /// Puts `new` in place of `old`; whether `old` was there.
    #[must_use]
    pub fn replace(&self, pid: u32, old: Task, new: Task) -> bool {
        let swap = |word: &AtomicU64| {
            word.compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        };
        self.word(pid).is_some_and(swap)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        // SAFETY: nobody borrows from the mapping any more.
        let _ = unsafe { munmap(self.words.cast(), Self::LENGTH.get()) };
    }
}

/// What the exec gate writes, and the kernel's programs read when an exec commits.
pub struct Execs {
    binaries: HashMap<MapData, BinaryKey, Binary>,
    vouchers: HashMap<MapData, u32, Voucher>,
    chains: HashMap<MapData, u32, Chain>,
    gate: Array<MapData, u32>,
}

impl std::fmt::Debug for Execs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execs").finish_non_exhaustive()
    }
}

impl Execs {
    /// What was found out about a file, if it was.
    #[must_use]
    pub fn binary(&self, key: &BinaryKey) -> Option<Binary> {
        self.binaries.get(key, 0).ok()
    }

    /// Remembers what was found out about a file. False if there is no room.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn remember(&mut self, key: BinaryKey, binary: Binary) -> Result<bool, Error> {
        held(self.binaries.insert(key, binary, 0)).map_err(Error::map(name::BINARIES))
    }

    /// The signatures that labels of processes may come from, by number.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn vouchers(&self) -> Result<Vec<(u32, Voucher)>, Error> {
        self.vouchers.iter().collect::<Result<_, _>>().map_err(Error::map(name::VOUCHERS))
    }

    /// Gives a signature a number. False if there is no room.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add_voucher(&mut self, number: u32, voucher: Voucher) -> Result<bool, Error> {
        held(self.vouchers.insert(number, voucher, 0)).map_err(Error::map(name::VOUCHERS))
    }

    /// Takes a number back.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn remove_voucher(&mut self, number: u32) -> Result<(), Error> {
        forgotten(self.vouchers.remove(&number)).map_err(Error::map(name::VOUCHERS))
    }

    /// Forgets a file: it counts as unsigned until it is judged again.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn forget(&mut self, key: &BinaryKey) -> Result<(), Error> {
        forgotten(self.binaries.remove(key)).map_err(Error::map(name::BINARIES))
    }

    /// Forgets all files: they are judged again when they are executed next.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn forget_all(&mut self) -> Result<(), Error> {
        let keys: Vec<_> = self.binaries.keys().filter_map(Result::ok).collect();
        for key in keys {
            self.forget(&key)?;
        }
        Ok(())
    }

    /// Tells what a thread is about to execute by way of an interpreter; `None` that it is nothing.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_chain(&mut self, thread: u32, chain: Option<Chain>) -> Result<(), Error> {
        let done = match chain {
            Some(chain) => self.chains.insert(thread, chain, 0),
            None => forgotten(self.chains.remove(&thread)),
        };
        done.map_err(Error::map(name::CHAINS))
    }

    /// Opens for business: the kernel believes in chains as long as this thread lives.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn guard(&mut self, thread: u32) -> Result<(), Error> {
        let stale: Vec<_> = self.chains.keys().filter_map(Result::ok).collect();
        for thread in stale {
            self.set_chain(thread, None)?;
        }
        self.gate.set(0, thread, 0).map_err(Error::map(name::GATE))
    }
}

/// Whether there was room.
fn held(inserted: Result<(), MapError>) -> Result<bool, MapError> {
    match inserted {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(call))
            if matches!(call.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn forgotten(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}

/// Processes that the kernel's programs want killed: they were born although no rule allows it.
pub struct Doomed {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Doomed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doomed").finish_non_exhaustive()
    }
}

impl Doomed {
    /// The next of them, if there is one.
    pub fn pop(&mut self) -> Option<Doom> {
        loop {
            let item = self.ring.next()?;
            if item.len() >= size_of::<Doom>() {
                // SAFETY: as many bytes are there, and every pattern of them is an entry.
                return Some(unsafe { item.as_ptr().cast::<Doom>().read_unaligned() });
            }
        }
    }
}

impl AsFd for Doomed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Datapath {
    /// The table of process labels.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`].
    pub fn tasks(&self) -> Result<Tasks, Error> {
        let missing = || Error::Missing(name::TASKS.to_owned());
        let Map::Array(map) = self.bpf.map(name::TASKS).ok_or_else(missing)? else {
            return Err(missing());
        };
        Tasks::map(map.fd().as_fd())
    }

    /// What the exec gate needs; can be taken once.
    ///
    /// # Errors
    /// [`Error::Missing`] the second time.
    pub fn execs(&mut self) -> Result<Execs, Error> {
        Ok(Execs {
            binaries: self.take(name::BINARIES)?,
            vouchers: self.take(name::VOUCHERS)?,
            chains: self.take(name::CHAINS)?,
            gate: self.take(name::GATE)?,
        })
    }

    /// The ring of processes to be killed; can be taken once.
    ///
    /// # Errors
    /// [`Error::Missing`] the second time.
    pub fn doomed(&mut self) -> Result<Doomed, Error> {
        Ok(Doomed { ring: self.take(name::DOOMED)? })
    }

    fn take<M: TryFrom<Map, Error = MapError>>(&mut self, name: &str) -> Result<M, Error> {
        let map = self.bpf.take_map(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        M::try_from(map).map_err(Error::map(name))
    }
}

/// Where the running kernel keeps what the programs read.
pub(crate) fn offsets(btf: &Btf) -> Option<Offsets> {
    // Linux 6.11 on, 6.6 on, before.
    let ctime = btf.offset("inode", "i_ctime_sec");
    let whole = || btf.offset("inode", "__i_ctime").or_else(|| btf.offset("inode", "i_ctime"));
    let nsec = || Some(whole()? + btf.offset("timespec64", "tv_nsec")?);
    Some(Offsets {
        tgid: btf.offset("task_struct", "tgid")?,
        pid: btf.offset("task_struct", "pid")?,
        binprm_file: btf.offset("linux_binprm", "file")?,
        binprm_filename: btf.offset("linux_binprm", "filename")?,
        binprm_interp: btf.offset("linux_binprm", "interp")?,
        binprm_fdpath: btf.offset("linux_binprm", "fdpath")?,
        binprm_unsafe: btf.offset("linux_binprm", "unsafe")?,
        file_inode: btf.offset("file", "f_inode")?,
        inode_ino: btf.offset("inode", "i_ino")?,
        inode_sb: btf.offset("inode", "i_sb")?,
        inode_ctime: ctime.or_else(whole)?,
        inode_ctime_nsec: btf.offset("inode", "i_ctime_nsec").or_else(nsec)?,
        sb_dev: btf.offset("super_block", "s_dev")?,
        sb_magic: btf.offset("super_block", "s_magic")?,
        mount_sb: btf.offset("vfsmount", "mnt_sb")?,
        socket_sk: btf.offset("socket", "sk")?,
        sock_kernel: btf.bit_offset("sock", "sk_kern_sock")?,
        sock_allocation: btf.offset("sock", "sk_allocation")?,
        sock_protocol: btf.offset("sock", "sk_protocol")?,
        sock_owned: btf.nested_offset("sock", "sk_lock", "owned")?,
        sock_user_data: btf.offset("sock", "sk_user_data")?,
        tcp_ulp: btf.offset("inet_connection_sock", "icsk_ulp_ops")?,
        task_flags: btf.offset("task_struct", "flags")?,
        binprm_mm: btf.offset("linux_binprm", "mm")?,
        task_mm: btf.offset("task_struct", "mm")?,
        task_personality: btf.offset("task_struct", "personality")?,
        task_signal: btf.offset("task_struct", "signal")?,
        signal_live: btf.offset("signal_struct", "live")?,
        vma_file: btf.offset("vm_area_struct", "vm_file")?,
        vma_anon: btf.offset("vm_area_struct", "anon_vma")?,
        file_mode: btf.offset("file", "f_mode")?,
        file_dentry: btf.offset("file", "f_path")? + btf.offset("path", "dentry")?,
        dentry_name: btf.offset("dentry", "d_name")? + btf.offset("qstr", "name")?,
        task_thread_pid: btf.offset("task_struct", "thread_pid")?,
        pid_level: btf.offset("pid", "level")?,
    })
}
