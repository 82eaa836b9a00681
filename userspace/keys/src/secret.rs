//! The secrets, and the derivation of one from the other.

use std::fmt;

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use sigil_common::icv::{KEY_LEN, MacKey, Suite};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::RandomError;

/// Separates this use of an epoch's secret from any other.
const SALT: &[u8] = b"sigil pair key v1";

/// What all pair keys of one epoch are derived from. It stays with the one who generates them.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct EpochSecret([u8; KEY_LEN]);

impl EpochSecret {
    /// A secret of the caller's.
    #[must_use]
    pub const fn new(secret: [u8; KEY_LEN]) -> Self {
        Self(secret)
    }

    /// A fresh secret from `random`; see [`system_random`].
    ///
    /// # Errors
    /// What `random` returns.
    pub fn draw(
        mut random: impl FnMut(&mut [u8]) -> Result<(), RandomError>,
    ) -> Result<Self, RandomError> {
        let mut secret = Self([0; KEY_LEN]);
        random(&mut secret.0)?;
        Ok(secret)
    }

    /// K(source→target) of the epoch with this key id: HKDF-SHA-256 (RFC 5869), of which 32 bytes
    /// need one round.
    #[must_use]
    pub fn derive(&self, cluster: &str, source: u32, target: u32, key_id: u8) -> PairKey {
        let extract = hmac::Key::new(hmac::HMAC_SHA256, SALT);
        let pseudorandom = hmac::sign(&extract, &self.0);
        let expand = hmac::Key::new(hmac::HMAC_SHA256, pseudorandom.as_ref());
        let mut context = hmac::Context::with_key(&expand);
        context.update(&info(cluster, source, target, key_id));
        context.update(&[1]);
        let mut key = PairKey([0; KEY_LEN]);
        for (to, byte) in key.0.iter_mut().zip(context.sign().as_ref()) {
            *to = *byte;
        }
        key
    }
}

/// The pair, so encoded that no two pairs, clusters or epochs share an encoding: the only part of
/// variable length comes with it.
pub(crate) fn info(cluster: &str, source: u32, target: u32, key_id: u8) -> Vec<u8> {
    let mut info = Vec::with_capacity(cluster.len() + 17);
    info.extend((cluster.len() as u64).to_be_bytes());
    info.extend(cluster.as_bytes());
    info.extend(source.to_be_bytes());
    info.extend(target.to_be_bytes());
    info.push(key_id);
    info
}

impl fmt::Debug for EpochSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EpochSecret([redacted])")
    }
}

/// The key for packets from one node to another in one epoch.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PairKey([u8; KEY_LEN]);

impl PairKey {
    /// A key of the caller's.
    #[must_use]
    pub const fn new(key: [u8; KEY_LEN]) -> Self {
        Self(key)
    }

    /// The key itself.
    #[must_use]
    pub const fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key in the form in which the kernel uses it, which is as secret.
    #[must_use]
    pub fn prepare(&self, suite: Suite) -> MacKey {
        MacKey::prepare(suite, &self.0)
    }

    /// Reads 64 hexadecimal digits, with no copy of them on the way.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut key = Self([0; KEY_LEN]);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != KEY_LEN || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in key.0.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(key)
    }

    /// Appends 64 hexadecimal digits.
    pub(crate) fn push_hex(&self, text: &mut String) {
        for byte in &self.0 {
            for digit in [byte >> 4, byte & 0xf] {
                text.extend(char::from_digit(u32::from(digit), 16));
            }
        }
    }
}

fn digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKey([redacted])")
    }
}

/// The system's random number generator, for [`EpochSecret::draw`] and [`crate::generate`].
///
/// # Errors
/// If the system has no randomness to give.
pub fn system_random(bytes: &mut [u8]) -> Result<(), RandomError> {
    SystemRandom::new().fill(bytes).map_err(|_| RandomError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ring::hkdf;

    struct KeyLen;

    impl hkdf::KeyType for KeyLen {
        fn len(&self) -> usize {
            KEY_LEN
        }
    }

    proptest! {
        #[test]
        fn derivation_is_hkdf(secret: [u8; 32], cluster in "[a-z0-9.-]{1,64}", source: u32, target: u32, key_id: u8) {
            let ours = EpochSecret::new(secret).derive(&cluster, source, target, key_id);
            let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(&secret);
            let info = info(&cluster, source, target, key_id);
            let mut expected = [0; 32];
            extracted.expand(&[&info], KeyLen).unwrap().fill(&mut expected).unwrap();
            prop_assert_eq!(ours.expose(), &expected);
        }

        #[test]
        fn hex_is_read_as_written(key: [u8; 32]) {
            let mut text = String::new();
            PairKey::new(key).push_hex(&mut text);
            prop_assert_eq!(text.len(), 64);
            for text in [text.to_uppercase(), text] {
                let read = PairKey::from_hex(&text).unwrap();
                prop_assert_eq!(read.expose(), &key);
            }
        }
    }

    #[test]
    fn direction_epoch_and_cluster_matter() {
        let secret = EpochSecret::new([7; 32]);
        let keys = [
            secret.derive("lab", 1, 2, 3),
            secret.derive("lab", 2, 1, 3),
            secret.derive("lab", 1, 2, 4),
            secret.derive("lab2", 1, 2, 3),
            EpochSecret::new([8; 32]).derive("lab", 1, 2, 3),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(keys.iter().skip(at + 1).all(|other| other.expose() != key.expose()));
        }
    }

    #[test]
    fn no_secret_is_printed() {
        assert_eq!(format!("{:?}", PairKey::new([1; 32])), "PairKey([redacted])");
        assert_eq!(format!("{:?}", EpochSecret::new([1; 32])), "EpochSecret([redacted])");
    }

    #[test]
    fn bad_hex_is_no_key() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)]
        {
            assert!(PairKey::from_hex(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_system_gives_different_bytes() {
        let mut drawn = [[0; 32]; 2];
        for bytes in &mut drawn {
            system_random(bytes).unwrap();
        }
        assert_ne!(drawn[0], drawn[1]);
    }
}
