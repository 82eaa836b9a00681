//! One-time enrolment tokens: a secret, and the fingerprint of the CA that the holder may trust
//! with it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const PREFIX: &str = "sigil1-";
const SECRET_LEN: usize = 32;
const FINGERPRINT_LEN: usize = 32;

/// A token. Its Debug says nothing of the secret.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Token {
    secret: [u8; SECRET_LEN],
    fingerprint: [u8; FINGERPRINT_LEN],
}

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no token: paste what `labelctl node enroll` printed, whole")]
pub struct NoToken;

impl Token {
    /// A token of this secret, for the cluster with this CA certificate (DER).
    #[must_use]
    pub fn new(secret: [u8; SECRET_LEN], ca: &[u8]) -> Self {
        Self { secret, fingerprint: fingerprint(ca) }
    }

    /// What the server is shown.
    #[must_use]
    pub const fn secret(&self) -> &[u8; SECRET_LEN] {
        &self.secret
    }

    /// Whether a certificate is the CA's that the token was made under.
    #[must_use]
    pub fn names(&self, ca: &[u8]) -> bool {
        self.fingerprint == fingerprint(ca)
    }

    /// The text that is handed to the node.
    #[must_use]
    pub fn emit(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([self.secret, self.fingerprint].concat());
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NoToken)?);
        let (secret, rest) = bytes.split_first_chunk().ok_or(NoToken)?;
        let (fingerprint, rest) = rest.split_first_chunk().ok_or(NoToken)?;
        if rest.is_empty() {
            Ok(Self { secret: *secret, fingerprint: *fingerprint })
        } else {
            Err(NoToken)
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// SHA-256 of a certificate.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> [u8; FINGERPRINT_LEN] {
    let mut fingerprint = [0; FINGERPRINT_LEN];
    for (to, from) in fingerprint.iter_mut().zip(digest(&SHA256, certificate).as_ref()) {
        *to = *from;
    }
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_survives_its_text_and_names_one_ca() {
        let token = Token::new([7; 32], b"ca");
        let read: Token = token.emit().parse().unwrap();
        assert_eq!(read, token);
        assert!(read.names(b"ca") && !read.names(b"another"));
        assert_eq!(format!("{read:?}"), "Token([redacted])");
    }

    #[test]
    fn a_part_of_a_token_is_none() {
        let text = Token::new([7; 32], b"ca").emit();
        for length in 0..text.len() {
            assert_eq!(text[..length].parse::<Token>(), Err(NoToken));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Token>();
            let _ = format!("{PREFIX}{text}").parse::<Token>();
        }
    }
}
