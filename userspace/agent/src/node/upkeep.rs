//! Once a second: whether all is as it was set up.

use std::time::Instant;

use sigil_datapath::Error;

use super::{Node, attached_message, failed};
use crate::signed::Signed;

impl Node {
    /// Tells the server, if there is one.
    pub(super) fn alarm(&mut self, kind: &str, message: String) {
        if let Some(alarms) = &mut self.alarms {
            alarms.raise(kind, message);
        }
    }

    /// Writes down what must outlive a reboot.
    pub(crate) fn persist(&mut self) -> Result<(), Error> {
        self.datapath.persist()
    }

    /// Once a second: persists, and now and then looks whether all is as it was set up. A trouble
    /// is told once, and shown by the status as long as it lasts.
    pub(crate) fn upkeep(&mut self, maintain: bool) {
        let mut problems = Vec::from_iter(self.datapath.persist().err());
        if let Some(alarms) = &mut self.alarms {
            match self.datapath.counters() {
                Ok(counters) => alarms.look(&counters, Instant::now()),
                Err(error) => problems.push(error),
            }
        }
        if maintain {
            if let Some(keys) = &self.unretired {
                match self.datapath.retire_keys(&keys.epochs) {
                    Ok(()) => self.unretired = None,
                    Err(error) => problems.push(error),
                }
            }
            let upkeep = self.datapath.maintain();
            let mut again = Vec::new();
            problems.extend(upkeep.problems);
            let attached: Vec<_> = upkeep.attached.iter().map(attached_message).collect();
            for at in attached.iter().filter(|at| !self.status.attached.contains(at)) {
                tracing::info!(interface = at.interface, mode = at.mode, "guarded again");
                again.push(format!("{} was not guarded any more, and is again", at.interface));
            }
            self.status.attached = attached;
            for message in again {
                self.alarm("guarded-again", message);
            }
            for what in upkeep.repaired {
                let message = format!("somebody removed or changed {what}: it is as it was again");
                tracing::error!("{message}");
                self.alarm("tampered", message);
            }
        } else if problems.is_empty() && self.signed.as_ref().is_none_or(Signed::is_kept) {
            return;
        }
        let mut problems: Vec<_> = problems
            .into_iter()
            .map(|error| {
                let tampered = matches!(error, Error::Tampered { .. });
                (if tampered { "tampered" } else { "node-problem" }, failed(error).message)
            })
            .collect();
        if let Some(Err(error)) = self.signed.as_mut().map(Signed::keep) {
            problems.push(("node-problem", format!("{error:#}")));
        }
        problems.extend(self.unkept.clone().map(|problem| ("node-problem", problem)));
        let told = problems.iter().map(|(_, problem)| problem.clone()).collect();
        let held = std::mem::replace(&mut self.status.problems, told);
        for (kind, problem) in problems.into_iter().filter(|(_, told)| !held.contains(told)) {
            tracing::error!("{problem}");
            self.alarm(kind, problem);
        }
    }
}
