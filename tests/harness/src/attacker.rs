//! An attacker on the segment: packet sockets to see and send frames as they are.

use crate::{Lab, Netns, Node, PATIENCE, packet, until};
use anyhow::{Context, Result, bail, ensure};
use etherparse::IpNumber;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind,
    recvfrom, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Room for a super-frame.
const LARGEST: usize = 1 << 17;
/// Kernel buffer of a socket: at full speed, what arrives while a thread is off the CPU.
const BUFFER: usize = 64 << 20;

/// A host of a lab that no policy knows. It sees what crosses the bridge and sends what it likes.
#[derive(Debug)]
pub struct Attacker {
    /// The host, 10.77.0.66.
    pub node: Node,
    socket: RawSocket,
}

impl Attacker {
    /// Plugs the attacker into a lab.
    ///
    /// # Errors
    ///
    /// There is one.
    pub fn plug(lab: &Lab) -> Result<Self> {
        let node = lab.node("mallory", 66)?;
        let socket = RawSocket::open(node.netns(), "eth0")?;
        Ok(Self { node, socket })
    }

    /// Takes a labelled frame that `from` sends while `act` runs, ready to be sent again: with the
    /// attacker's own hardware address, or bridges would learn a wrong place for the sender's, and
    /// with the checksums that a veth leaves open.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn capture(
        &self,
        lab: &Lab,
        from: &Node,
        protocol: IpNumber,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<u8>> {
        let sniffer = Sniffer::start(lab.switch(), &from.port(), move |frame| {
            !frame.outgoing
                && packet::label_offset(&frame.bytes).is_some()
                && packet::ip(&frame.bytes).is_ok_and(|ip| ip.protocol == protocol)
        })?;
        act()?;
        let frame = sniffer.take(1, PATIENCE)?.into_iter().next();
        let mut bytes = frame.context("no frame")?.bytes;
        packet::overwrite(&mut bytes, 6, &self.node.mac())?;
        packet::repair(&mut bytes)?;
        Ok(bytes)
    }

    /// As [`Attacker::capture`], but the frame does not arrive: the cable of `to` is out meanwhile.
    ///
    /// # Errors
    ///
    /// None comes.
    pub fn intercept(
        &self,
        lab: &Lab,
        (from, to): (&Node, &Node),
        protocol: IpNumber,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<u8>> {
        lab.switch().ip(&format!("link set {} nomaster", to.port()))?;
        let frame = self.capture(lab, from, protocol, act);
        lab.switch().ip(&format!("link set {} master br0", to.port()))?;
        frame
    }

    /// Sends frames to a node and waits until its agent has counted them: the drops by reason.
    ///
    /// # Errors
    ///
    /// The node does not see them all.
    pub fn inject(&self, target: &Node, frames: &[Vec<u8>]) -> Result<BTreeMap<String, u64>> {
        let before = target.stats()?;
        let goal = before.hook("ingress").seen + u64::try_from(frames.len())?;
        frames.iter().try_for_each(|frame| self.socket.send(frame))?;
        let after = until("judgement of the frames", PATIENCE, || {
            Ok(Some(target.stats()?).filter(|stats| stats.hook("ingress").seen >= goal))
        })?;
        Ok(after.drops_since(&before))
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// It is longer than the MTU allows.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame)
    }
}

/// A frame seen on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Whether the namespace sent it, rather than received it.
    pub outgoing: bool,
}

/// A packet socket on one device of a namespace: all frames as they are.
#[derive(Debug)]
pub struct RawSocket {
    fd: OwnedFd,
}

impl RawSocket {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// The namespace has no such device.
    pub fn open(netns: &Netns, device: &str) -> Result<Self> {
        netns.enter(|| {
            let (raw, none) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
            // Protocol 0 receives nothing until the socket is bound to the device.
            let fd = socket(AddressFamily::Packet, raw, none, None)?;
            setsockopt(&fd, sockopt::RcvBufForce, &BUFFER)?;
            bind(fd.as_raw_fd(), &address(device)?)?;
            Ok(Self { fd })
        })
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// It is longer than the device's MTU allows.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "sent {sent} of {} bytes", frame.len());
        Ok(())
    }

    /// How long [`RawSocket::receive`] waits; without it, for ever.
    ///
    /// # Errors
    ///
    /// The duration is out of range.
    pub fn set_timeout(&self, timeout: Duration) -> Result<()> {
        let micros = i64::try_from(timeout.as_micros())?;
        let value = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        Ok(setsockopt(&self.fd, sockopt::ReceiveTimeout, &value)?)
    }

    /// Takes the next frame into `buffer`: its length, and whether the namespace sent it itself. None
    /// once the timeout has passed.
    ///
    /// # Errors
    ///
    /// The device is gone.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, bool)>> {
        match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), buffer) {
            Ok((length, from)) => {
                let outgoing = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                Ok(Some((length, outgoing)))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Frames that the kernel had no room for since the last call.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn lost(&self) -> Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = u32::try_from(size_of_val(&statistics))?;
        // SAFETY: the kernel writes at most `length` bytes, the size of the structure.
        #[expect(unsafe_code, reason = "nix does not know this option")]
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        Ok(statistics.tp_drops)
    }
}

fn address(device: &str) -> Result<LinkAddr> {
    let index = if_nametoindex(device).with_context(|| format!("no device {device}"))?;
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET.try_into()?,
        sll_protocol: u16::try_from(SockProtocol::EthAll as i32)?,
        sll_ifindex: index.try_into()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&raw))?;
    // SAFETY: `raw` is a whole sockaddr_ll and outlives the call, which copies it.
    #[expect(unsafe_code, reason = "nix makes a LinkAddr from nothing else")]
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) };
    address.context("no link-layer address")
}

/// Collects the frames on a device that fit.
#[derive(Debug)]
pub struct Sniffer {
    seen: Arc<(Mutex<Vec<Frame>>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts to collect; frames sent from here on are seen.
    ///
    /// # Errors
    ///
    /// The namespace has no such device.
    pub fn start(
        netns: &Netns,
        device: &str,
        fits: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        let socket = RawSocket::open(netns, device)?;
        socket.set_timeout(Duration::from_millis(20))?;
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; LARGEST];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(received) = socket.receive(&mut buffer) else { return };
                let Some((length, outgoing)) = received else { continue };
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                let frame = Frame { bytes, outgoing };
                if fits(&frame) {
                    sink.0.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                    sink.1.notify_all();
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Waits until `count` frames are there, and takes all.
    ///
    /// # Errors
    ///
    /// Fewer came within `timeout`.
    pub fn take(&self, count: usize, timeout: Duration) -> Result<Vec<Frame>> {
        let frames = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.seen.1.wait_timeout_while(frames, timeout, |seen| seen.len() < count);
        let Ok((mut frames, _)) = waited else { bail!("the sniffer has panicked") };
        ensure!(
            frames.len() >= count,
            "{} of {count} frames seen within {timeout:?}",
            frames.len()
        );
        Ok(std::mem::take(&mut *frames))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
