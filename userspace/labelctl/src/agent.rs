//! The commands that talk to the node's agent, and how they do.

pub(crate) mod load;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod watch;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sigil_control::{Failure, Lines, MAX_REPLY, MAX_REQUEST, Reply, Request, decode, encode};

/// How long an answer may take; a large policy takes a while to load.
const PATIENCE: Duration = Duration::from_mins(1);

/// A connection with a request on its way.
struct Asked {
    stream: UnixStream,
    lines: Lines,
}

impl Asked {
    fn new(socket: &Path, request: &Request) -> Result<Self> {
        let mut stream = connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        // An agent that will not hear all of it says why, and hangs up.
        match stream.write_all(&encode(request, MAX_REQUEST)?) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("the agent takes no request")
            }
            _ => Ok(Self { stream, lines: Lines::new(MAX_REPLY) }),
        }
    }

    /// From now on, replies may come at any time.
    fn wait_for_ever(&self) -> Result<()> {
        Ok(self.stream.set_read_timeout(None)?)
    }

    /// The next reply; nothing when the agent has hung up.
    fn next(&mut self) -> Result<Option<Reply>> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(line) = self.lines.next()? {
                return Ok(Some(decode(&line)?));
            }
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("the agent does not answer: look at its log")
                }
                Err(error) => return Err(error).context("the agent's answer"),
            };
            self.lines.push(buffer.get(..length).unwrap_or_default());
        }
    }

    fn reply(&mut self) -> Result<Reply> {
        self.next()?.context("the agent hung up without an answer: look at its log")
    }
}

/// Asks once.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    Asked::new(socket, request)?.reply()
}

fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).map_err(|error| {
        let at = socket.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                anyhow!("no agent serves {at}: start sigild, or name its socket with --socket")
            }
            ErrorKind::PermissionDenied => {
                anyhow!("this user may not use {at}: ask as root (for `labelctl run`, a [[run]] in sigild.toml will do)")
            }
            _ => anyhow!(error).context(format!("cannot reach the agent at {at}")),
        }
    })
}

/// An answer to another question: the agent's failure, or nonsense.
fn unexpected(reply: Reply) -> anyhow::Error {
    match reply {
        Reply::Failed(Failure { message, .. }) => anyhow!(message),
        _ => anyhow!("the agent gave the answer to another question: this is a bug"),
    }
}
