//! A node without a Security Server: policy and keys are files of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use sigil_common::abi::policy::PROTECTION_AUTHENTICATE;
use sigil_control::{Failure, FailureKind, Loaded, Status};
use sigil_datapath::{Datapath, Options, Origin as Found, Stamping};
use sigil_policy::NodeRules;

use super::start::Processes;
use super::{Node, failed, held, refusal, warn};
use crate::config::{Config, Origin};
use crate::feed::Rings;
use crate::keys::Keys;
use crate::policy::{Document, InForce, Kept, admit, newest};

impl Node {
    pub(super) fn start_from_files(
        config: Arc<Config>,
        options: &Options,
    ) -> Result<(Self, Rings, Processes)> {
        let snid = config.snid.get();
        let keys = read_keys(&config)?;
        let kept = Kept::read(&config.state);
        let document = newest(Document::read(configured(&config)?)?, kept.as_ref());
        let first = admit(&document, snid, None).map_err(refusal)?;
        keys.check_cluster(&first.rules.cluster)?;

        let (mut datapath, origin) = Datapath::open(options)?;
        let now = if origin == Found::Fresh { None } else { datapath.in_force()? };
        let in_force = now.as_ref().map(|now| InForce {
            serial: now.serial,
            bytes: kept.as_ref().filter(|kept| kept.serial == now.serial).map(Kept::bytes),
        });
        let admitted = admit(&document, snid, in_force).map_err(refusal)?;
        warn(&admitted.warnings);
        warn_without_keys(&config, &admitted.rules);

        let stamping = datapath.install_keys(&keys.epochs)?;
        let generation = match &now {
            Some(now) if !admitted.changed && origin == Found::Adopted => now.generation,
            _ => datapath.apply(&admitted.rules)?.generation,
        };
        datapath.retire_keys(&keys.epochs)?;
        let kept = Kept::new(&document, admitted.rules.serial);
        let mut status = Status::default();
        show_keys(&mut status, &keys, stamping);
        Self::attach(config, datapath, origin, kept, status, None, &admitted.rules, generation)
    }

    /// Reads the configured policy and the keys again.
    pub(crate) fn reload(&mut self, dry_run: bool) -> Result<Loaded, Failure> {
        self.refuse_under_server()?;
        let document = Document::read(configured(&self.config).map_err(failed)?).map_err(failed)?;
        self.load(&document, dry_run)
    }

    fn refuse_under_server(&self) -> Result<(), Failure> {
        if self.signed.is_none() {
            return Ok(());
        }
        let message = "this node's policy comes from its server: labelctl policy push".to_owned();
        Err(Failure { kind: FailureKind::Refused, message })
    }

    /// Puts a document in force, or says why not; the rules are then as they were. The keys are read
    /// again, for the nodes that it may add.
    pub(crate) fn load(&mut self, document: &Document, dry_run: bool) -> Result<Loaded, Failure> {
        self.refuse_under_server()?;
        let now = InForce { serial: self.kept.serial, bytes: Some(self.kept.bytes()) };
        let admitted = admit(document, self.status.snid, Some(now))
            .map_err(|message| Failure { kind: FailureKind::Policy, message })?;
        let keys = read_keys(&self.config).map_err(failed)?;
        let rules = &admitted.rules;
        keys.check_cluster(&rules.cluster).map_err(failed)?;
        if !dry_run {
            let stamping = self.datapath.install_keys(&keys.epochs).map_err(failed)?;
            if admitted.changed {
                let applied = self.datapath.apply(rules).map_err(failed)?;
                self.kept = Kept::new(document, rules.serial);
                self.in_force(rules, applied.generation);
            }
            show_keys(&mut self.status, &keys, stamping);
            // Not before: the nodes of the old rules need theirs. The new ones are in force by now, so
            // what fails here is upkeep's to try again and to tell.
            self.unretired = match self.datapath.retire_keys(&keys.epochs) {
                Ok(()) => None,
                Err(error) => {
                    tracing::error!("keys that left the key file stay in use: {error}");
                    Some(keys)
                }
            };
        }
        let (changes, more) = if dry_run && admitted.changed {
            self.kept.changes(&admitted.policy, self.status.snid).map_err(failed)?
        } else {
            (Vec::new(), 0)
        };
        Ok(Loaded {
            dry_run,
            changes,
            more,
            changed: admitted.changed,
            cluster: rules.cluster.clone(),
            serial: rules.serial,
            generation: self.status.generation,
            peers: rules.peers.len(),
            verdicts: rules.verdicts.len(),
            warnings: admitted.warnings,
        })
    }
}

/// Says which keys there are, and in time that they will not do.
fn show_keys(status: &mut Status, keys: &Keys, stamping: Option<Stamping>) {
    status.keys = held(&keys.epochs, stamping);
    status.spare_epochs = stamping.map(|stamping| stamping.spare);
    status.warnings = stamping.and_then(last_epoch).into_iter().collect();
    for warning in &status.warnings {
        tracing::warn!("{warning}");
    }
}

fn last_epoch(Stamping { key_id, spare }: Stamping) -> Option<String> {
    let next = key_id.checked_add(1).unwrap_or(1);
    (spare == 0).then(|| {
        format!(
            "key id {key_id} is the last epoch of the key file: after a reboot or `sigild --detach` this \
             node could stamp nothing, and sigild would not start; before that, give all nodes new keys \
             (labelctl keys generate --epochs 4 --first-epoch {next})"
        )
    })
}

fn configured(config: &Config) -> Result<&Path> {
    match config.origin() {
        Origin::Files { policy, .. } => Ok(policy),
        Origin::Server(_) => bail!("the policy comes from the server"),
    }
}

pub(super) fn read_keys(config: &Config) -> Result<Keys> {
    match config.origin() {
        Origin::Files { keys: Some(path), .. } => Keys::read(path, config.snid.get()),
        Origin::Files { keys: None, .. } | Origin::Server(_) => Ok(Keys::default()),
    }
}

pub(super) fn warn_without_keys(config: &Config, rules: &NodeRules) {
    let needed =
        rules.verdicts.iter().any(|(_, verdict)| verdict.protection >= PROTECTION_AUTHENTICATE);
    let none = matches!(config.origin(), Origin::Files { keys: None, .. });
    if none && needed && rules.nodes.len() > 1 {
        tracing::warn!(
            "no `keys` are configured, and the policy asks for authentication: packets from and to \
             other nodes will be dropped (labelctl keys generate makes keys)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_epoch_is_told_and_no_other() {
        assert_eq!(last_epoch(Stamping { key_id: 3, spare: 1 }), None);
        let said = last_epoch(Stamping { key_id: 4, spare: 0 }).unwrap();
        assert!(
            said.starts_with("key id 4 is the last") && said.contains("--first-epoch 5"),
            "{said}"
        );
        // Key ids are never 0.
        let said = last_epoch(Stamping { key_id: 255, spare: 0 }).unwrap();
        assert!(said.contains("--first-epoch 1)"), "{said}");
    }
}
