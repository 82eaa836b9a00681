//! What keeps the rules is out of the zones' reach, whatever their capabilities: programs, maps and
//! their pins, and the kernel itself.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use sigil_common::verdict::Hook;

use super::{ALLOW, confined};
use crate::task::{self, member, offsets};

const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// `bpf(cmd, attr, size)`
#[lsm(hook = "bpf")]
pub fn lsm_bpf(_ctx: LsmContext) -> i32 {
    confined(Hook::Process)
}

/// `inode_unlink(dir, dentry)`: a link whose last pin goes is detached.
#[lsm(hook = "inode_unlink")]
pub fn lsm_unlink(ctx: LsmContext) -> i32 {
    pinned(ctx.arg(0), offsets().inode_sb)
}

/// `inode_rename(old_dir, old_dentry, new_dir, new_dentry)`: so does what another one is put over. Both are
/// in one file system.
#[lsm(hook = "inode_rename")]
pub fn lsm_rename(ctx: LsmContext) -> i32 {
    pinned(ctx.arg(0), offsets().inode_sb)
}

/// `sb_umount(mnt, flags)`: and all of them with their file system.
#[lsm(hook = "sb_umount")]
pub fn lsm_umount(ctx: LsmContext) -> i32 {
    pinned(ctx.arg(0), offsets().mount_sb)
}

/// `locked_down(what)`: what a locked-down kernel refuses everybody. Unsigned modules, kexec, kernel
/// memory, probes.
#[lsm(hook = "locked_down")]
pub fn lsm_lockdown(_ctx: LsmContext) -> i32 {
    confined(Hook::Process)
}

/// Refuses a process of a zone what lies in a BPF file system, or cannot be told from it.
#[inline(always)]
fn pinned(structure: *const u8, sb: u32) -> i32 {
    if task::current().scid() == 0 {
        return ALLOW;
    }
    let magic = member::<*const u8>(structure, sb)
        .and_then(|sb| member::<u64>(sb, offsets().sb_magic))
        .unwrap_or(BPF_FS_MAGIC);
    if magic == BPF_FS_MAGIC { confined(Hook::Process) } else { ALLOW }
}
