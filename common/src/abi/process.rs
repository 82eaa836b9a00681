//! Labels of processes, and the rules and files that they come from.
#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns")]

use super::binary::BinaryKey;

/// A word of `TASKS`: what is known of a process. One word, so that it is read and written whole.
///
/// 0 is a process that nobody looked at: it is older than enforcement, or a child of such a one.
///
/// From the low end: 32 bits of ScID, known, doomed, 30 bits of voucher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Task(pub u64);

impl Task {
    const KNOWN: u64 = 1 << 32;
    const DOOMED: u64 = 1 << 33;
    const VOUCHER_SHIFT: u32 = 34;
    /// The highest voucher.
    pub const VOUCHER_MAX: u32 = (1 << 30) - 1;

    /// A process with this ScID; 0 is one that is known to have none.
    #[inline(always)]
    #[must_use]
    pub const fn known(scid: u32) -> Self {
        Self(Self::KNOWN | scid as u64)
    }

    /// A process that has this ScID because of a signed program, its own or that of the process that
    /// made it: an entry of `VOUCHERS`, 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn vouched(scid: u32, voucher: u32) -> Self {
        Self(Self::known(scid).0 | (voucher as u64) << Self::VOUCHER_SHIFT)
    }

    /// The signature that its ScID comes from, 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn voucher(self) -> u32 {
        (self.0 >> Self::VOUCHER_SHIFT) as u32
    }

    /// One that must not be: it may do nothing any more and is to be killed.
    #[inline(always)]
    #[must_use]
    pub const fn doomed(scid: u32) -> Self {
        Self(Self::KNOWN | Self::DOOMED | scid as u64)
    }

    /// Its ScID, 0 for none.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    pub const fn scid(self) -> u32 {
        self.0 as u32
    }

    /// Whether its label was ever decided.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 & Self::KNOWN != 0
    }

    /// Whether it is to be killed.
    #[inline(always)]
    #[must_use]
    pub const fn is_doomed(self) -> bool {
        self.0 & Self::DOOMED != 0
    }
}

/// The value of `PROCESS_RULES`: what a ScID's processes may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessRule {
    /// [`super::policy::process`] bits granted.
    pub allow: u32,
    /// Those whose use, or the attempt, raises an alarm.
    pub alarm: u32,
    /// Line of the rule that decided FORK, 0 for none.
    pub fork_line: u32,
    /// Line of the rule that decided EXECVE, 0 for none.
    pub execve_line: u32,
    /// [`super::policy::demand`] bits: what the zone asks of its processes.
    pub demand: u32,
}
const _: () = assert!(size_of::<ProcessRule>() == 20);

/// The key of `TRANSITIONS`; the value is the ScID after the exec, 0 where it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct TransitionKey {
    /// The ScID before the exec.
    pub parent: u32,
    /// The ScID of the program's file; 0 is an unsigned one.
    pub binary: u32,
}
const _: () = assert!(size_of::<TransitionKey>() == 8);

/// Bits of [`Binary::flags`].
pub mod binary_flag {
    /// Nobody but root may write to the file, or it is signed: it may interpret labelled programs.
    pub const INTERPRETER: u32 = 1;
    /// It is signed and nobody but root may write to it: what it holds runs in zones that demand signed
    /// code.
    pub const CODE: u32 = 2;
}

/// The value of `BINARIES`: what was found out about one state of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Binary {
    /// The ScID that its signature vouches for; 0 for an unsigned file.
    pub scid: u32,
    /// [`binary_flag`] bits.
    pub flags: u32,
    /// The signature, an entry of `VOUCHERS`; 0 for an unsigned file.
    pub voucher: u32,
}
const _: () = assert!(size_of::<Binary>() == 12);

/// The value of `VOUCHERS`: a signature that labels of processes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Voucher {
    /// Names the key.
    pub key: [u8; 8],
    /// Names the signature.
    pub signature: [u8; 32],
}
const _: () = assert!(size_of::<Voucher>() == 40);

/// The value of `CHAINS`, by thread id: an exec under way of a file that another one interprets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chain {
    /// What was asked for: the script.
    pub program: BinaryKey,
    /// What the kernel runs instead.
    pub interpreter: BinaryKey,
}
const _: () = assert!(size_of::<Chain>() == 48);

/// The value of `ENTERING`, by process id: an exec that is past refusing, between two zones of which one
/// demands signed code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entering {
    /// The new address space, a kernel address: what is mapped there is the new zone's.
    pub mm: u64,
    /// The new zone.
    pub scid: u32,
    /// Explicit padding.
    pub pad: u32,
}
const _: () = assert!(size_of::<Entering>() == 16);

/// Offsets into the running kernel's structs, taken from its BTF by the loader: what the programs
/// that follow processes read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.tgid`
    pub tgid: u32,
    /// `task_struct.pid`
    pub pid: u32,
    /// `linux_binprm.file`
    pub binprm_file: u32,
    /// `linux_binprm.filename`
    pub binprm_filename: u32,
    /// `linux_binprm.interp`
    pub binprm_interp: u32,
    /// `linux_binprm.fdpath`
    pub binprm_fdpath: u32,
    /// `linux_binprm.unsafe`
    pub binprm_unsafe: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_ino`
    pub inode_ino: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// Seconds of the inode's change time.
    pub inode_ctime: u32,
    /// Nanoseconds of the inode's change time.
    pub inode_ctime_nsec: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// `super_block.s_magic`
    pub sb_magic: u32,
    /// `vfsmount.mnt_sb`
    pub mount_sb: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock.sk_kern_sock`, in bits.
    pub sock_kernel: u32,
    /// `sock.sk_allocation`
    pub sock_allocation: u32,
    /// `sock.sk_protocol`
    pub sock_protocol: u32,
    /// `sock.sk_lock.owned`
    pub sock_owned: u32,
    /// `sock.sk_user_data`
    pub sock_user_data: u32,
    /// `inet_connection_sock.icsk_ulp_ops`
    pub tcp_ulp: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `linux_binprm.mm`
    pub binprm_mm: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.personality`
    pub task_personality: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`: the process's threads that run.
    pub signal_live: u32,
    /// `vm_area_struct.vm_file`
    pub vma_file: u32,
    /// `vm_area_struct.anon_vma`
    pub vma_anon: u32,
    /// `file.f_mode`
    pub file_mode: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u32,
    /// `pid.level`: how deep its namespace lies; 0 for the first.
    pub pid_level: u32,
}
const _: () = assert!(size_of::<Offsets>() == 140);
