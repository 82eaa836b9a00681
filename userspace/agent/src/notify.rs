//! Telling systemd how far the agent is: `sd_notify(3)`.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager's socket, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notify(Option<UnixDatagram>);

impl Notify {
    pub(crate) fn from_env() -> Self {
        Self(env::var("NOTIFY_SOCKET").ok().and_then(|name| connect(&name).ok()))
    }

    /// Sends lines such as `READY=1`. That nobody listens is no failure.
    pub(crate) fn send(&self, lines: &str) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(lines.as_bytes());
        }
    }
}

fn connect(name: &str) -> std::io::Result<UnixDatagram> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let name = format!("sigil-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let nameless = UnixDatagram::bind_addr(&address).unwrap();
        for (manager, name) in [(named, path.display().to_string()), (nameless, format!("@{name}"))]
        {
            Notify(connect(&name).ok()).send("READY=1");
            let mut received = [0; 16];
            let length = manager.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1");
        }
    }
}
