//! A box on the wire between two nodes that duplicates, reorders and tampers, and counts exactly.

use crate::{Lab, Node, RawSocket, packet};
use anyhow::Result;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Every how many IPv4 frames something is done to one; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tampering {
    /// Sent a second time, behind later frames.
    pub duplicate_every: u64,
    /// Sent behind later frames only.
    pub reorder_every: u64,
    /// The last byte changed, and the transport checksum made right again.
    pub tamper_every: u64,
    /// How many later frames overtake one that is held back.
    pub depth: u64,
}

/// What the box did in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Second copies among those.
    pub duplicated: u64,
    /// Originals among those that later frames overtook.
    pub reordered: u64,
    /// Frames changed.
    pub tampered: u64,
    /// Frames that the box could not take or send.
    pub lost: u64,
}

/// The box between the two nodes, one thread for each direction.
#[derive(Debug)]
pub struct Middlebox {
    stop: Arc<AtomicBool>,
    live: [Arc<AtomicU64>; 2],
    threads: [Option<JoinHandle<Result<Counts>>>; 2],
}

impl Lab {
    /// Two nodes, 10.77.0.1 and 10.77.0.2, with a box on the wire between them. They send frames no
    /// longer than the MTU with full checksums, as to a real wire.
    ///
    /// # Errors
    ///
    /// The names are the same.
    pub fn middlebox(
        &self,
        first: &str,
        second: &str,
        tampering: Tampering,
    ) -> Result<(Node, Node, Middlebox)> {
        let nodes = (self.unplugged(first, 1)?, self.unplugged(second, 2)?);
        for (node, port) in [(&nodes.0, "m1"), (&nodes.1, "m2")] {
            self.plug(node, port)?;
            node.run(&["ethtool", "-K", "eth0", "tx", "off"])?;
        }
        // One socket for each port, for both directions: a socket does not see what it sent itself.
        let left = Arc::new(RawSocket::open(self.switch(), "m1")?);
        let right = Arc::new(RawSocket::open(self.switch(), "m2")?);
        for socket in [&left, &right] {
            socket.set_timeout(Duration::from_millis(1))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let live = [Arc::default(), Arc::default()];
        let forward = |from: &Arc<RawSocket>, to: &Arc<RawSocket>, live: &Arc<AtomicU64>| {
            let direction = Direction::new(Arc::clone(to), tampering);
            let (from, stop, live) = (Arc::clone(from), Arc::clone(&stop), Arc::clone(live));
            Some(thread::spawn(move || direction.run(&from, &stop, &live)))
        };
        let [up, down] = &live;
        let threads = [forward(&left, &right, up), forward(&right, &left, down)];
        Ok((nodes.0, nodes.1, Middlebox { stop, live, threads }))
    }
}

impl Middlebox {
    /// Frames received so far, from the first node and from the second.
    #[must_use]
    pub fn received(&self) -> [u64; 2] {
        self.live.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Stops forwarding: what was done to the first node's frames, and to the second's.
    ///
    /// # Errors
    ///
    /// A device is gone.
    pub fn stop(mut self) -> Result<[Counts; 2]> {
        let [first, second] = self.join();
        Ok([first?, second?])
    }

    fn join(&mut self) -> [Result<Counts>; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.each_mut().map(|thread| {
            let joined = thread.take().map(JoinHandle::join);
            joined.map_or(Ok(Counts::default()), |joined| {
                joined.unwrap_or_else(|_| Err(anyhow::anyhow!("the middlebox has panicked")))
            })
        })
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        drop(self.join());
    }
}

/// A frame held back until others have overtaken it.
struct Held {
    /// Its own number.
    packet: u64,
    frame: Vec<u8>,
    duplicate: bool,
}

struct Direction {
    to: Arc<RawSocket>,
    tampering: Tampering,
    /// IPv4 frames so far.
    packets: u64,
    held: VecDeque<Held>,
    counts: Counts,
}

impl Direction {
    fn new(to: Arc<RawSocket>, tampering: Tampering) -> Self {
        Self { to, tampering, packets: 0, held: VecDeque::new(), counts: Counts::default() }
    }

    fn run(mut self, from: &RawSocket, stop: &AtomicBool, live: &AtomicU64) -> Result<Counts> {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            match from.receive(&mut buffer)? {
                Some((_, true)) => {}
                Some((length, false)) => {
                    self.counts.received += 1;
                    live.store(self.counts.received, Ordering::Relaxed);
                    self.forward(buffer.get_mut(..length).unwrap_or_default());
                }
                // The line is quiet: nothing will overtake what is held.
                None => self.release(0),
            }
        }
        self.release(0);
        self.counts.lost += u64::from(from.lost()?);
        Ok(self.counts)
    }

    fn forward(&mut self, frame: &mut [u8]) {
        if packet::ip(frame).is_err() {
            self.send(frame);
            return;
        }
        self.packets += 1;
        let packet = self.packets;
        if self.turn(self.tampering.tamper_every, 0) && tamper(frame).is_ok() {
            self.counts.tampered += 1;
        }
        if self.turn(self.tampering.duplicate_every, 1) {
            self.held.push_back(Held { packet, frame: frame.to_vec(), duplicate: true });
        }
        if self.turn(self.tampering.reorder_every, 2) {
            self.held.push_back(Held { packet, frame: frame.to_vec(), duplicate: false });
        } else {
            self.send(frame);
        }
        self.release(self.tampering.depth.max(1));
    }

    /// Whether it is this packet's turn; the phases keep the turns apart.
    fn turn(&self, every: u64, phase: u64) -> bool {
        every != 0 && self.packets % every == phase % every
    }

    /// Sends what at least `overtaken` later packets have come behind. The queue is in their order.
    fn release(&mut self, overtaken: u64) {
        let packets = self.packets;
        while let Some(held) = self.held.pop_front_if(|held| held.packet + overtaken <= packets) {
            if held.duplicate {
                self.counts.duplicated += 1;
            } else if held.packet < packets {
                self.counts.reordered += 1;
            }
            self.send(&held.frame);
        }
    }

    fn send(&mut self, frame: &[u8]) {
        match self.to.send(frame) {
            Ok(()) => self.counts.sent += 1,
            Err(_) => self.counts.lost += 1,
        }
    }
}

fn tamper(frame: &mut [u8]) -> Result<()> {
    let last = packet::ETHERNET + usize::from(packet::ip(frame)?.total_len) - 1;
    packet::flip(frame, last * 8)?;
    packet::repair(frame)
}
