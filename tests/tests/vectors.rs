//! The MACs that run in the kernel against `ring`, `blake3` and `siphasher`, by way of the object's
//! programs `icv_probe` (XDP) and `icv_probe_tc` (TC). Needs root.

use std::hash::Hasher as _;

use anyhow::{Context as _, Result, ensure};
use sigil_common::icv::probe::{ICV_OFFSET, PROBE_LEN, Probe};
use sigil_common::icv::{ChecksumField, Header, Icv, MacKey, PAYLOAD_MAX, Suite};
use sigil_common::verdict::DropReason;
use sigil_datapath::{Backend, Datapath, Limits, Mode, Options};
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use tempfile::TempDir;

/// What `icv_probe` is asked, for each suite.
const QUESTIONS: usize = 100_000;
/// What `icv_probe_tc` is asked, for each suite.
const QUESTIONS_TC: usize = 10_000;

/// A datapath with all programs loaded and none attached.
struct Kernel {
    datapath: Datapath,
    dir: TempDir,
}

impl Kernel {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options = Options {
            snid: 1,
            interfaces: Vec::new(),
            mode: Mode::Auto,
            backend: Backend::Fanotify,
            cgroup: "/sys/fs/cgroup".into(),
            pins: dir.path().join("bpf"),
            state: dir.path().join("state"),
            observe: false,
            doi: [0x10, 0, 0x10, 0],
            pass_ethertypes: Vec::new(),
            servers: Vec::new(),
            limits: Limits::default(),
        };
        let (mut datapath, _) = Datapath::open(&options)?;
        datapath.load_all()?;
        Ok(Self { datapath, dir })
    }

    /// Asks a program: its ICV, or the number of its reason for giving none.
    fn ask(&self, program: &str, question: &Question) -> Result<Result<Icv, u32>> {
        let run = self.datapath.run(program, &question.packet(), &[], 1)?;
        let answer = run.packet.get(ICV_OFFSET..PROBE_LEN).context("a short answer")?;
        let (icv, status) = answer.split_first_chunk().context("a short answer")?;
        let status = u32::from_ne_bytes(status.try_into()?);
        ensure!(status != 0, "{program} did not answer");
        Ok(if status == 1 { Ok(Icv::from_bytes(icv)) } else { Err(status) })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.dir.path().join("bpf"));
    }
}

struct Question {
    suite: Suite,
    key: [u8; 32],
    header: [u8; 40],
    payload: Option<(Vec<u8>, ChecksumField)>,
}

impl Question {
    fn random(random: &mut Random, suite: Suite, payload_len: Option<usize>) -> Self {
        let payload = payload_len.map(|len| {
            let mut payload = vec![0; len];
            random.fill(&mut payload);
            (payload, ChecksumField::from(u8::try_from(random.below(4)).unwrap_or(0)))
        });
        let (mut key, mut header) = ([0; 32], [0; 40]);
        random.fill(&mut key);
        random.fill(&mut header);
        Self { suite, key, header, payload }
    }

    fn packet(&self) -> Vec<u8> {
        let key = MacKey::prepare(self.suite, &self.key);
        let covered = self
            .payload
            .as_ref()
            .map(|(payload, field)| (u32::try_from(payload.len()).unwrap_or(u32::MAX), *field));
        let header = Header::from_bytes(&self.header);
        let mut packet = Probe::question(self.suite, &key, &header, covered).to_vec();
        packet.extend(self.payload.iter().flat_map(|(payload, _)| payload));
        packet
    }

    /// What the other implementations say.
    fn icv(&self) -> Result<Icv> {
        let mut message = self.header.to_vec();
        if let Some((payload, field)) = &self.payload {
            let cut = match field {
                ChecksumField::None => 0..0,
                ChecksumField::Tcp => 16..18,
                ChecksumField::Udp => 6..8,
                ChecksumField::Sctp => 8..12,
            };
            let bytes = payload.iter().enumerate();
            message.extend(bytes.map(|(at, byte)| if cut.contains(&at) { 0 } else { *byte }));
        }
        let whole = match self.suite {
            Suite::HmacSha256 => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.key);
                ring::hmac::sign(&key, &message).as_ref().to_vec()
            }
            Suite::Blake3 => blake3::keyed_hash(&self.key, &message).as_bytes().to_vec(),
            Suite::SipHash24 => {
                let key = self.key.first_chunk().context("16 bytes of key")?;
                let mut hasher = SipHasher24::new_with_key(key);
                hasher.write(&message);
                hasher.finish128().as_bytes().to_vec()
            }
        };
        Ok(Icv::from_bytes(whole.first_chunk().context("12 bytes of MAC")?))
    }
}

/// xorshift64*, seeded: a failure happens again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % limit
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            for (to, byte) in piece.iter_mut().zip(self.next().to_le_bytes()) {
                *to = byte;
            }
        }
    }
}

/// Headers alone for the most part, short payloads, and now and then one of any length.
fn compare(kernel: &Kernel, program: &str, questions: usize, longest: usize) -> Result<()> {
    let mut random = Random(0x5167_1100_0000_0001);
    for number in 0..questions {
        let len = match number % 64 {
            0 => Some(random.below(longest + 1)),
            1..=16 => Some(random.below(200)),
            _ => None,
        };
        for suite in Suite::ALL {
            let question = Question::random(&mut random, suite, len);
            let (got, expected) = (kernel.ask(program, &question)?, question.icv()?);
            let field = question.payload.map(|(_, field)| field);
            ensure!(got == Ok(expected), "{program}: {suite}, payload {len:?}, {field:?}: {got:?}");
        }
    }
    Ok(())
}

#[test]
fn the_kernel_computes_the_same_icv_as_everybody() -> Result<()> {
    let kernel = Kernel::new()?;
    compare(&kernel, "icv_probe", QUESTIONS, 9000)?;
    compare(&kernel, "icv_probe_tc", QUESTIONS_TC, 3000)
}

#[test]
fn the_edges_of_blocks_and_chunks() -> Result<()> {
    let kernel = Kernel::new()?;
    let mut random = Random(0x5167_1100_0000_0002);
    let edges = [24, 64, 88, 1024, 2048, 3072, 4096, 8192, PAYLOAD_MAX as usize];
    for edge in edges {
        // Also where the header shifts the edge.
        for len in [edge, edge.saturating_sub(40)]
            .iter()
            .flat_map(|edge| edge.saturating_sub(9)..edge + 10)
        {
            for suite in Suite::ALL {
                let question = Question::random(&mut random, suite, Some(len));
                let expected = if len > PAYLOAD_MAX as usize {
                    Err(DropReason::TooBig as u32)
                } else {
                    Ok(question.icv()?)
                };
                ensure!(kernel.ask("icv_probe", &question)? == expected, "{suite} {len}");
            }
        }
    }
    Ok(())
}

/// A packet that ends before its length says so has no ICV.
#[test]
fn a_truncated_packet_has_no_icv() -> Result<()> {
    let kernel = Kernel::new()?;
    let mut random = Random(0x5167_1100_0000_0003);
    for (len, program) in
        [10, 64, 500].iter().flat_map(|len| [(*len, "icv_probe"), (*len, "icv_probe_tc")])
    {
        for suite in Suite::ALL {
            let question = Question::random(&mut random, suite, Some(len));
            let mut packet = question.packet();
            packet.pop();
            let run = kernel.datapath.run(program, &packet, &[], 1)?;
            let status = run.packet.get(PROBE_LEN - 4..PROBE_LEN).context("a short answer")?;
            ensure!(status == (DropReason::Truncated as u32).to_ne_bytes(), "{program} {suite}");
        }
    }
    Ok(())
}
