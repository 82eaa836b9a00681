//! The packet that the test program `icv_probe` answers: a question about an ICV, put to the code
//! that runs in the kernel.

use super::{ChecksumField, HEADER_LEN, Header, ICV_LEN, Icv, MacKey, Suite};

/// A question, and its answer once the program ran. The payload follows it in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Probe {
    /// A [`Suite`] by number.
    pub suite: u8,
    /// Whether the payload is covered: 0 or 1.
    pub covered: u8,
    /// A [`ChecksumField`] by number.
    pub checksum: u8,
    /// 0.
    pub zero: u8,
    /// Bytes of payload.
    pub len: u32,
    /// The prepared key.
    pub key: MacKey,
    /// The message's fixed part.
    pub header: Header,
    /// The answer.
    pub icv: Icv,
    /// 0 before the answer is there; 1 with it; otherwise the number of a drop reason.
    pub status: u32,
}

/// Bytes of a [`Probe`], and the offset of the payload.
pub const PROBE_LEN: usize = size_of::<Probe>();
/// Where [`Probe::icv`] lies.
pub const ICV_OFFSET: usize = core::mem::offset_of!(Probe, icv);

const _: () = assert!(PROBE_LEN == 128 && ICV_OFFSET == 112);
const _: () = assert!(PROBE_LEN == 8 + size_of::<MacKey>() + (HEADER_LEN + ICV_LEN + 4) as usize);

impl Probe {
    /// The question's bytes, ahead of the payload.
    #[must_use]
    pub fn question(
        suite: Suite,
        key: &MacKey,
        header: &Header,
        payload: Option<(u32, ChecksumField)>,
    ) -> [u8; PROBE_LEN] {
        let mut bytes = [0; PROBE_LEN];
        let (len, checksum) = payload.unwrap_or((0, ChecksumField::None));
        let lead = [suite as u8, u8::from(payload.is_some()), checksum as u8, 0];
        let key = key.0.iter().flat_map(|word| word.to_ne_bytes());
        let fields = lead.into_iter().chain(len.to_ne_bytes()).chain(key).chain(header.to_bytes());
        for (to, byte) in bytes.iter_mut().zip(fields) {
            *to = byte;
        }
        bytes
    }
}
