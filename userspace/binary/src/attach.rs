//! Giving an ELF file a note.
//!
//! Everything is appended: the note, the section names with one more, the section table with one more.
//! Of what was there only three fields of the file header change, so that whatever the program headers,
//! a debugger or the program itself point to stays where it is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use object::elf::{
    FileHeader32, FileHeader64, SHN_LORESERVE, SHT_NOTE, SHT_STRTAB, SectionHeader32,
    SectionHeader64,
};
use object::endian::{U16, U32, U64};
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, pod};

use crate::elf::{HEAD, HEADER_MAX, note_head, read_most};
use crate::record;
use crate::write::{Problem, io};

/// The section's name, and that of a table of names where there was none.
const NAMES: &[u8; 23] = b".note.sigil\0.shstrtab\0\0";
const SHSTRTAB: u32 = 12;
/// Bytes of section names at most.
const NAMES_MAX: u64 = 16 << 20;

/// Appends a note with an empty record; the record's place in the file. Nothing if it is no ELF file.
pub(crate) fn attach(file: &File) -> Result<Option<u64>, Problem> {
    let mut head = [0; HEADER_MAX];
    let read = read_most(file, &mut head, 0).map_err(io("read"))?;
    let head = head.get(..read).unwrap_or_default();
    if let Ok(header) = FileHeader64::<Endianness>::parse(head) {
        return to_sections(file, *header).map(Some);
    }
    match FileHeader32::<Endianness>::parse(head) {
        Ok(header) => to_sections(file, *header).map(Some),
        Err(_) => Ok(None),
    }
}

/// Whether [`attach`] would.
pub(crate) fn is_elf(file: &File) -> std::io::Result<bool> {
    let mut head = [0; HEADER_MAX];
    let read = read_most(file, &mut head, 0)?;
    let head = head.get(..read).unwrap_or_default();
    Ok(FileHeader64::<Endianness>::parse(head).is_ok()
        || FileHeader32::<Endianness>::parse(head).is_ok())
}

fn to_sections<H: Header>(file: &File, mut header: H) -> Result<u64, Problem> {
    let endian = header.endian().map_err(|_| Problem::Elf("its byte order is unknown"))?;
    let mut sections = sections(file, &header, endian)?;
    let mut strings = u32::from(header.e_shstrndx(endian));
    let mut names = names(file, &sections, strings, endian)?;
    let length = file.metadata().map_err(io("read"))?.len();

    let note = aligned(length);
    let name = u32::try_from(names.len()).map_err(|_| Problem::Elf(NAMES_LONG))?;
    names.extend(NAMES);
    let names_at = aligned(note + (HEAD + record::LEN) as u64);
    let names_len = names.len() as u64;
    let table = aligned(names_at + names_len);

    if sections.is_empty() {
        sections.push(H::section(endian, 0, 0, (0, 0), 0).ok_or(Problem::Elf(TOO_LONG))?);
    }
    if strings == 0 {
        strings = u32::try_from(sections.len()).map_err(|_| Problem::Elf(SECTIONS))?;
        let section = H::section(endian, name + SHSTRTAB, SHT_STRTAB, (names_at, names_len), 1);
        sections.push(section.ok_or(Problem::Elf(TOO_LONG))?);
    } else if let Some(section) = sections.get_mut(strings as usize) {
        let moved = (section.sh_name(endian), section.sh_type(endian), (names_at, names_len));
        *section =
            H::section(endian, moved.0, moved.1, moved.2, 1).ok_or(Problem::Elf(TOO_LONG))?;
    }
    let section = H::section(endian, name, SHT_NOTE, (note, (HEAD + record::LEN) as u64), 4);
    sections.push(section.ok_or(Problem::Elf(TOO_LONG))?);

    let count = u16::try_from(sections.len()).ok().filter(|count| *count < SHN_LORESERVE);
    let count = count.ok_or(Problem::Elf(SECTIONS))?;
    let strings = u16::try_from(strings).map_err(|_| Problem::Elf(SECTIONS))?;
    header.point(endian, table, count, strings).ok_or(Problem::Elf(TOO_LONG))?;

    let write = |bytes: &[u8], at| file.write_all_at(bytes, at).map_err(io("write"));
    write(&note_head(endian), note)?;
    write(&[0; record::LEN], note + HEAD as u64)?;
    write(&names, names_at)?;
    write(pod::bytes_of_slice(&sections), table)?;
    write(pod::bytes_of(&header), 0)?;
    Ok(note + HEAD as u64)
}

const SECTION64: u16 = 64;
const SECTION32: u16 = 40;
const _: () = assert!(size_of::<SectionHeader64<Endianness>>() == SECTION64 as usize);
const _: () = assert!(size_of::<SectionHeader32<Endianness>>() == SECTION32 as usize);

const SECTIONS: &str = "it has too many sections";
const NAMES_LONG: &str = "its section names are too long";
const TOO_LONG: &str = "it is too long for its class";
const TABLE: &str = "its section table is broken";

fn sections<H: Header>(
    file: &File,
    header: &H,
    endian: Endianness,
) -> Result<Vec<H::SectionHeader>, Problem> {
    let (start, count): (u64, _) = (header.e_shoff(endian).into(), header.e_shnum(endian));
    if start == 0 {
        return Ok(Vec::new());
    }
    if count == 0 {
        return Err(Problem::Elf(SECTIONS));
    }
    let width = size_of::<H::SectionHeader>();
    if usize::from(header.e_shentsize(endian)) != width {
        return Err(Problem::Elf(TABLE));
    }
    let mut table = vec![0; usize::from(count) * width];
    if read_most(file, &mut table, start).map_err(io("read"))? < table.len() {
        return Err(Problem::Elf(TABLE));
    }
    let sections = pod::slice_from_all_bytes(&table).map_err(|()| Problem::Elf(TABLE))?;
    Ok(sections.to_vec())
}

fn names<S: SectionHeader<Endian = Endianness>>(
    file: &File,
    sections: &[S],
    index: u32,
    endian: Endianness,
) -> Result<Vec<u8>, Problem> {
    if index == 0 {
        return Ok(vec![0]);
    }
    let section = sections.get(index as usize).ok_or(Problem::Elf(TABLE))?;
    let (start, length): (u64, u64) =
        (section.sh_offset(endian).into(), section.sh_size(endian).into());
    if length > NAMES_MAX {
        return Err(Problem::Elf(NAMES_LONG));
    }
    let mut names = vec![0; usize::try_from(length).unwrap_or(0)];
    if read_most(file, &mut names, start).map_err(io("read"))? < names.len() {
        return Err(Problem::Elf(TABLE));
    }
    Ok(names)
}

const fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(8)
}

/// What differs between the two classes.
trait Header: FileHeader<Endian = Endianness, SectionHeader: Copy> + Copy {
    /// A section without address, of these bytes of the file; nothing if they do not fit the class.
    fn section(
        endian: Endianness,
        name: u32,
        kind: u32,
        bytes: (u64, u64),
        align: u8,
    ) -> Option<Self::SectionHeader>;

    /// Points to another section table.
    fn point(&mut self, endian: Endianness, table: u64, count: u16, strings: u16) -> Option<()>;
}

impl Header for FileHeader64<Endianness> {
    fn section(
        endian: Endianness,
        name: u32,
        kind: u32,
        (offset, size): (u64, u64),
        align: u8,
    ) -> Option<SectionHeader64<Endianness>> {
        let (zero, none) = (U64::new(endian, 0), U32::new(endian, 0));
        Some(SectionHeader64 {
            sh_name: U32::new(endian, name),
            sh_type: U32::new(endian, kind),
            sh_flags: zero,
            sh_addr: zero,
            sh_offset: U64::new(endian, offset),
            sh_size: U64::new(endian, size),
            sh_link: none,
            sh_info: none,
            sh_addralign: U64::new(endian, align.into()),
            sh_entsize: zero,
        })
    }

    fn point(&mut self, endian: Endianness, table: u64, count: u16, strings: u16) -> Option<()> {
        self.e_shoff = U64::new(endian, table);
        self.e_shentsize = U16::new(endian, SECTION64);
        self.e_shnum = U16::new(endian, count);
        self.e_shstrndx = U16::new(endian, strings);
        Some(())
    }
}

impl Header for FileHeader32<Endianness> {
    fn section(
        endian: Endianness,
        name: u32,
        kind: u32,
        (offset, size): (u64, u64),
        align: u8,
    ) -> Option<SectionHeader32<Endianness>> {
        let zero = U32::new(endian, 0);
        Some(SectionHeader32 {
            sh_name: U32::new(endian, name),
            sh_type: U32::new(endian, kind),
            sh_flags: zero,
            sh_addr: zero,
            sh_offset: U32::new(endian, u32::try_from(offset).ok()?),
            sh_size: U32::new(endian, u32::try_from(size).ok()?),
            sh_link: zero,
            sh_info: zero,
            sh_addralign: U32::new(endian, align.into()),
            sh_entsize: zero,
        })
    }

    fn point(&mut self, endian: Endianness, table: u64, count: u16, strings: u16) -> Option<()> {
        self.e_shoff = U32::new(endian, u32::try_from(table).ok()?);
        self.e_shentsize = U16::new(endian, SECTION32);
        self.e_shnum = U16::new(endian, count);
        self.e_shstrndx = U16::new(endian, strings);
        Some(())
    }
}
