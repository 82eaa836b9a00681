//! Reading and writing key files.

use std::fs::{File, Metadata, OpenOptions, remove_file};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::{FileError, FileProblem, NodeKeys};

/// Bytes of a key file at most.
const LEN_MAX: u64 = 1 << 20;

impl NodeKeys {
    /// Reads a key file that nobody but root, or who runs this, can have written or read.
    ///
    /// # Errors
    /// Says what is wrong with the file or what it says, and what to do.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        read(path).map_err(|problem| FileError { path: path.to_owned(), problem })
    }

    /// Writes a new key file with mode 0600.
    ///
    /// # Errors
    /// [`FileProblem::Exists`] if the name is taken; else what the system says. No file is left then.
    pub fn store(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        self.write(path).map_err(|problem| FileError { path: path.to_owned(), problem })
    }

    fn write(&self, path: &Path) -> Result<(), FileProblem> {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = created.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => FileProblem::Exists,
            _ => FileProblem::Io { action: "create", source },
        })?;
        let written = file.write_all(self.emit().as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|source| {
            // Half a key file is worse than none, and if it cannot go either, the error says enough.
            let _ = remove_file(path);
            FileProblem::Io { action: "write", source }
        })
    }
}

fn read(path: &Path) -> Result<NodeKeys, FileProblem> {
    // O_NONBLOCK, for a pipe would have us wait for a writer.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let mut file: File = opened.map_err(|source| match source.raw_os_error() {
        Some(errno) if errno == Errno::ELOOP as i32 => FileProblem::Symlink,
        _ => FileProblem::Io { action: "open", source },
    })?;
    let io = |source| FileProblem::Io { action: "read", source };
    // Of what is open, not of what has the name by now.
    let metadata = file.metadata().map_err(io)?;
    check(&metadata, geteuid().as_raw())?;
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(metadata.len()).unwrap_or(0)]);
    file.read_exact(&mut bytes).map_err(io)?;
    let text = str::from_utf8(&bytes).map_err(|_| FileProblem::NotText)?;
    Ok(NodeKeys::parse(text)?)
}

fn check(metadata: &Metadata, euid: u32) -> Result<(), FileProblem> {
    let (uid, mode, len) = (metadata.uid(), metadata.mode() & 0o7777, metadata.len());
    if !metadata.is_file() {
        return Err(FileProblem::NotRegular);
    }
    if uid != 0 && uid != euid {
        return Err(FileProblem::Owner { uid });
    }
    if mode != 0o600 && mode != 0o400 {
        return Err(FileProblem::Mode { mode });
    }
    if len > LEN_MAX {
        return Err(FileProblem::TooLarge { len, max: LEN_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Pair, PairKey};
    use sigil_common::icv::Suite;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn keys() -> NodeKeys {
        let pair = Pair { source: 1, target: 2, key: PairKey::new([0xab; 32]) };
        let epoch = Epoch { id: 9, suite: Suite::Blake3, pairs: vec![pair] };
        NodeKeys::new("lab".into(), 1, vec![epoch]).unwrap()
    }

    fn refusal(path: &Path) -> (FileProblem, String) {
        let error = NodeKeys::load(path).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        (error.problem, text)
    }

    #[test]
    fn what_is_stored_loads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        keys().store(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let loaded = NodeKeys::load(&path).unwrap();
        assert_eq!(*loaded.emit(), *keys().emit());
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(NodeKeys::load(&path).is_ok());
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        fs::write(&path, "precious").unwrap();
        let error = keys().store(&path).unwrap_err();
        assert!(matches!(error.problem, FileProblem::Exists));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

        let link = dir.path().join("link");
        symlink(dir.path().join("absent"), &link).unwrap();
        assert!(matches!(keys().store(&link).unwrap_err().problem, FileProblem::Exists));
        let lost = dir.path().join("no/such/directory");
        let error = keys().store(&lost).unwrap_err();
        assert!(matches!(error.problem, FileProblem::Io { action: "create", .. }));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        keys().store(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o700, 0o4600, 0o000] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let (problem, text) = refusal(&path);
            assert!(matches!(problem, FileProblem::Mode { mode: found } if found == mode));
            assert!(text.contains("chmod 600"), "{text}");
        }
    }

    /// Needs root, as other privileged tests do: giving a file away fails otherwise.
    #[test]
    fn a_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        keys().store(&path).unwrap();
        chown(&path, Some(65_534), None).unwrap();
        let (problem, text) = refusal(&path);
        assert!(matches!(problem, FileProblem::Owner { uid: 65_534 }));
        assert!(text.contains("chown root"), "{text}");
    }

    #[test]
    fn a_link_a_directory_and_a_pipe_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        keys().store(&path).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(refusal(&link).0, FileProblem::Symlink));
        assert!(matches!(refusal(dir.path()).0, FileProblem::NotRegular));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(refusal(&pipe).0, FileProblem::NotRegular));
        assert!(matches!(refusal(&dir.path().join("absent")).0, FileProblem::Io { .. }));
    }

    #[test]
    fn size_and_encoding_have_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-1.toml");
        keys().store(&path).unwrap();
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(refusal(&path).0, FileProblem::NotText));
        fs::write(&path, "snid = ").unwrap();
        assert!(matches!(refusal(&path).0, FileProblem::Content(_)));
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(LEN_MAX + 1).unwrap();
        assert!(matches!(refusal(&path).0, FileProblem::TooLarge { len: 1_048_577, .. }));
    }
}
