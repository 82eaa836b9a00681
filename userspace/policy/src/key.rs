//! Public keys in documents and on command lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The y coordinates of points of low order: somebody without any private key can sign for these.
///
/// Little endian without the bit of x's sign; the last two are 0 and 1 written as p and p + 1. They are
/// the multiples of curve points by the order of the base point.
const WEAK: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// It has another form.
    #[error(
        "an Ed25519 public key is 64 hexadecimal digits, or 44 characters of base64, as labelctl binary keygen prints it"
    )]
    Form,
    /// It is a point that everybody can sign for.
    #[error("this key is weak: anybody can sign for it")]
    Weak,
}

/// An Ed25519 public key, from hexadecimal digits or base64.
///
/// # Errors
/// [`PublicKeyError`].
pub fn public_key(text: &str) -> Result<[u8; 32], PublicKeyError> {
    let key = bytes(text).ok_or(PublicKeyError::Form)?;
    let mut point = key;
    if let Some(last) = point.last_mut() {
        *last &= 0x7f;
    }
    if WEAK.contains(&hex::encode(point).as_str()) { Err(PublicKeyError::Weak) } else { Ok(key) }
}

/// 32 bytes, from hexadecimal digits or base64.
pub(crate) fn bytes(text: &str) -> Option<[u8; 32]> {
    let decoded = match text.len() {
        64 => hex::decode(text).ok(),
        44 => STANDARD.decode(text).ok(),
        _ => None,
    };
    decoded?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_key_and_weak_ones_are_none() {
        let hex = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = public_key(hex).unwrap();
        assert_eq!(public_key("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="), Ok(key));
        assert_eq!(public_key(&hex.to_uppercase()), Ok(key));
        for other in ["", &hex[1..], &format!("{hex}0"), &hex.replace('d', "g"), "é"] {
            assert_eq!(public_key(other), Err(PublicKeyError::Form));
        }
        for weak in WEAK {
            assert_eq!(public_key(weak), Err(PublicKeyError::Weak));
            let mut negative = hex::decode(weak).unwrap();
            negative[31] |= 0x80;
            assert_eq!(public_key(&hex::encode(negative)), Err(PublicKeyError::Weak));
        }
    }
}
