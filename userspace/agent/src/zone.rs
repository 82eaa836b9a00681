//! Putting a process into a zone.

use sigil_common::abi::process::Task;

use crate::peer::Living;

/// The kernel's table of process labels.
pub(crate) trait Table {
    /// Puts `new` in place of `old`; whether `old` was there.
    fn replace(&self, pid: u32, old: Task, new: Task) -> bool;
}

impl Table for sigil_datapath::Tasks {
    fn replace(&self, pid: u32, old: Task, new: Task) -> bool {
        self.replace(pid, old, new)
    }
}

/// Labels a process whose word was `old` when it was permitted. False if it ended meanwhile, or
/// became something else: its id may be another's by now, so the label is taken off again.
pub(crate) fn enter(
    tasks: &impl Table,
    pid: u32,
    process: &impl Living,
    old: Task,
    scid: u32,
) -> bool {
    let new = Task::known(scid);
    if !tasks.replace(pid, old, new) {
        return false;
    }
    if process.is_alive() {
        return true;
    }
    // A new owner of the id wrote its parent's label at its fork, before or after ours.
    let _ = tasks.replace(pid, new, old);
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Words(RefCell<BTreeMap<u32, Task>>);

    impl Words {
        fn of(&self, pid: u32) -> Task {
            self.0.borrow().get(&pid).copied().unwrap_or_default()
        }
    }

    impl Table for Words {
        fn replace(&self, pid: u32, old: Task, new: Task) -> bool {
            let was = self.of(pid) == old;
            if was {
                self.0.borrow_mut().insert(pid, new);
            }
            was
        }
    }

    struct Process(Cell<bool>);

    impl Living for Process {
        fn is_alive(&self) -> bool {
            self.0.get()
        }
    }

    const NONE: Task = Task::known(0);

    fn words(at_7: Task) -> Words {
        Words(RefCell::new(BTreeMap::from([(7, at_7)])))
    }

    #[test]
    fn a_living_process_enters() {
        let tasks = words(NONE);
        assert!(enter(&tasks, 7, &Process(Cell::new(true)), NONE, 10));
        assert_eq!(tasks.of(7), Task::known(10));
    }

    #[test]
    fn an_id_that_may_be_anothers_keeps_no_label() {
        let tasks = words(NONE);
        assert!(!enter(&tasks, 7, &Process(Cell::new(false)), NONE, 10));
        assert_eq!(tasks.of(7).scid(), 0);
    }

    #[test]
    fn who_became_something_else_meanwhile_does_not_enter() {
        for now in [Task::known(66), Task::doomed(66)] {
            let tasks = words(now);
            assert!(!enter(&tasks, 7, &Process(Cell::new(true)), NONE, 10));
            assert_eq!(tasks.of(7), now);
        }
    }

    #[test]
    fn the_label_that_a_new_owner_inherited_stays() {
        /// The process ends, and its id is forked again, between our write and our look.
        struct Reused<'a>(&'a Words);
        impl Living for Reused<'_> {
            fn is_alive(&self) -> bool {
                self.0.0.borrow_mut().insert(7, Task::known(66));
                false
            }
        }
        let tasks = words(NONE);
        assert!(!enter(&tasks, 7, &Reused(&tasks), NONE, 10));
        assert_eq!(tasks.of(7), Task::known(66));
    }
}
