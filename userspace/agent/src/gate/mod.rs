//! The exec gate: no program of the guarded file systems runs before its file was judged.
//!
//! The kernel asks (`FAN_OPEN_EXEC_PERM`) and waits. What was found out about the file goes into the
//! kernel's maps *before* the answer, so that the exec commits with the right label. Whatever the gate
//! was not asked about, or answered wrongly, the kernel's own program decides again when the exec
//! commits, and kills what must not run: the gate makes labels known and errors readable; it is not
//! what keeps the rules.
//!
//! A file that only root can change, and that nobody is refused, is asked for once: the kernel then
//! remembers by itself until the file is written.

mod chain;
mod file;
mod libraries;
mod rules;
mod vouchers;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Error, Result};
use nix::errno::Errno;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags,
    Response,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::ClockId;
use sigil_binary::{Evicted, Judgement, Unsigned, Verdicts};
use sigil_common::abi::binary::BinaryKey;
use sigil_common::abi::event::Doom;
use sigil_common::abi::process::{Binary, Task, binary_flag};
use sigil_datapath::{Execs, Tasks};
use tokio::sync::{oneshot, watch};

use crate::feed::Teller;
use crate::report;

pub(crate) use rules::ExecRules;

use chain::{Asked, Chains, Role, Tell};
use file::{Facts, interpreter_names, tgid_of};
use libraries::Libraries;
use vouchers::{Vouchers, nanoseconds};

/// Files that are remembered; fits the kernel's map.
const FILES: usize = 32_768;
/// How long somebody who wants to write a file that is held may have to wait for it.
const SWEEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The gate, before it answers.
pub(crate) struct Gate {
    group: Option<Fanotify>,
    execs: Execs,
    verdicts: Verdicts,
    vouchers: Vouchers,
    tasks: Arc<Tasks>,
    rules: watch::Receiver<Arc<ExecRules>>,
    chains: Chains,
    /// Names of interpreters of labelled programs: their files are asked for every time.
    interpreters: BTreeSet<String>,
    /// What the kernel's map did not let go of yet: until it does, these files stay as they are.
    stuck: Vec<Evicted>,
    libraries: Libraries,
    /// None before it answers.
    teller: Option<Teller>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    pub(crate) fn new(
        execs: Execs,
        tasks: Arc<Tasks>,
        rules: watch::Receiver<Arc<ExecRules>>,
        libraries: &[PathBuf],
    ) -> Result<Self> {
        let trust = rules.borrow().trust.clone();
        Ok(Self {
            group: None,
            vouchers: Vouchers::of(&execs)?,
            execs,
            verdicts: Verdicts::new(trust, FILES),
            tasks,
            rules,
            chains: Chains::default(),
            interpreters: BTreeSet::new(),
            stuck: Vec::new(),
            libraries: Libraries::new(libraries),
            teller: None,
        })
    }

    /// What processes older than enforcement get for their programs.
    pub(crate) fn label_of_running(&mut self, program: &File) -> Task {
        let binary = self.judge(program).map_or_else(Binary::default, |(_, binary)| binary);
        // As if somebody without a zone had just started it.
        let rules = self.rules.borrow();
        // Nobody saw what it has mapped since: where that matters it is not let in.
        let may = |scid: &u32| !rules.demands_signed_code(*scid);
        let scid = rules.exec(0, binary.scid).ok().filter(may).unwrap_or(0);
        Task::vouched(scid, if scid == 0 { 0 } else { binary.voucher })
    }

    /// Guards the file systems of these directories. From now on their execs wait for [`Gate::start`].
    pub(crate) fn guard(&mut self, directories: &[PathBuf]) -> Result<()> {
        let group = Fanotify::init(
            InitFlags::FAN_CLASS_CONTENT
                | InitFlags::FAN_CLOEXEC
                | InitFlags::FAN_NONBLOCK
                | InitFlags::FAN_UNLIMITED_QUEUE
                | InitFlags::FAN_UNLIMITED_MARKS
                | InitFlags::FAN_REPORT_TID,
            EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE,
        )
        .context("the kernel has no fanotify with permission events: empty `guard_exec`")?;
        for directory in directories {
            let at = File::open(directory).with_context(|| directory.display().to_string())?;
            let path: Option<&Path> = None;
            group
                .mark(
                    MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM,
                    MaskFlags::FAN_OPEN_EXEC_PERM,
                    &at,
                    path,
                )
                .with_context(|| format!("cannot guard execs in {}", directory.display()))?;
        }
        self.group = Some(group);
        Ok(())
    }

    /// Answers on a thread of its own, as long as the agent lives. Should that fail, the error comes out
    /// of the receiver, and the gate stands open. None where nothing is guarded: then the labels of
    /// processes are still taken back.
    pub(crate) fn start(mut self, teller: Teller) -> Result<Option<oneshot::Receiver<Error>>> {
        // What an agent before this one found out, it may have found out by other rules.
        self.execs.forget_all()?;
        self.teller = Some(teller);
        self.end_revoked();
        let Some(group) = self.group.take() else {
            tokio::spawn(async move {
                while self.rules.changed().await.is_ok() {
                    self.end_revoked();
                }
            });
            return Ok(None);
        };
        let (failure, failed) = oneshot::channel();
        let run = move || {
            if let Err(error) = self.run(&group) {
                let _ = failure.send(error);
            }
        };
        thread::Builder::new()
            .name("gate".to_owned())
            .spawn(run)
            .context("cannot start a thread")?;
        Ok(Some(failed))
    }

    fn run(&mut self, group: &Fanotify) -> Result<()> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.execs.guard(thread.unsigned_abs())?;
        self.libraries.demand(self.rules.borrow().needs_libraries());
        loop {
            let changes = self.libraries.changes();
            let polled = [Some(group.as_fd()), changes].into_iter().flatten();
            let mut polled: Vec<_> =
                polled.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut polled, Some(&SWEEP)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("the exec gate"),
            }
            // Until they are dropped, nobody can write these files: first the kernel forgets them.
            let mut evicted = self.verdicts.sweep();
            evicted.append(&mut self.stuck);
            let keys: Vec<_> = evicted.iter().map(|one| one.key).collect();
            self.forget(group, &keys)?;
            drop(evicted);
            if self.rules.has_changed().unwrap_or(false) {
                let trust = self.rules.borrow_and_update().trust.clone();
                // Whoever waits to write such a file goes on once nothing is derived from it.
                let _evicted = self.verdicts.replace(trust);
                self.flush(group)?;
                self.end_revoked();
                self.libraries.demand(self.rules.borrow().needs_libraries());
            }
            self.libraries.again();
            self.libraries.changed();
            self.judge_libraries()?;
            match group.read_events() {
                Ok(events) => {
                    for event in events {
                        self.event(group, &event)?;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // A file that cannot be opened for us: the kernel refuses its exec.
                Err(error) => tracing::warn!("an exec could not be judged: {error}"),
            }
        }
    }

    /// Judges the files that may be libraries. Who wants to execute a program waits meanwhile: it could
    /// not start without them.
    fn judge_libraries(&mut self) -> Result<()> {
        while let Some((file, turn)) = self.libraries.next() {
            let (judged, busy) = self.judge_now(&file);
            if busy {
                self.libraries.later(turn);
            }
            if let Some((key, binary)) = judged.filter(|(_, of)| of.flags & binary_flag::CODE != 0)
                && !self.execs.remember(key, binary)?
            {
                tracing::error!("no room for all libraries: some count as unsigned");
            }
        }
        Ok(())
    }

    fn event(&mut self, group: &Fanotify, event: &FanotifyEvent) -> Result<()> {
        let Some(fd) = event.fd() else { return Ok(()) };
        let thread = event.pid().unsigned_abs();
        if !event.mask().contains(MaskFlags::FAN_OPEN_EXEC_PERM) {
            return self.closed(group, fd, thread);
        }
        // Nothing that goes wrong here may leave the caller waiting.
        let answer = self.asked(group, fd, thread);
        let response = match answer {
            Ok(true) => Response::FAN_ALLOW,
            Ok(false) | Err(_) => Response::FAN_DENY,
        };
        group.write_response(FanotifyResponse::new(fd, response)).context("the exec gate")?;
        answer.map(drop)
    }

    /// May a thread execute this file, as far as the gate can tell?
    fn asked(&mut self, group: &Fanotify, fd: BorrowedFd<'_>, thread: u32) -> Result<bool> {
        let file = File::from(fd.try_clone_to_owned()?);
        let facts = Facts::of(&file);
        let judged = self.judge(&file);
        let key = judged.map(|(key, _)| key);
        let binary = judged.map_or_else(Binary::default, |(_, binary)| binary);
        if let Some((key, binary)) = judged.filter(|(_, of)| *of != Binary::default())
            && !self.execs.remember(key, binary)?
        {
            self.flush(group)?;
            self.execs.remember(key, binary)?;
        }
        let interpreter = binary.flags & binary_flag::INTERPRETER != 0;
        let asked = Asked { key, native: facts.native, interpreter };
        let (role, tell) = self.chains.asked(thread, &asked);
        match tell {
            Tell::Same => {}
            Tell::Nothing => self.execs.set_chain(thread, None)?,
            Tell::Chain(chain) => self.execs.set_chain(thread, Some(chain))?,
        }
        if role == Role::Interpreter {
            return Ok(true);
        }
        if !facts.native {
            let names = if binary.scid == 0 { Vec::new() } else { interpreter_names(&file) };
            let known = self.interpreters.len();
            self.interpreters.extend(names);
            if self.interpreters.len() != known {
                self.forget_marks(group)?;
                // But this exec goes on.
                self.chains.asked(thread, &asked);
            }
            // To learn of the end of its exec.
            mark(group, MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_CLOSE, fd)?;
        }
        if self.rules.borrow().anybody_may(binary.scid) {
            if facts.native && facts.roots_alone && key.is_some() && !self.interprets(&file) {
                let ignore = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_IGNORED_MASK;
                mark(group, ignore, MaskFlags::FAN_OPEN_EXEC_PERM, fd)?;
            }
            return Ok(true);
        }
        // It may be the loader of a program: the kernel decides when the exec commits.
        if facts.loader {
            return Ok(true);
        }
        let task = tgid_of(thread).map_or(Task::default(), |tgid| self.tasks.of(tgid));
        Ok(!task.is_doomed() && self.rules.borrow().exec(task.scid(), binary.scid).is_ok())
    }

    /// A thread closed a file that is a script, or was one.
    fn closed(&mut self, group: &Fanotify, fd: BorrowedFd<'_>, thread: u32) -> Result<()> {
        let key = File::from(fd.try_clone_to_owned()?);
        let key = file::key_of(&key);
        if let Some(unasked) = self.chains.closed(thread, key) {
            self.execs.set_chain(thread, None)?;
            if unasked {
                // Its interpreter is one that is not asked for any more, or there was none.
                self.forget_marks(group)?;
            }
        }
        Ok(())
    }

    /// What a file is, and which state of it that is true of.
    fn judge(&mut self, file: &File) -> Option<(BinaryKey, Binary)> {
        self.judge_now(file).0
    }

    /// The same, and whether it is unsigned only because somebody may be writing to it.
    fn judge_now(&mut self, file: &File) -> (Option<(BinaryKey, Binary)>, bool) {
        let Judgement { key, verdict, evicted, .. } = self.verdicts.judge(file);
        // What is not known is unsigned. The others are tried again with the next sweep.
        let held = evicted.into_iter().filter(|one| self.execs.forget(&one.key).is_err());
        self.stuck.extend(held);
        let signed = verdict.as_ref().ok().and_then(|verified| {
            let voucher = self.vouchers.number(&mut self.execs, &self.tasks, verified)?;
            Some((verified.scid, voucher))
        });
        let (scid, voucher) = signed.unwrap_or_default();
        let roots_alone = Facts::of(file).roots_alone;
        let mut flags = 0;
        if verdict.is_ok() || roots_alone {
            flags |= binary_flag::INTERPRETER;
        }
        // What is mapped changes with its file: a program that runs cannot be written, a library can.
        if scid != 0 && roots_alone {
            flags |= binary_flag::CODE;
        }
        let busy = matches!(verdict, Err(Unsigned::Busy | Unsigned::Changed));
        (key.map(|key| (key, Binary { scid, flags, voucher })), busy)
    }

    /// Ends the processes whose labels come from signatures that are revoked.
    fn end_revoked(&self) {
        let tell = |doom: &Doom, comm: &str, scid| {
            let Some(teller) = &self.teller else { return };
            let now = nanoseconds(ClockId::Monotonic);
            let event = report::revoked(now, doom.pid, comm, scid, &teller.names.borrow());
            if let Err(error) = teller.tell(event) {
                tracing::error!("{error:#}");
            }
        };
        self.vouchers.end_revoked(&self.rules.borrow().trust, &self.tasks, tell);
    }

    fn forget(&mut self, group: &Fanotify, keys: &[BinaryKey]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        for key in keys {
            self.execs.forget(key)?;
        }
        self.forget_marks(group)
    }

    /// Everything is asked for again.
    fn flush(&mut self, group: &Fanotify) -> Result<()> {
        self.execs.forget_all()?;
        self.libraries.all();
        self.forget_marks(group)
    }

    /// Takes the marks off single files, and with them the knowledge of execs under way.
    fn forget_marks(&mut self, group: &Fanotify) -> Result<()> {
        for thread in self.chains.clear() {
            self.execs.set_chain(thread, None)?;
        }
        let here = File::open("/").context("/")?;
        mark(group, MarkFlags::FAN_MARK_FLUSH, MaskFlags::empty(), here.as_fd())
    }

    fn interprets(&self, file: &File) -> bool {
        !self.interpreters.is_empty()
            && file::name_of(file).is_some_and(|name| self.interpreters.contains(&name))
    }
}

/// Marks a single file. The mark goes with the inode, should the kernel need its memory.
fn mark(group: &Fanotify, how: MarkFlags, what: MaskFlags, fd: BorrowedFd<'_>) -> Result<()> {
    let none: Option<&Path> = None;
    let how =
        if how == MarkFlags::FAN_MARK_FLUSH { how } else { how | MarkFlags::FAN_MARK_EVICTABLE };
    group.mark(how, what, fd, none).context("a mark of the exec gate")
}
