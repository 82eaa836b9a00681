//! The object in the running kernel, with nothing attached: single programs run on single packets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use sigil_common::abi::{
    key::{RxKey, TxKey},
    name,
};
use sigil_common::icv::Suite;
use sigil_common::label::Label;
use sigil_common::verdict::{DropReason, Hook};
use sigil_common::wire::option::DEFAULT_DOI;
use sigil_datapath::probe::Size;
use sigil_datapath::{Backend, Datapath, EpochKeys, Limits, Mode, Options, Pair, Row};
use tempfile::TempDir;

/// A datapath with all programs loaded. Needs root; without, [`Kernel::open`] fails.
#[derive(Debug)]
pub struct Kernel {
    /// The datapath.
    pub datapath: Datapath,
    /// Every program's name and size.
    pub programs: Vec<(String, Size)>,
    pins: Pins,
}

/// Takes the bpffs away again, whatever happened to its user.
#[derive(Debug)]
struct Pins(TempDir);

impl Pins {
    fn path(&self) -> PathBuf {
        self.0.path().join("bpf")
    }

    fn options(&self, snid: u32) -> Options {
        Options {
            snid,
            interfaces: Vec::new(),
            mode: Mode::Auto,
            backend: Backend::Fanotify,
            cgroup: "/sys/fs/cgroup".into(),
            pins: self.path(),
            state: self.0.path().join("state"),
            observe: false,
            doi: DEFAULT_DOI,
            pass_ethertypes: Vec::new(),
            servers: Vec::new(),
            limits: Limits { nodes: 8, handles: 256, conversations: 256 },
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.path());
    }
}

/// What of an skb a test sets, and finds afterwards; XDP has the mark alone, in its metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skb {
    /// `skb->mark`.
    pub mark: u32,
    /// Interface it came in on, for what is forwarded.
    pub ingress_ifindex: u32,
    /// Payload bytes of a super-frame's segments, 0 for what is none.
    pub gso_size: u32,
    /// A super-frame's segments.
    pub gso_segs: u32,
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why the packet was dropped; `None` if it passed.
    pub dropped: Option<DropReason>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// The mark afterwards.
    pub mark: u32,
}

/// Bytes of `struct __sk_buff`, and offsets in it.
const SK_BUFF: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;
/// The two actions that each kind of program may answer with: drop and pass.
const XDP_ACTIONS: [u32; 2] = [1, 2];
const TC_ACTIONS: [u32; 2] = [2, u32::MAX];
const CGROUP_ACTIONS: [u32; 2] = [0, 1];
/// Bytes of metadata in front of the frame at XDP.
const METADATA: usize = 4;

impl Kernel {
    /// Loads the object for a node.
    ///
    /// # Errors
    /// Without privilege, or when the kernel refuses a program.
    pub fn open(snid: u32) -> Result<Self> {
        Self::with_backend(snid, Backend::Fanotify)
    }

    /// The same with the programs of a backend.
    ///
    /// # Errors
    /// As [`Kernel::open`].
    pub fn with_backend(snid: u32, backend: Backend) -> Result<Self> {
        let pins = Pins(tempfile::tempdir()?);
        let options = Options { backend, ..pins.options(snid) };
        let (mut datapath, _) = Datapath::open(&options)?;
        let programs = datapath.load_all()?;
        Ok(Self { datapath, programs, pins })
    }

    /// What is wrong with the programs' budgets, which name how many instructions the verifier may walk.
    /// Each has one, and each budget has its program, but those that not every kernel takes.
    #[must_use]
    pub fn over(&self, mut budgets: BTreeMap<String, u32>, optional: &[&str]) -> Vec<String> {
        let mut broken = Vec::new();
        for (program, size) in &self.programs {
            let line = format!("{program} = {}", size.verified + size.verified / 5);
            println!("{program}: {} verified, {} translated", size.verified, size.translated);
            match budgets.remove(program) {
                None => broken.push(format!("{program} has no budget; suggested: {line}")),
                Some(budget) if size.verified == 0 || size.verified > budget => {
                    let verified = size.verified;
                    broken.push(format!("{program}: {verified} of {budget}; suggested: {line}"));
                }
                Some(_) => {}
            }
        }
        budgets.retain(|program, _| !optional.contains(&program.as_str()));
        broken.extend(budgets.keys().map(|program| format!("{program} is no program")));
        broken
    }

    /// The same maps once more, for another thread to run programs on.
    ///
    /// # Errors
    /// As [`Kernel::open`].
    pub fn beside(&self, snid: u32) -> Result<Datapath> {
        let (mut datapath, _) = Datapath::open(&self.pins.options(snid))?;
        datapath.load_all()?;
        Ok(datapath)
    }

    /// Puts a policy in force.
    ///
    /// # Errors
    /// When it does not compile, or does not fit.
    pub fn apply(&mut self, policy: &str, snid: u32) -> Result<()> {
        let compiled = sigil_policy::compile("policy", policy.as_bytes(), None)
            .map_err(|report| anyhow!("{report:?}"))?;
        self.datapath.apply(&compiled.policy.rules_for(snid)?)?;
        Ok(())
    }

    /// Installs one epoch for each suite, both directions between two nodes. Packets are stamped
    /// with the first.
    ///
    /// # Errors
    /// As [`Datapath::install_keys`].
    pub fn install(
        &mut self,
        epochs: &[(u8, Suite)],
        nodes: [u32; 2],
        key: [u8; 32],
    ) -> Result<()> {
        let [a, b] = nodes;
        let pair = |source, target| Pair { source, target, key: zeroize::Zeroizing::new(key) };
        let epoch = |(key_id, suite): &(u8, Suite)| EpochKeys {
            key_id: *key_id,
            suite: *suite,
            pairs: vec![pair(a, b), pair(b, a)],
        };
        self.datapath.install_keys(&epochs.iter().map(epoch).collect::<Vec<_>>())?;
        Ok(())
    }

    /// Runs a program on a frame, without looking at the counters.
    ///
    /// # Errors
    /// When the kernel does not run it; when it answers with an action that it should not know.
    pub fn run(&self, program: &str, frame: &[u8], skb: Skb) -> Result<(bool, Vec<u8>, u32)> {
        let xdp = program == name::XDP_VERIFY;
        let context = if xdp { Vec::new() } else { skb.context() };
        let run = self.datapath.run(program, frame, &context, 1)?;
        let [drop, pass] = match program {
            name::XDP_VERIFY => XDP_ACTIONS,
            name::SKB_DELIVER => CGROUP_ACTIONS,
            _ => TC_ACTIONS,
        };
        let passed = run.action == pass;
        ensure!(passed || run.action == drop, "{program} answered {}", run.action);
        if !xdp {
            return Ok((passed, run.packet, word(&run.context, MARK)?));
        }
        if !passed {
            return Ok((passed, run.packet, 0));
        }
        let (mark, frame) = run.packet.split_at_checked(METADATA).context("no metadata")?;
        Ok((passed, frame.to_vec(), word(mark, 0)?))
    }

    /// Runs a program on a frame: of its hook's counters, `seen` and exactly one other must have
    /// risen by one, and that one must be what the action says.
    ///
    /// # Errors
    /// As [`Kernel::run`], and when the counters do not fit.
    pub fn judge(&self, program: &str, frame: &[u8], skb: Skb) -> Result<Outcome> {
        let hook = match program {
            name::TC_STAMP => Hook::Egress,
            name::SKB_DELIVER => Hook::Deliver,
            name::TC_HANDOVER => Hook::Handover,
            _ => Hook::Ingress,
        };
        let before = self.row(hook)?;
        let (passed, frame, mark) = self.run(program, frame, skb)?;
        let after = self.row(hook)?;
        ensure!(
            after.seen == before.seen + 1,
            "{program} counted {} seen",
            after.seen - before.seen
        );
        let mut risen = Vec::new();
        for ((reason, then), (_, now)) in before.dropped.iter().zip(&after.dropped) {
            risen.extend((*then..*now).map(|_| *reason));
        }
        let accepted = after.accepted - before.accepted;
        let dropped = risen.first().copied();
        ensure!(
            u64::from(passed) == accepted && risen.len() == usize::from(!passed),
            "{program}: passed {passed}, but {accepted} accepted and dropped {risen:?}"
        );
        Ok(Outcome { dropped, frame, mark })
    }

    /// A hook's counters, which must balance.
    ///
    /// # Errors
    /// When they do not.
    pub fn row(&self, hook: Hook) -> Result<Row> {
        let rows = self.datapath.counters()?.rows;
        let (_, row) = rows.into_iter().find(|(of, _)| *of == hook).context("no such row")?;
        let dropped: u64 = row.dropped.iter().map(|(_, count)| count).sum();
        ensure!(row.seen == row.accepted + dropped, "{hook:?} does not balance: {row:?}");
        Ok(row)
    }

    /// The label behind a handle.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn label_of(&self, handle: u32) -> Result<Label> {
        Ok(Array::<_, Label>::try_from(self.pinned(name::HANDLES)?)?.get(&handle, 0)?)
    }

    /// Forbids the sequence numbers from `limit` on under every key that packets are stamped with.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn exhaust_keys(&self, limit: u64) -> Result<()> {
        let mut keys = Array::<_, TxKey>::try_from(self.pinned(name::TX_KEYS)?)?;
        for slot in 0..keys.len() {
            let key = keys.get(&slot, 0)?;
            keys.set(slot, TxKey { limit, ..key }, 0)?;
        }
        Ok(())
    }

    /// Has every key that packets are stamped with go on from a number.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn advance_keys(&self, seq: u64) -> Result<()> {
        let mut keys = Array::<_, TxKey>::try_from(self.pinned(name::TX_KEYS)?)?;
        for slot in 0..keys.len() {
            let key = keys.get(&slot, 0)?;
            keys.set(slot, TxKey { seq, ..key }, 0)?;
        }
        Ok(())
    }

    /// The highest number that was accepted under any key.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn newest(&self) -> Result<u64> {
        let keys = Array::<_, RxKey>::try_from(self.pinned(name::RX_KEYS)?)?;
        let tops = keys.iter().map(|key| Ok(key?.top)).collect::<Result<Vec<_>>>()?;
        Ok(tops.into_iter().max().unwrap_or(0))
    }

    fn pinned(&self, map: &str) -> Result<Map> {
        Ok(Map::Array(MapData::from_pin(self.pins.path().join("maps").join(map))?))
    }
}

impl Skb {
    /// As `struct __sk_buff`.
    #[must_use]
    pub fn context(self) -> Vec<u8> {
        let mut context = vec![0; SK_BUFF];
        let fields = [
            (MARK, self.mark),
            (INGRESS_IFINDEX, self.ingress_ifindex),
            (GSO_SEGS, self.gso_segs),
            (GSO_SIZE, self.gso_size),
        ];
        for (at, value) in fields {
            for (to, byte) in context.iter_mut().skip(at).zip(value.to_ne_bytes()) {
                *to = byte;
            }
        }
        context
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("a short answer")?;
    Ok(u32::from_ne_bytes(*word))
}
