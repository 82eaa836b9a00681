//! The note in an ELF file: where it is.
//!
//! The note stands in a section of its own, of exactly its length, anywhere in the section table.
//! [`attach`](crate::attach) puts it there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use object::elf::{ELFMAG, FileHeader32, FileHeader64, SHT_NOTE};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, pod};

use crate::record;
use crate::unsigned::Unsigned;

/// Bytes of the note before the record.
pub(crate) const HEAD: usize = 20;
/// Bytes of the note.
pub(crate) const LEN: usize = HEAD + record::LEN;
/// Bytes of the longer of the two file headers.
pub(crate) const HEADER_MAX: usize = size_of::<FileHeader64<Endianness>>();

/// Byte 0 of the record within the file, of a file that has a note; nothing of others.
pub(crate) fn find(file: &File) -> Result<Option<u64>, Unsigned> {
    let mut head = [0; HEADER_MAX];
    let read = read_most(file, &mut head, 0)?;
    let head = head.get(..read).unwrap_or_default();
    if !head.starts_with(&ELFMAG) {
        return Ok(None);
    }
    if let Ok(header) = FileHeader64::<Endianness>::parse(head) {
        return in_sections(file, header);
    }
    FileHeader32::<Endianness>::parse(head).map_or(Ok(None), |header| in_sections(file, header))
}

fn in_sections<H: FileHeader<Endian = Endianness>>(
    file: &File,
    header: &H,
) -> Result<Option<u64>, Unsigned> {
    let Ok(endian) = header.endian() else { return Ok(None) };
    let (start, count): (u64, _) = (header.e_shoff(endian).into(), header.e_shnum(endian));
    let width = size_of::<H::SectionHeader>();
    if start == 0 || count == 0 || usize::from(header.e_shentsize(endian)) != width {
        return Ok(None);
    }
    let mut table = vec![0; usize::from(count) * width];
    // A table that the file does not hold is no table.
    if read_most(file, &mut table, start)? < table.len() {
        return Ok(None);
    }
    let sections = pod::slice_from_all_bytes::<H::SectionHeader>(&table).unwrap_or_default();
    let mut found = None;
    for section in sections {
        let size: u64 = section.sh_size(endian).into();
        if section.sh_type(endian) != SHT_NOTE || size != LEN as u64 {
            continue;
        }
        let start: u64 = section.sh_offset(endian).into();
        if is_ours(file, start, endian)?
            && found.replace(start.saturating_add(HEAD as u64)).is_some()
        {
            return Err(Unsigned::TwoLabels);
        }
    }
    Ok(found)
}

fn is_ours(file: &File, start: u64, endian: Endianness) -> Result<bool, Unsigned> {
    let mut head = [0; HEAD];
    let read = read_most(file, &mut head, start)?;
    Ok(read == head.len() && head == note_head(endian))
}

/// The note up to the record: the lengths of owner and record, the note's type 1, the owner.
pub(crate) fn note_head(endian: Endianness) -> [u8; HEAD] {
    const FIELDS: [u32; 3] = [6, 128, 1];
    const _: () = assert!(record::LEN == 128);
    let mut head = [0; HEAD];
    let fields = FIELDS.map(|field| match endian {
        Endianness::Little => field.to_le_bytes(),
        Endianness::Big => field.to_be_bytes(),
    });
    let from = fields.iter().flatten().chain(b"Sigil\0\0\0");
    head.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    head
}

/// Reads until the buffer is full or the file ends; offsets that no file has read as its end.
pub(crate) fn read_most(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        let Some(from) = at.checked_add(read as u64).filter(|from| i64::try_from(*from).is_ok())
        else {
            break;
        };
        match file.read_at(rest, from) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
