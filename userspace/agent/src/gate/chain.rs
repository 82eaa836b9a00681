//! Which file a thread is really executing, where another one interprets it.
//!
//! The kernel asks for the script first and then, by the same thread, for its interpreter; when an exec
//! fails it closes the script before the thread can try another. Questions and closings come in one
//! queue, in their order. So a script that was asked for and not closed is what the thread executes, and
//! whoever it asks for meanwhile interprets that. Pure: no I/O, so that every attack is a test.

use std::collections::BTreeMap;

use sigil_common::abi::binary::BinaryKey;
use sigil_common::abi::process::Chain;

/// Execs under way at once; beyond this the oldest knowledge goes, and those count as unsigned.
const MOST: usize = 4096;

/// A file that a thread asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// None where it cannot be named: then nothing is derived from it.
    pub(crate) key: Option<BinaryKey>,
    /// The kernel runs it itself: nobody interprets it.
    pub(crate) native: bool,
    /// It may stand between a labelled program and the kernel.
    pub(crate) interpreter: bool,
}

/// What an asked file is in the thread's exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// What the caller wants to run.
    Program,
    /// What runs it instead.
    Interpreter,
}

/// What the kernel's programs are to believe of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// What they believe already.
    Same,
    /// Nothing.
    Nothing,
    /// This.
    Chain(Chain),
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    program: Option<BinaryKey>,
    told: bool,
    interpreted: bool,
}

/// Execs under way, by thread.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    pending: BTreeMap<u32, Pending>,
}

impl Chains {
    /// A thread asks to execute a file.
    pub(crate) fn asked(&mut self, thread: u32, file: &Asked) -> (Role, Tell) {
        if let Some(pending) = self.pending.get_mut(&thread) {
            if pending.told {
                // The interpreter's own loader.
                return (Role::Interpreter, Tell::Same);
            }
            pending.interpreted = true;
            if !file.interpreter {
                // Whoever wrote that file decides what happens: the program's label is not for it.
                pending.program = None;
            }
            let (Some(program), Some(interpreter), true) = (pending.program, file.key, file.native)
            else {
                return (Role::Interpreter, Tell::Nothing);
            };
            pending.told = true;
            return (Role::Interpreter, Tell::Chain(Chain { program, interpreter }));
        }
        if !file.native {
            if self.pending.len() >= MOST {
                self.pending.pop_first();
            }
            let pending = Pending { program: file.key, told: false, interpreted: false };
            self.pending.insert(thread, pending);
        }
        (Role::Program, Tell::Nothing)
    }

    /// A thread closed a file. Whether its exec was of that file, and no interpreter was asked for.
    pub(crate) fn closed(&mut self, thread: u32, key: Option<BinaryKey>) -> Option<bool> {
        let pending = self.pending.get(&thread)?;
        // A file that has changed since has another key; whichever it was, the exec is over.
        let same = match (pending.program, key) {
            (Some(ours), Some(closed)) => (ours.dev, ours.ino) == (closed.dev, closed.ino),
            _ => true,
        };
        if !same {
            return None;
        }
        let unasked = !pending.interpreted;
        self.pending.remove(&thread);
        Some(unasked)
    }

    /// Forgets all; the threads that had an exec under way.
    pub(crate) fn clear(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.pending).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: u32 = 7;

    fn key(ino: u64) -> BinaryKey {
        BinaryKey { ino, ..BinaryKey::default() }
    }

    fn script(ino: u64) -> Asked {
        Asked { key: Some(key(ino)), native: false, interpreter: false }
    }

    fn shell(ino: u64) -> Asked {
        Asked { key: Some(key(ino)), native: true, interpreter: true }
    }

    fn told(program: u64, interpreter: u64) -> (Role, Tell) {
        let chain = Chain { program: key(program), interpreter: key(interpreter) };
        (Role::Interpreter, Tell::Chain(chain))
    }

    #[test]
    fn a_script_and_its_interpreter_are_one_exec() {
        let mut chains = Chains::default();
        assert_eq!(chains.asked(T, &script(1)), (Role::Program, Tell::Nothing));
        assert_eq!(chains.asked(T, &shell(2)), told(1, 2));
        assert_eq!(chains.asked(T, &shell(3)), (Role::Interpreter, Tell::Same), "its loader");
        assert_eq!(chains.closed(T, Some(key(1))), Some(false));
        assert_eq!(chains.asked(T, &shell(2)), (Role::Program, Tell::Nothing));
    }

    #[test]
    fn a_failed_exec_leaves_nothing_to_the_next() {
        let mut chains = Chains::default();
        chains.asked(T, &script(1));
        assert_eq!(chains.closed(T, Some(key(1))), Some(true));
        // What the gate never saw runs in the same shell.
        assert_eq!(chains.asked(T, &shell(2)), (Role::Program, Tell::Nothing));
        // And one that failed after its interpreter was found.
        chains.asked(T, &script(1));
        chains.asked(T, &shell(2));
        chains.closed(T, Some(key(1)));
        assert_eq!(chains.asked(T, &shell(2)), (Role::Program, Tell::Nothing));
    }

    #[test]
    fn threads_do_not_meet() {
        let mut chains = Chains::default();
        chains.asked(T, &script(1));
        assert_eq!(chains.asked(8, &shell(2)), (Role::Program, Tell::Nothing));
        assert_eq!(chains.closed(8, Some(key(1))), None, "another's");
        assert_eq!(chains.asked(T, &shell(2)), told(1, 2));
    }

    #[test]
    fn an_interpreter_that_anybody_may_write_gets_no_label() {
        let mut chains = Chains::default();
        chains.asked(T, &script(1));
        let own = Asked { interpreter: false, ..shell(2) };
        assert_eq!(chains.asked(T, &own), (Role::Interpreter, Tell::Nothing));
        // Nor what comes behind it.
        chains.closed(T, Some(key(1)));
        chains.asked(T, &script(1));
        assert_eq!(chains.asked(T, &script(5)), (Role::Interpreter, Tell::Nothing));
        assert_eq!(chains.asked(T, &shell(2)), (Role::Interpreter, Tell::Nothing));
    }

    #[test]
    fn nested_scripts_are_the_outermost() {
        let mut chains = Chains::default();
        chains.asked(T, &script(1));
        let inner = Asked { interpreter: true, ..script(5) };
        assert_eq!(chains.asked(T, &inner), (Role::Interpreter, Tell::Nothing));
        assert_eq!(chains.asked(T, &shell(2)), told(1, 2));
    }

    #[test]
    fn it_is_bounded() {
        let mut chains = Chains::default();
        for thread in 0..10_000 {
            chains.asked(thread, &script(1));
        }
        assert_eq!(chains.clear().len(), MOST);
    }
}
