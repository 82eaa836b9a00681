//! Who holds a certificate: its SPIFFE id, the only subject alternative name that counts.

use std::fmt;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Bytes of a cluster's name at most.
pub const CLUSTER_MAX: usize = 63;

/// Whose a certificate is, within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A node, by its SnID.
    Node(u32),
    /// An administrator, by name.
    Admin(String),
    /// A Security Server.
    Server,
}

/// `spiffe://CLUSTER/node/SNID`, `…/admin/NAME` or `…/server`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// Who in it.
    pub role: Role,
}

/// A certificate or a name that is none of Sigil's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// No certificate at all.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// Not exactly one SPIFFE id, or a malformed one.
    #[error("the certificate does not name exactly one member of a cluster")]
    NoMember,
}

/// Whether a cluster's name may be part of a SPIFFE id.
#[must_use]
pub fn is_cluster(name: &str) -> bool {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= CLUSTER_MAX && name.bytes().all(plain)
}

impl Identity {
    /// Reads the SPIFFE id's text.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let (cluster, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let role = match path.split_once('/') {
            None if path == "server" => Role::Server,
            Some(("node", snid)) => {
                let number: u32 = snid.parse().ok().filter(|snid| *snid != 0)?;
                // One spelling alone: neither +1 nor 01.
                if number.to_string() != snid {
                    return None;
                }
                Role::Node(number)
            }
            Some(("admin", name)) if is_cluster(name) => Role::Admin(name.to_owned()),
            _ => return None,
        };
        is_cluster(cluster).then(|| Self { cluster: cluster.to_owned(), role })
    }

    /// Reads it from a certificate whose chain was verified.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NoMember)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        match (uris.next().and_then(Self::parse), uris.next()) {
            (Some(identity), None) => Ok(identity),
            _ => Err(IdentityError::NoMember),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/", self.cluster)?;
        match &self.role {
            Role::Node(snid) => write!(f, "node/{snid}"),
            Role::Admin(name) => write!(f, "admin/{name}"),
            Role::Server => f.write_str("server"),
        }
    }
}

/// From when until when a certificate is valid, in seconds since 1970.
///
/// # Errors
/// [`IdentityError::Unreadable`].
pub fn validity(der: &[u8]) -> Result<(i64, i64), IdentityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_read_as_written_and_in_no_other_spelling() {
        for role in [Role::Node(1), Role::Node(u32::MAX), Role::Admin("ops".into()), Role::Server] {
            let identity = Identity { cluster: "lab".into(), role };
            assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        }
        for bad in [
            "spiffe://lab/node/0",
            "spiffe://lab/node/01",
            "spiffe://lab/node/+1",
            "spiffe://lab/node/4294967296",
            "spiffe://lab/node/1/",
            "spiffe://lab/node/",
            "spiffe://lab/server/",
            "spiffe://Lab/server",
            "spiffe:///server",
            "https://lab/server",
            "spiffe://lab/admin/",
            "spiffe://lab/admin/a/b",
            "spiffe://lab",
        ] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_refused(der in proptest::collection::vec(any::<u8>(), 0..512), uri: String) {
            let _ = Identity::of_certificate(&der);
            let _ = Identity::parse(&uri);
        }
    }
}
