//! Files that are code without being executed: the kernel asks nobody when a library is mapped, so what
//! the configured directories hold is judged beforehand, and whenever it changes.
//!
//! What was not judged is unsigned: it is refused, never the other way round.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// Files that wait, at most; more are found by looking at everything again.
const QUEUE: usize = 65_536;
/// Whoever wrote a file may hold it for a moment after it said that it is written.
const TRIES: u8 = 20;

/// The directories' files, as far as they are to be judged.
#[derive(Debug)]
pub(super) struct Libraries {
    directories: Vec<PathBuf>,
    /// None where nobody demands signed code.
    watch: Option<OwnedFd>,
    watched: HashMap<i32, PathBuf>,
    queue: VecDeque<(PathBuf, u8)>,
    /// In use when it was their turn.
    busy: Vec<(PathBuf, u8)>,
}

impl Libraries {
    pub(super) fn new(directories: &[PathBuf]) -> Self {
        // Some are links to others.
        let real: BTreeSet<_> =
            directories.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        Self {
            directories: real.into_iter().collect(),
            watch: None,
            watched: HashMap::new(),
            queue: VecDeque::new(),
            busy: Vec::new(),
        }
    }

    /// Begins, or ends, to look after the directories. All files are judged anew.
    pub(super) fn demand(&mut self, wanted: bool) {
        (self.watch, self.watched) = (None, HashMap::new());
        self.queue.clear();
        self.busy.clear();
        if wanted {
            if let Err(error) = self.begin() {
                tracing::error!(
                    "changes of libraries are not seen, and count as unsigned: {error}"
                );
            }
            self.all();
        }
    }

    fn begin(&mut self) -> Result<(), Errno> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for directory in &self.directories {
            let number = inotify::add_watch(&watch, directory, changes)?;
            self.watched.insert(number, directory.clone());
        }
        self.watch = Some(watch);
        Ok(())
    }

    /// Every file is to be judged.
    pub(super) fn all(&mut self) {
        if self.watch.is_none() {
            return;
        }
        self.queue.clear();
        self.busy.clear();
        let entries = self.directories.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
        let files = entries.flatten().filter(|of| of.file_type().is_ok_and(|kind| kind.is_file()));
        self.queue.extend(files.take(QUEUE).map(|of| (of.path(), TRIES)));
    }

    /// What to wait for, beside everything else.
    pub(super) fn changes(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Takes note of what changed.
    pub(super) fn changed(&mut self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(watch, &mut buffer);
        let mut lost = false;
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => lost = true,
                Ok(event) => {
                    let directory = self.watched.get(&event.wd());
                    let name = event
                        .file_name()
                        .map(|name| Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
                    if let (Some(directory), Some(name)) = (directory, name) {
                        self.queue.push_back((directory.join(name), TRIES));
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if lost || self.queue.len() > QUEUE {
            self.all();
        }
    }

    /// The next file to judge, and its turn.
    pub(super) fn next(&mut self) -> Option<(File, Turn)> {
        while let Some((path, left)) = self.queue.pop_front() {
            // What it is now, if it is still there: no link elsewhere, and no pipe to wait for.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(file) = open(&path, flags, Mode::empty()) {
                return Some((file.into(), Turn { path, left }));
            }
        }
        None
    }

    /// Somebody was writing to the file: it is tried again later.
    pub(super) fn later(&mut self, turn: Turn) {
        if let Some(left) = turn.left.checked_sub(1) {
            self.busy.push((turn.path, left));
        }
    }

    /// Some time has passed.
    pub(super) fn again(&mut self) {
        self.queue.extend(self.busy.drain(..));
    }
}

/// A file that is judged.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    left: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(libraries: &mut Libraries) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((_, turn)) = libraries.next() {
            names.push(turn.path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn files_of_the_directory_itself_are_judged_at_first_and_when_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("old"), "").unwrap();
        fs::create_dir(at("below")).unwrap();
        fs::write(at("below/other"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let twice = [directory.path().to_owned(), at("below/..")];
        let mut libraries = Libraries::new(&twice);
        libraries.all();
        assert!(libraries.next().is_none(), "nobody demands it");
        libraries.demand(true);
        assert_eq!(names(&mut libraries), ["old"]);
        fs::write(at("new"), "x").unwrap();
        fs::rename(at("below/other"), at("moved")).unwrap();
        fs::set_permissions(at("old"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        libraries.changed();
        assert_eq!(names(&mut libraries), ["moved", "new", "old"]);
        libraries.changed();
        assert!(names(&mut libraries).is_empty());
        libraries.demand(false);
        libraries.all();
        assert!(libraries.next().is_none() && libraries.changes().is_none());
    }

    #[test]
    fn a_file_in_use_is_tried_again_and_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("busy"), "").unwrap();
        let mut libraries = Libraries::new(&[directory.path().to_owned()]);
        libraries.demand(true);
        let mut tries = 0;
        while let Some((_, turn)) = libraries.next() {
            tries += 1;
            libraries.later(turn);
            assert!(libraries.next().is_none(), "not at once");
            libraries.again();
        }
        assert_eq!(tries, usize::from(TRIES) + 1);
    }
}
