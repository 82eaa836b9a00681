//! The signed policy that a node keeps: what it starts from, and by what it knows an old one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use prost::Message as _;
use sigil_cluster::credential::write_secret;
use sigil_cluster::envelope::{EnvelopeError, Recipient, newer, open};
use sigil_cluster::proto::{Envelope, Kept, Keys, Progress, SignedPolicy};

use crate::policy::Document;

const FILE: &str = "signed-policy";

/// Keys of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OldKeys {
    /// Older than any that were here.
    #[error("they have version {theirs}, and version {held} was here already")]
    Version {
        /// The message's.
        theirs: u64,
        /// The node's.
        held: u64,
    },
    /// With an epoch that was given up.
    #[error("they hold epoch {theirs}, and epochs up to {retired} were given up")]
    Epoch {
        /// The message's.
        theirs: u64,
        /// The node's.
        retired: u64,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    path: PathBuf,
    recipient: Recipient,
    pub(crate) kept: Kept,
    /// What `kept.policy` says.
    pub(crate) envelope: Option<Envelope>,
    /// The version of the keys in force.
    pub(crate) keys: u64,
    /// Why newer ones are not.
    pub(crate) trouble: String,
    /// What is in force is on disk.
    is_kept: bool,
}

impl Signed {
    /// Reads what was kept. A copy whose signature does not hold is not used.
    pub(crate) fn open(state: &Path, recipient: Recipient) -> Result<Self> {
        let path = state.join(FILE);
        let kept = match fs::read(&path) {
            Ok(bytes) => Kept::decode(bytes.as_slice())
                .with_context(|| format!("{} is damaged: remove it", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let envelope = kept.policy.as_ref().map(|policy| open(policy, &recipient)).transpose();
        let envelope = envelope.with_context(|| {
            format!("{} is not used: remove it, and the server sends another", path.display())
        })?;
        Ok(Self { path, recipient, kept, envelope, keys: 0, trouble: String::new(), is_kept: true })
    }

    fn revision(&self) -> u64 {
        self.envelope.as_ref().map_or(0, |envelope| envelope.revision)
    }

    /// Checks a policy that came: whose it is, and that it is new.
    pub(crate) fn check(&self, policy: &SignedPolicy) -> Result<Envelope, EnvelopeError> {
        let envelope = open(policy, &self.recipient)?;
        newer(envelope.revision, self.revision(), self.kept.highest)?;
        Ok(envelope)
    }

    /// The policy is in force: keeps it, and the one before for the way back. That the disk takes
    /// nothing keeps no policy out of force: [`Signed::keep`] tries again.
    pub(crate) fn advance(&mut self, policy: SignedPolicy, envelope: Envelope) {
        if envelope.revision != self.kept.failed {
            (self.kept.failed, self.kept.reverts) = (0, 0);
            self.kept.problem.clear();
        }
        self.kept.highest = envelope.revision.max(self.kept.highest);
        // What was taken back is no way back.
        self.kept.previous = self.kept.policy.replace(policy).filter(|_| !envelope.revert);
        self.kept.trial = self.kept.previous.is_some();
        self.kept.since = seconds();
        self.envelope = Some(envelope);
        let _ = self.write();
    }

    /// Whether what is in force is on disk.
    pub(crate) const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Writes what the disk did not take before.
    pub(crate) fn keep(&mut self) -> Result<()> {
        if self.is_kept {
            return Ok(());
        }
        self.write().context("what is in force is not on disk: a restart would bring back older")
    }

    /// The server knows that the policy is in force, and could say so.
    pub(crate) fn confirm(&mut self) {
        self.kept.trial = false;
        let _ = self.write();
    }

    /// What was in force before, if it is known.
    pub(crate) fn previous(&self) -> Option<(SignedPolicy, Envelope)> {
        let previous = self.kept.previous.clone()?;
        let envelope = open(&previous, &self.recipient).ok()?;
        Some((previous, envelope))
    }

    /// What was in force before is so again.
    pub(crate) fn go_back(&mut self, policy: SignedPolicy, envelope: Envelope, why: &str) {
        let failed = self.revision();
        self.kept.reverts = if self.kept.failed == failed { self.kept.reverts + 1 } else { 1 };
        self.kept.failed = failed;
        why.clone_into(&mut self.kept.problem);
        self.kept.policy = Some(policy);
        self.kept.previous = None;
        self.kept.trial = false;
        self.envelope = Some(envelope);
        let _ = self.write();
    }

    /// A policy was refused, and what was in force stays.
    pub(crate) fn refused(&mut self, revision: u64, why: String) {
        self.kept.failed = revision;
        self.kept.problem = why;
        let _ = self.write();
    }

    /// Whether keys may follow those that were here: a server whose store is an old copy would give
    /// out epochs that were stamped with before.
    ///
    /// # Errors
    /// [`OldKeys`].
    pub(crate) fn may_follow(&self, keys: &Keys) -> Result<(), OldKeys> {
        let Kept { keys: held, retired, .. } = &self.kept;
        if keys.version < *held {
            return Err(OldKeys::Version { theirs: keys.version, held: *held });
        }
        match keys.epochs.iter().find(|epoch| epoch.number <= *retired) {
            Some(epoch) => Err(OldKeys::Epoch { theirs: epoch.number, retired: *retired }),
            None => Ok(()),
        }
    }

    /// Notes keys before they are used.
    pub(crate) fn follow(&mut self, keys: &Keys) -> Result<()> {
        let numbers: Vec<u64> = keys.epochs.iter().map(|epoch| epoch.number).collect();
        let gone = self.kept.epochs.iter().filter(|held| !numbers.contains(held)).max();
        let retired = self.kept.retired.max(gone.copied().unwrap_or(0));
        let next = Kept { keys: keys.version, retired, epochs: numbers, ..self.kept.clone() };
        if next != self.kept {
            let before = std::mem::replace(&mut self.kept, next);
            if let Err(error) = self.write() {
                self.kept = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Keeps who was revoked, and says whether that is news.
    pub(crate) fn revoke(&mut self, mut revoked: Vec<u32>) -> bool {
        revoked.sort_unstable();
        if self.kept.revoked == revoked {
            return false;
        }
        self.kept.revoked = revoked;
        let _ = self.write();
        true
    }

    /// The instance of the counters, made anew where they are.
    pub(crate) fn instance(&mut self, counters_are_new: bool) -> Result<()> {
        if counters_are_new || self.kept.instance.len() != 16 {
            let mut instance = vec![0; 16];
            sigil_keys::system_random(&mut instance)?;
            self.kept.instance = instance;
            // What was stamped with them is not known any more.
            let held = std::mem::take(&mut self.kept.epochs).into_iter().max();
            self.kept.retired = self.kept.retired.max(held.unwrap_or(0));
            self.write()?;
        }
        Ok(())
    }

    /// The document in force.
    pub(crate) fn document(&self) -> Option<Document> {
        self.envelope.as_ref().map(document)
    }

    /// How far this node is.
    pub(crate) fn progress(&self) -> Progress {
        Progress {
            revision: self.revision(),
            serial: self.envelope.as_ref().map_or(0, |envelope| envelope.serial),
            keys: self.keys,
            failed: self.kept.failed,
            problem: if self.kept.problem.is_empty() {
                self.trouble.clone()
            } else {
                self.kept.problem.clone()
            },
            reverts: self.kept.reverts,
            stamped: 0,
            seen_keys: self.kept.keys,
        }
    }

    fn write(&mut self) -> Result<()> {
        let written = write_secret(&self.path, &self.kept.encode_to_vec())
            .with_context(|| format!("cannot write {}", self.path.display()));
        self.is_kept = written.is_ok();
        written
    }
}

/// An envelope's document.
pub(crate) fn document(envelope: &Envelope) -> Document {
    let name = format!("policy of the server, revision {}", envelope.revision);
    Document { name, bytes: envelope.document.clone(), given: false }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::Ed25519KeyPair;
    use sigil_cluster::envelope::{public_key, sign};

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
    }

    fn recipient() -> Recipient {
        Recipient { cluster: "lab".into(), snid: 1, key: public_key(&key()) }
    }

    fn policy(revision: u64) -> SignedPolicy {
        let cluster = "lab".into();
        sign(&Envelope { cluster, revision, snid: 1, ..Envelope::default() }, &key())
    }

    fn take(signed: &mut Signed, revision: u64) -> Result<()> {
        let policy = policy(revision);
        let envelope = signed.check(&policy)?;
        signed.advance(policy, envelope);
        Ok(())
    }

    #[test]
    fn what_was_taken_is_there_after_a_restart_and_older_ones_are_refused() {
        let state = tempfile::tempdir().unwrap();
        let mut signed = Signed::open(state.path(), recipient()).unwrap();
        take(&mut signed, 3).unwrap();
        take(&mut signed, 5).unwrap();
        let mut again = Signed::open(state.path(), recipient()).unwrap();
        assert_eq!(again.progress().revision, 5);
        for old in [3, 4, 5] {
            assert!(take(&mut again, old).is_err(), "{old}");
        }
        assert!(take(&mut again, 6).is_ok());
    }

    #[test]
    fn a_way_back_opens_no_way_for_older_ones() {
        let state = tempfile::tempdir().unwrap();
        let mut signed = Signed::open(state.path(), recipient()).unwrap();
        take(&mut signed, 3).unwrap();
        take(&mut signed, 4).unwrap();
        take(&mut signed, 7).unwrap();
        let (previous, envelope) = signed.previous().unwrap();
        signed.go_back(previous, envelope, "lost");
        let progress = signed.progress();
        assert_eq!((progress.revision, progress.failed, progress.reverts), (4, 7, 1));
        assert!(take(&mut signed, 6).is_err(), "older than what was seen");
        assert!(take(&mut signed, 7).is_ok(), "the same may be tried again");
        assert_eq!(signed.progress().reverts, 1, "and it is remembered that it was");
        take(&mut signed, 8).unwrap();
        assert_eq!(signed.progress().failed, 0);
    }

    fn keys(version: u64, numbers: &[u64]) -> Keys {
        let epoch =
            |number: &u64| sigil_cluster::proto::Epoch { number: *number, ..Default::default() };
        Keys { version, epochs: numbers.iter().map(epoch).collect(), ..Keys::default() }
    }

    #[test]
    fn keys_that_were_given_up_never_come_again() {
        let state = tempfile::tempdir().unwrap();
        let mut signed = Signed::open(state.path(), recipient()).unwrap();
        for (version, numbers) in [(4, &[1][..]), (5, &[1, 2]), (7, &[2])] {
            signed.may_follow(&keys(version, numbers)).unwrap();
            signed.follow(&keys(version, numbers)).unwrap();
        }
        let mut again = Signed::open(state.path(), recipient()).unwrap();
        let old = OldKeys::Version { theirs: 6, held: 7 };
        assert_eq!(again.may_follow(&keys(6, &[2])), Err(old));
        let epoch = OldKeys::Epoch { theirs: 1, retired: 1 };
        assert_eq!(again.may_follow(&keys(9, &[1, 3])), Err(epoch));
        assert_eq!(again.may_follow(&keys(7, &[2])), Ok(()), "the same once more");
        // Counters that are gone: nothing that they may have counted for is used again.
        again.instance(true).unwrap();
        assert!(again.may_follow(&keys(8, &[2])).is_err());
        assert_eq!(again.may_follow(&keys(8, &[3])), Ok(()));
    }

    #[test]
    fn a_full_disk_keeps_no_policy_out_of_force_and_lets_no_new_keys_in() {
        let state = tempfile::tempdir().unwrap();
        let mut signed = Signed::open(state.path(), recipient()).unwrap();
        take(&mut signed, 3).unwrap();
        signed.follow(&keys(4, &[1])).unwrap();
        // Nothing can be put beside the file.
        let beside = state.path().join(format!("{FILE}.new"));
        fs::create_dir(&beside).unwrap();
        take(&mut signed, 4).unwrap();
        assert_eq!((signed.progress().revision, signed.is_kept()), (4, false));
        assert!(signed.keep().is_err() && signed.follow(&keys(5, &[2])).is_err());
        assert_eq!(signed.progress().seen_keys, 4);
        assert_eq!(Signed::open(state.path(), recipient()).unwrap().progress().revision, 3);
        fs::remove_dir(&beside).unwrap();
        signed.keep().unwrap();
        signed.follow(&keys(5, &[2])).unwrap();
        let again = Signed::open(state.path(), recipient()).unwrap();
        assert_eq!((again.progress().revision, again.progress().seen_keys), (4, 5));
    }

    #[test]
    fn a_copy_that_was_changed_is_not_started_from() {
        let state = tempfile::tempdir().unwrap();
        let mut signed = Signed::open(state.path(), recipient()).unwrap();
        take(&mut signed, 3).unwrap();
        let path = state.path().join(FILE);
        let mut kept = Kept::decode(fs::read(&path).unwrap().as_slice()).unwrap();
        kept.policy.as_mut().unwrap().envelope.push(0);
        fs::write(&path, kept.encode_to_vec()).unwrap();
        assert!(Signed::open(state.path(), recipient()).is_err());
        fs::write(&path, [0xff; 9]).unwrap();
        assert!(Signed::open(state.path(), recipient()).is_err());
    }
}
