//! The rings of events and of log records.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use sigil_common::abi::event::DropEvent;

/// Reads drops and alarms as the kernel reports them; readable when some are there.
pub struct Events {
    pub(crate) ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// The next event, if there is one.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it ends and goes on")]
    pub fn next(&mut self) -> Option<DropEvent> {
        loop {
            let item = self.ring.next()?;
            // Anything else than a whole event is not ours; the next may be.
            if item.len() >= size_of::<DropEvent>() {
                // SAFETY: long enough, and a DropEvent is integers and byte arrays only.
                #[expect(unsafe_code, reason = "the ring hands out bytes")]
                return Some(unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() });
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and lives as long as the borrow.
        #[expect(unsafe_code, reason = "aya offers the ring's descriptor as a number only")]
        unsafe {
            BorrowedFd::borrow_raw(self.ring.as_raw_fd())
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Hands what the programs log on to the process's own log; readable when there is something.
pub struct KernelLog {
    pub(crate) logger: EbpfLogger<&'static dyn log::Log>,
}

impl std::fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelLog").finish_non_exhaustive()
    }
}

impl KernelLog {
    /// Logs what is there.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.logger.as_fd()
    }
}
