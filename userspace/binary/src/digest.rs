//! The digest of a content, read in pieces.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use ring::digest::{Context, SHA256};

use crate::unsigned::Unsigned;

/// Bytes of a signed file at most: somebody waits for its verification.
pub const CONTENT_MAX: u64 = 4 << 30;

/// Bytes read at once; fits the second-level cache.
const PIECE: usize = 256 << 10;

/// SHA-256 of `length` bytes, those of `gap` read as zero; [`Unsigned::Changed`] if there are more or fewer.
pub(crate) fn content(file: &File, length: u64, gap: &Range<u64>) -> Result<[u8; 32], Unsigned> {
    if length > CONTENT_MAX {
        return Err(Unsigned::TooLarge { length });
    }
    let mut context = Context::new(&SHA256);
    // One byte more than there should be, to see a file that grew.
    let room = usize::try_from(length + 1).map_or(PIECE, |room| room.min(PIECE));
    let mut buffer = vec![0; room];
    let mut at = 0;
    loop {
        let read = match file.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(piece) = buffer.get_mut(..read) else { return Err(Unsigned::Changed) };
        blank(piece, at, gap);
        context.update(piece);
        at += read as u64;
        if at > length {
            return Err(Unsigned::Changed);
        }
    }
    if at < length {
        return Err(Unsigned::Changed);
    }
    context.finish().as_ref().try_into().map_err(|_| Unsigned::Content)
}

/// Zeroes what of `gap` lies in a piece that begins at byte `at` of the file.
fn blank(piece: &mut [u8], at: u64, gap: &Range<u64>) {
    let within =
        |byte: u64| usize::try_from(byte.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
    let (start, end) = (within(gap.start), within(gap.end));
    if let Some(part) = piece.get_mut(start..end) {
        part.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_gap_reads_as_zero_wherever_pieces_end() {
        let length = PIECE + 100;
        let bytes: Vec<u8> = (1..=251).cycle().take(length).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for gap in [0..0, 0..96, PIECE - 50..PIECE + 46, length - 96..length, PIECE..PIECE + 96] {
            let mut blanked = bytes.clone();
            blanked[gap.clone()].fill(0);
            let expected = ring::digest::digest(&SHA256, &blanked);
            let gap = gap.start as u64..gap.end as u64;
            assert_eq!(content(&file, length as u64, &gap).unwrap(), expected.as_ref(), "{gap:?}");
        }
        for wrong in [length - 1, length + 1, 0] {
            assert_eq!(content(&file, wrong as u64, &(0..0)), Err(Unsigned::Changed));
        }
        let length = CONTENT_MAX + 1;
        assert_eq!(content(&file, length, &(0..0)), Err(Unsigned::TooLarge { length }));
    }
}
