//! How kernel and user space name one state of one file.

/// A file as it was verified: which inode, and when it last changed.
///
/// A write, truncation, new mode or new attribute moves the change time on, so that a key that is
/// found says that the file is what was judged. Renames and further hard links move it on too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct BinaryKey {
    /// `inode->i_ino`.
    pub ino: u64,
    /// Seconds of the inode's change time.
    pub ctime: i64,
    /// Nanoseconds of the inode's change time.
    pub ctime_nsec: u32,
    /// `inode->i_sb->s_dev`, as the kernel holds it: see [`kernel_dev`].
    pub dev: u32,
}
const _: () = assert!(size_of::<BinaryKey>() == 24);

/// The kernel's own encoding of a device number that `stat(2)` told: 12 bits of major, 20 of minor.
///
/// Nothing where the number does not fit, which the kernel does not hand out.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "checked just above")]
pub const fn kernel_dev(st_dev: u64) -> Option<u32> {
    let major = ((st_dev >> 32) & 0xffff_f000) | ((st_dev >> 8) & 0xfff);
    let minor = ((st_dev >> 12) & 0xffff_ff00) | (st_dev & 0xff);
    if major >= 1 << 12 || minor >= 1 << 20 {
        return None;
    }
    Some((major as u32) << 20 | minor as u32)
}

#[cfg(test)]
mod tests {
    use super::kernel_dev;

    #[test]
    fn device_numbers_are_the_kernels() {
        assert_eq!(kernel_dev(0xfe00), Some(254 << 20));
        assert_eq!(kernel_dev(0x0801), Some(8 << 20 | 1));
        // Minor 0xabcde of major 0x123, as glibc's makedev(3) packs them.
        assert_eq!(kernel_dev(0xabc1_23de), Some(0x123a_bcde));
        assert_eq!(kernel_dev(u64::MAX), None);
    }
}
