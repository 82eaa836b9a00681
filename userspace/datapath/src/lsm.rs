//! Programs at LSM hooks: all of them, or none and why not.

use std::fs;

use aya::programs::links::FdLink;
use aya::programs::{Lsm, ProgramError};
use sigil_common::abi::name::{BEHIND_LSM, LSM_HOOKS, Tracepoint};

use crate::attach::{load_once, program, unpin};
use crate::error::{Error, errno};
use crate::load::{Datapath, Origin, links};
use crate::options::Backend;

/// The kernel's security modules, those that are in force.
const MODULES: &str = "/sys/kernel/security/lsm";

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

    /// The programs at LSM hooks that are to be attached.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = &'static str> + use<> {
        let there = self.no_lsm.is_none();
        LSM_HOOKS.iter().filter(move |_| there).map(|hook| hook.program)
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
        let attached = LSM_HOOKS.iter().filter(|hook| dir.join(hook.program).exists()).count();
        if attached == LSM_HOOKS.len() && self.origin == Origin::Adopted {
            self.no_lsm = None;
            return Ok(());
        }
        let outcome =
            in_force().map_err(|why| Error::Lsm { why }).and_then(|()| self.attach_hooks());
        self.no_lsm = match outcome {
            Ok(()) => None,
            // What is enforced is not loosened by a new agent.
            Err(error) if self.options.backend == Backend::Lsm || attached != 0 => {
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
    pub(crate) fn thin_out(&self) -> Result<(), Error> {
        let dir = links(&self.options);
        let there = self.no_lsm.is_none();
        BEHIND_LSM.iter().filter(|_| there).try_for_each(|program| unpin(&dir.join(program)))
    }

    pub(crate) fn attach_hooks(&mut self) -> Result<(), Error> {
        let btf = aya::Btf::from_sys_fs()
            .map_err(|_| Error::Feature { feature: "BTF", remedy: "boot a kernel with BTF" })?;
        for Tracepoint { program: name, point, .. } in LSM_HOOKS {
            self.attach_process(name, |bpf, name| {
                let program: &mut Lsm = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load(point, &btf))?;
                let id = program.attach().map_err(Error::program(name))?;
                program.take_link(id).map(FdLink::from).map_err(Error::program(name))
            })?;
        }
        Ok(())
    }

    fn remove_lsm(&mut self) -> Result<(), Error> {
        let dir = links(&self.options);
        LSM_HOOKS.iter().try_for_each(|hook| unpin(&dir.join(hook.program)))
    }
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
