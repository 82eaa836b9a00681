//! Judging a file.

use std::fs::File;

use ring::signature::{ED25519, UnparsedPublicKey};

use crate::place::{self, Place};
use crate::record::{Form, KeyId, Record, SignatureId};
use crate::trust::{Signer, Trust};
use crate::unsigned::Unsigned;
use crate::{digest, sys};

/// What somebody trusted says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The file's ScID.
    pub scid: u32,
    /// The signer's number of this release.
    pub serial: u64,
    /// Whose signature it is.
    pub key: KeyId,
    /// Which signature it is.
    pub signature: SignatureId,
}

/// A label and where it is; whether it is true is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub place: Place,
    /// What it says.
    pub record: Record,
}

/// The label that a file holds, believed or not.
///
/// # Errors
/// [`Unsigned::NoLabel`], [`Unsigned::TwoLabels`], [`Unsigned::Malformed`], [`Unsigned::NotRegular`] or
/// [`Unsigned::Unreadable`].
pub fn find(file: &File) -> Result<Found, Unsigned> {
    if !file.metadata()?.is_file() {
        return Err(Unsigned::NotRegular);
    }
    let (place, bytes) = place::find(file)?;
    let record = Record::parse(&bytes).map_err(Unsigned::Malformed)?;
    if matches!((place, record.form), (Place::Note(_), Form::Verity)) {
        // The measurement covers the note, and so cannot stand in it.
        return Err(Unsigned::Malformed("an fs-verity label cannot stand in the file"));
    }
    Ok(Found { place, record })
}

/// Judges a file as it is at this moment, open for reading; its position does not matter.
///
/// The content is read last, and only when a trusted signer's signature says what it has to be.
///
/// # Errors
/// Why it counts as unsigned.
pub fn verify(file: &File, trust: &Trust) -> Result<Verified, Unsigned> {
    verify_found(file, &find(file)?, trust)
}

/// Who signed the label, if anybody trusted says to have: nothing of the file was looked at yet.
pub(crate) fn may_count<'a>(found: &Found, trust: &'a Trust) -> Result<&'a Signer, Unsigned> {
    if found.record.is_signed() { trust.signer(&found.record) } else { Err(Unsigned::NotSigned) }
}

pub(crate) fn verify_found(
    file: &File,
    found: &Found,
    trust: &Trust,
) -> Result<Verified, Unsigned> {
    let Found { place, record } = *found;
    let signer = may_count(found, trust)?;
    let length = file.metadata()?.len();
    if length != record.length {
        return Err(Unsigned::Length { length, signed: record.length });
    }
    UnparsedPublicKey::new(&ED25519, &signer.key)
        .verify(&record.message(place.signed()), &record.signature)
        .map_err(|_| Unsigned::Signature)?;
    if measure(file, &record, place)? != record.digest {
        return Err(Unsigned::Content);
    }
    Ok(Verified {
        scid: record.scid,
        serial: record.serial,
        key: record.key,
        signature: record.signature_id(),
    })
}

/// The digest of the file in the record's form.
pub(crate) fn measure(file: &File, record: &Record, place: Place) -> Result<[u8; 32], Unsigned> {
    match record.form {
        Form::Content => digest::content(file, record.length, &place.gap()),
        Form::Verity => sys::verity(file)?.ok_or(Unsigned::NoVerity),
    }
}
