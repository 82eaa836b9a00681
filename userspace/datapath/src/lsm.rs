//! Programs at LSM hooks: all of them, or none and why not.

use std::fs;

use aya::programs::links::FdLink;
use aya::programs::{FExit, Lsm, ProgramError};
use sigil_common::abi::config_flag::LSM;
use sigil_common::abi::generation_flag;
use sigil_common::abi::name::{BEHIND_LSM, CODE_EXITS, CODE_HOOKS, LSM_HOOKS, Tracepoint};

use crate::attach::{load_once, program, unpin};
use crate::error::{Error, errno};
use crate::load::{Datapath, Origin, links};
use crate::options::Backend;

/// The kernel's security modules, those that are in force.
const MODULES: &str = "/sys/kernel/security/lsm";

/// What `personality(2)` comes to: [`CODE_EXITS`], in their order.
#[cfg(target_arch = "x86_64")]
pub(crate) const PERSONALITY: [&str; 2] = ["__x64_sys_personality", "__ia32_sys_personality"];
#[cfg(target_arch = "aarch64")]
pub(crate) const PERSONALITY: [&str; 2] =
    ["__arm64_sys_arm64_personality", "__arm64_sys_personality"];
/// The first of them.
const PERSONA: &str = CODE_EXITS[0];

/// Whether the kernel asks LSM programs at all. It loads and attaches them even where it does not.
///
/// # Errors
/// Why not, and what to do about it.
pub fn in_force() -> Result<(), String> {
    let modules = fs::read_to_string(MODULES).map_err(|_| {
        format!("{MODULES} cannot be read: mount securityfs (mount -t securityfs none /sys/kernel/security)")
    })?;
    let modules = modules.trim();
    if modules.split(',').any(|module| module == "bpf") {
        Ok(())
    } else {
        Err(format!("this kernel runs without the BPF LSM: boot it with lsm={modules},bpf"))
    }
}

impl Datapath {
    /// Why this node does without LSM programs; `None` where it has them.
    #[must_use]
    pub fn without_lsm(&self) -> Option<&str> {
        self.no_lsm.as_deref()
    }

    /// Attaches the LSM programs, or sees to it that there are none.
    ///
    /// # Errors
    /// Where they are asked for, or were attached before and cannot be replaced.
    pub(crate) fn attach_lsm(&mut self) -> Result<(), Error> {
        if self.options.backend == Backend::Fanotify {
            self.remove_lsm()?;
            self.no_lsm = Some("the configuration says so".to_owned());
            return Ok(());
        }
        let dir = links(&self.options);
        let attached = |hook: &Tracepoint| dir.join(hook.program).exists();
        let complete = LSM_HOOKS.iter().all(|hook| hook.optional || attached(hook));
        if complete && self.origin == Origin::Adopted {
            self.no_lsm = None;
            self.attach_hooks()?;
            return self.keep_code(true);
        }
        let outcome =
            in_force().map_err(|why| Error::Lsm { why }).and_then(|()| self.attach_hooks());
        self.no_lsm = match outcome {
            Ok(()) => {
                self.keep_code(true)?;
                None
            }
            // What is enforced is not loosened by a new agent.
            Err(error)
                if self.options.backend == Backend::Lsm || LSM_HOOKS.iter().any(attached) =>
            {
                return Err(error);
            }
            Err(error) => {
                self.remove_lsm()?;
                Some(why(&error))
            }
        };
        Ok(())
    }

    /// Takes away what only sees what LSM programs refuse: every call pays for it.
    pub(crate) fn thin_out(&mut self) -> Result<(), Error> {
        if self.no_lsm.is_some() {
            return Ok(());
        }
        let dir = links(&self.options);
        self.watching.retain(|program| !BEHIND_LSM.contains(program));
        BEHIND_LSM.iter().try_for_each(|program| unpin(&dir.join(program)))
    }

    pub(crate) fn attach_hooks(&mut self) -> Result<(), Error> {
        let btf = kernel_types()?;
        for hook in &LSM_HOOKS {
            self.attach_hook(hook, &btf)?;
        }
        if self.demands_code()? { self.attach_code_hooks() } else { self.remove_code_hooks() }
    }

    fn attach_hook(&mut self, hook: &Tracepoint, btf: &aya::Btf) -> Result<(), Error> {
        let attached = self.attach_process(hook.program, |bpf, name| {
            let program: &mut Lsm = program(bpf, name)?;
            load_once(name, program.fd().is_ok(), || program.load(hook.point, btf))?;
            let id = program.attach().map_err(Error::program(name))?;
            program.take_link(id).map(FdLink::from).map_err(Error::program(name))
        });
        self.attached(hook.program, hook.optional, attached)
    }

    /// Takes note of a program that was attached. Where the kernel has nothing to attach an optional one to,
    /// it does without.
    fn attached(
        &mut self,
        program: &'static str,
        optional: bool,
        outcome: Result<(), Error>,
    ) -> Result<(), Error> {
        match outcome {
            Err(Error::Program { source, .. })
                if optional && matches!(*source, ProgramError::Btf(_)) => {}
            outcome => {
                outcome?;
                self.hooked.insert(program);
            }
        }
        Ok(())
    }

    /// Attaches what sees memory become code.
    pub(crate) fn attach_code_hooks(&mut self) -> Result<(), Error> {
        let btf = kernel_types()?;
        for hook in &CODE_HOOKS {
            self.attach_hook(hook, &btf)?;
        }
        for (name, call) in CODE_EXITS.into_iter().zip(PERSONALITY) {
            let attached = self.attach_process(name, |bpf, name| {
                let program: &mut FExit = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load(call, &btf))?;
                let id = program.attach().map_err(Error::program(name))?;
                program.take_link(id).map(FdLink::from).map_err(Error::program(name))
            });
            // Not every kernel has 32-bit calls.
            self.attached(name, name != PERSONA, attached)?;
        }
        Ok(())
    }

    /// Takes it away: nobody demands signed code.
    pub(crate) fn remove_code_hooks(&mut self) -> Result<(), Error> {
        let dir = links(&self.options);
        CODE_HOOKS.iter().map(|hook| hook.program).chain(CODE_EXITS).try_for_each(|program| {
            self.hooked.remove(program);
            unpin(&dir.join(program))
        })
    }

    fn demands_code(&self) -> Result<bool, Error> {
        Ok(self.generation()?.flags & generation_flag::SIGNED_CODE != 0)
    }

    /// Tells the other programs whether memory that becomes code is seen.
    pub(crate) fn keep_code(&mut self, kept: bool) -> Result<(), Error> {
        let mut config = self.config()?;
        config.flags = if kept { config.flags | LSM } else { config.flags & !LSM };
        self.set_config(config)
    }

    fn remove_lsm(&mut self) -> Result<(), Error> {
        self.keep_code(false)?;
        self.remove_code_hooks()?;
        let dir = links(&self.options);
        LSM_HOOKS.iter().try_for_each(|hook| {
            self.hooked.remove(hook.program);
            unpin(&dir.join(hook.program))
        })
    }
}

fn kernel_types() -> Result<aya::Btf, Error> {
    aya::Btf::from_sys_fs()
        .map_err(|_| Error::Feature { feature: "BTF", remedy: "boot a kernel with BTF" })
}

/// In one line, without the verifier's log.
fn why(error: &Error) -> String {
    let Error::Program { name, source } = error else {
        return match error {
            Error::Lsm { why } => why.clone(),
            other => other.to_string(),
        };
    };
    let said = match &**source {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        other => errno(other).map_or_else(
            || other.to_string(),
            |errno| std::io::Error::from_raw_os_error(errno).to_string(),
        ),
    };
    format!("the kernel refuses {name}: {said}")
}
