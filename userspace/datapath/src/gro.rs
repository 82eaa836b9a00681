//! Generic receive offload of an interface, by its ethtool request.
#![expect(unsafe_code, reason = "raw system calls")]

use std::io;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether packets of one flow are merged before the stack sees them.
pub(crate) fn is_on(interface: &str) -> io::Result<bool> {
    request(interface, ETHTOOL_GGRO, 0).map(|on| on != 0)
}

/// Turns it on or off.
pub(crate) fn set(interface: &str, on: bool) -> io::Result<()> {
    request(interface, ETHTOOL_SGRO, u32::from(on)).map(drop)
}

fn request(interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = Value { command, data };
    // SAFETY: all zeroes is a name of no interface and a null pointer.
    let mut asked: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= asked.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in asked.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    asked.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has the layout that the call reads; both parts outlive it.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut asked) };
    if failed == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}
