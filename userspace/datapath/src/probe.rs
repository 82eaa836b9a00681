//! Running single programs on single packets (`BPF_PROG_TEST_RUN`), for tests and benchmarks.

use std::time::Duration;

use aya::programs::{
    CgroupSkb, ProgramError, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp,
};
use sigil_common::abi::name;

use crate::error::Error;
use crate::load::Datapath;
use crate::lsm::PERSONALITY;
use crate::options::Backend;

/// What a program did with a packet.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its return value: `XDP_*`, `TC_ACT_*`, or 0 and 1 of a cgroup program.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The `__sk_buff` afterwards; empty for XDP.
    pub context: Vec<u8>,
    /// Mean time of a run.
    pub duration: Duration,
}

/// A program of the object, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Instructions that the verifier walked.
    pub verified: u32,
    /// Instructions after verification.
    pub translated: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Most bytes that a run gives back.
const ROOM: usize = 1 << 16;

impl Datapath {
    /// Loads every program of the object and tells its size, without attaching any. Those at LSM hooks
    /// only where [`Backend::Lsm`] is asked for, optional ones only where the kernel has their tracepoint.
    ///
    /// # Errors
    /// [`Error::Program`] with the verifier's log.
    pub fn load_all(&mut self) -> Result<Vec<(String, Size)>, Error> {
        let btf = aya::Btf::from_sys_fs()
            .map_err(|_| Error::Feature { feature: "BTF", remedy: "boot a kernel with BTF" })?;
        let mut sizes = Vec::new();
        let names: Vec<_> = self.bpf.programs().map(|(name, _)| name.to_owned()).collect();
        let lsm = self.options.backend == Backend::Lsm;
        for name in names {
            if !lsm && of_lsm(&name) {
                continue;
            }
            let program =
                self.bpf.program_mut(&name).ok_or_else(|| Error::Missing(name.clone()))?;
            let info = match load(&name, program, &btf) {
                Err(ProgramError::Btf(_)) if optional(&name) => continue,
                outcome => outcome.map_err(Error::program(&name))?,
            };
            let size = Size {
                verified: info.verified_instruction_count().unwrap_or(0),
                translated: info.size_translated().unwrap_or(0) / 8,
                jited: info.size_jitted(),
            };
            sizes.push((name, size));
        }
        sizes.sort_by(|a: &(String, Size), b| a.0.cmp(&b.0));
        Ok(sizes)
    }

    /// Runs a program on a packet, with a `__sk_buff` (192 bytes; empty for XDP) as its context.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn run(
        &self,
        name: &str,
        packet: &[u8],
        context: &[u8],
        repeat: u32,
    ) -> Result<Run, Error> {
        let program = self.bpf.program(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        let (mut out, mut context_out) = (vec![0; ROOM], vec![0; context.len()]);
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        if !context.is_empty() {
            options.ctx_in = Some(context);
            options.ctx_out = Some(&mut context_out);
        }
        options.repeat = repeat;
        let result = match program {
            aya::programs::Program::Xdp(program) => program.test_run(options),
            aya::programs::Program::SchedClassifier(program) => program.test_run(options),
            aya::programs::Program::CgroupSkb(program) => program.test_run(options),
            _ => return Err(Error::Missing(format!("{name} that runs on packets"))),
        };
        let result = result.map_err(Error::program(name))?;
        out.truncate(result.data_size_out as usize);
        context_out.truncate(result.ctx_size_out as usize);
        Ok(Run {
            action: result.return_value,
            packet: out,
            context: context_out,
            duration: result.duration,
        })
    }
}

fn optional(called: &str) -> bool {
    let last = name::CODE_EXITS.last().is_some_and(|last| *last == called);
    let mut points = name::TRACEPOINTS.iter().chain(&name::LSM_HOOKS);
    last || points.any(|at| at.program == called && at.optional)
}

/// Whether only kernels that run LSM programs take it.
fn of_lsm(called: &str) -> bool {
    hook(called).is_some() || name::CODE_EXITS.contains(&called)
}

fn hook(called: &str) -> Option<&'static name::Tracepoint> {
    name::LSM_HOOKS.iter().chain(&name::CODE_HOOKS).find(|hook| hook.program == called)
}

fn load(
    called: &str,
    program: &mut aya::programs::Program,
    btf: &aya::Btf,
) -> Result<ProgramInfo, aya::programs::ProgramError> {
    use aya::programs::Program;
    match program {
        Program::Xdp(program) => {
            program.load()?;
            program.info()
        }
        Program::SchedClassifier(program) => {
            program.load()?;
            program.info()
        }
        Program::CgroupSkb(program) => {
            program.load()?;
            program.info()
        }
        Program::CgroupSock(program) => {
            program.load()?;
            program.info()
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            program.info()
        }
        Program::BtfTracePoint(program) => {
            let point = name::TRACEPOINTS.iter().find(|at| at.program == called);
            program.load(point.map_or(called, |at| at.point), btf)?;
            program.info()
        }
        Program::Lsm(program) => {
            program.load(hook(called).map_or(called, |at| at.point), btf)?;
            program.info()
        }
        Program::FExit(program) => {
            let call = name::CODE_EXITS.iter().zip(PERSONALITY).find(|(name, _)| **name == called);
            program.load(call.map_or(called, |(_, call)| call), btf)?;
            program.info()
        }
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
}

const _: fn() = || {
    fn is_test_run<T: aya::programs::TestRun>() {}
    is_test_run::<Xdp>();
    is_test_run::<SchedClassifier>();
    is_test_run::<CgroupSkb>();
};
