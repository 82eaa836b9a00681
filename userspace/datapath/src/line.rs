//! The agent's own sockets: what makes one the line to a server.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

use aya::maps::{Map, MapData, MapError, SkStorage};
use sigil_common::abi::{name, socket::SocketState, socket::socket_flag};

use crate::error::Error;
use crate::load::Datapath;

/// Marks sockets as the agent's line to a server.
pub struct Marker(Mutex<SkStorage<MapData, SocketState>>);

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Marker")
    }
}

impl Datapath {
    /// What marks sockets. Whoever has it can mark any socket that it has.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn marker(&self) -> Result<Marker, Error> {
        let failed = Error::map(name::SOCKETS);
        let pin = self.options.pins.join("maps").join(name::SOCKETS);
        let map = MapData::from_pin(pin).and_then(|data| SkStorage::try_from(Map::SkStorage(data)));
        Ok(Marker(Mutex::new(map.map_err(failed)?)))
    }
}

impl Marker {
    /// Marks a socket; to be done before it connects.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn mark(&self, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = match map.get(&socket, 0) {
            Ok(state) => state,
            Err(MapError::KeyNotFound) => SocketState::default(),
            Err(error) => return Err(Error::map(name::SOCKETS)(error)),
        };
        state.flags |= socket_flag::CONTROL;
        map.insert(&socket, state, 0).map_err(Error::map(name::SOCKETS))
    }
}
