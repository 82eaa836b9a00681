//! Putting a process into a zone.

use sigil_datapath::{Datapath, Error};

use crate::peer::Living;

/// The kernel's table of process labels.
pub(crate) trait Tasks {
    fn scid(&self, pid: u32) -> Result<u32, Error>;
    fn set_scid(&mut self, pid: u32, scid: u32) -> Result<(), Error>;
}

impl Tasks for Datapath {
    fn scid(&self, pid: u32) -> Result<u32, Error> {
        self.task_scid(pid)
    }

    fn set_scid(&mut self, pid: u32, scid: u32) -> Result<(), Error> {
        self.set_task_scid(pid, scid)
    }
}

/// Labels the process. False if it ended meanwhile: its id may be another's by now, so the label is
/// taken off again.
pub(crate) fn enter(
    tasks: &mut impl Tasks,
    pid: u32,
    process: &impl Living,
    scid: u32,
) -> Result<bool, Error> {
    tasks.set_scid(pid, scid)?;
    if process.is_alive() {
        return Ok(true);
    }
    // A new owner of the id wrote its parent's label at its fork, before or after ours.
    if tasks.scid(pid)? == scid {
        tasks.set_scid(pid, 0)?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Table(BTreeMap<u32, u32>);

    impl Tasks for Table {
        fn scid(&self, pid: u32) -> Result<u32, Error> {
            Ok(self.0.get(&pid).copied().unwrap_or(0))
        }

        fn set_scid(&mut self, pid: u32, scid: u32) -> Result<(), Error> {
            self.0.insert(pid, scid);
            Ok(())
        }
    }

    struct Process(Cell<bool>);

    impl Living for Process {
        fn is_alive(&self) -> bool {
            self.0.get()
        }
    }

    #[test]
    fn a_living_process_enters() {
        let mut tasks = Table::default();
        assert!(enter(&mut tasks, 7, &Process(Cell::new(true)), 10).unwrap());
        assert_eq!(tasks.scid(7).unwrap(), 10);
    }

    #[test]
    fn an_id_that_may_be_anothers_keeps_no_label() {
        let mut tasks = Table::default();
        assert!(!enter(&mut tasks, 7, &Process(Cell::new(false)), 10).unwrap());
        assert_eq!(tasks.scid(7).unwrap(), 0);
    }

    #[test]
    fn the_label_that_a_new_owner_inherited_stays() {
        /// The id is forked again between our write and our look.
        struct Reused(Table);
        impl Tasks for Reused {
            fn scid(&self, pid: u32) -> Result<u32, Error> {
                self.0.scid(pid)
            }
            fn set_scid(&mut self, pid: u32, _scid: u32) -> Result<(), Error> {
                self.0.set_scid(pid, 66)
            }
        }
        let mut tasks = Reused(Table::default());
        assert!(!enter(&mut tasks, 7, &Process(Cell::new(false)), 10).unwrap());
        assert_eq!(tasks.scid(7).unwrap(), 66);
    }
}
