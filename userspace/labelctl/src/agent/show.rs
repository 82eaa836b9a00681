//! The policy in force on this node, for `labelctl policy explain`.

use std::path::Path;

use anyhow::Result;
use sigil_control::{InForce, Reply, Request};

use super::{ask, unexpected};
use crate::policy::Document;

/// The agent's document, and the one node that it is about if it is but that node's part of the policy.
pub(crate) fn in_force(socket: &Path) -> Result<(Document, Option<u32>)> {
    match ask(socket, &Request::Show)? {
        Reply::InForce(InForce { name, document, part_of }) => {
            Ok((Document { name, bytes: document.into_bytes() }, part_of))
        }
        other => Err(unexpected(other)),
    }
}
