//! Offsets of struct members, from the running kernel's BTF.

use std::path::Path;

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;

/// The running kernel's types.
pub(crate) struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where each type begins, by id less one.
    index: Vec<usize>,
}

impl Btf {
    /// Reads `/sys/kernel/btf/vmlinux`; `None` if the kernel has none.
    pub(crate) fn running() -> Option<Self> {
        Self::parse(&std::fs::read(Path::new("/sys/kernel/btf/vmlinux")).ok()?)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let magic = u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let [header, type_at, type_len, string_at, string_len] =
            [4, 8, 12, 16, 20].map(|at| word(bytes, at).map(|w| w as usize));
        let section = |at: Option<usize>, len: Option<usize>| {
            let start = header?.checked_add(at?)?;
            Some(bytes.get(start..start.checked_add(len?)?)?.to_vec())
        };
        let types = section(type_at, type_len)?;
        let index = index(&types);
        Some(Self { types, strings: section(string_at, string_len)?, index })
    }

    /// Byte offset of a member of a struct, members of anonymous members included.
    pub(crate) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        Some(self.bit_offset(structure, member)? / 8)
    }

    /// Offset in bits, of a bit field.
    pub(crate) fn bit_offset(&self, structure: &str, member: &str) -> Option<u32> {
        Some(self.member(self.structure(structure)?, member, 0)?.0)
    }

    /// Byte offset of a member of a member.
    pub(crate) fn nested_offset(&self, structure: &str, member: &str, inner: &str) -> Option<u32> {
        let (outer, mut kind) = self.member(self.structure(structure)?, member, 0)?;
        loop {
            let at = self.at(kind)?;
            if self.kind(at)? != KIND_TYPEDEF {
                return Some((outer + self.member(at, inner, 0)?.0) / 8);
            }
            kind = word(&self.types, at + 8)?;
        }
    }

    fn structure(&self, name: &str) -> Option<usize> {
        self.index.iter().copied().find(|at| {
            self.kind(*at) == Some(KIND_STRUCT) && self.name(*at) == Some(name.as_bytes())
        })
    }

    /// Where a type begins.
    fn at(&self, kind: u32) -> Option<usize> {
        self.index.get((kind as usize).checked_sub(1)?).copied()
    }

    /// Offset in bits, and type.
    fn member(&self, at: usize, wanted: &str, depth: u32) -> Option<(u32, u32)> {
        const NESTING: u32 = 8;
        let info = word(&self.types, at + 4)?;
        let bitfields = info >> 31 == 1;
        for number in 0..(info & 0xffff) as usize {
            let entry = at + 12 + number * 12;
            let (name, kind) = (word(&self.types, entry)?, word(&self.types, entry + 4)?);
            let raw = word(&self.types, entry + 8)?;
            let bits = if bitfields { raw & 0x00ff_ffff } else { raw };
            if name != 0 {
                if self.string(name)? == wanted.as_bytes() {
                    return Some((bits, kind));
                }
            } else if depth < NESTING
                && let Some(inner) = self.at(kind)
                && matches!(self.kind(inner), Some(KIND_STRUCT | KIND_UNION))
                && let Some((offset, kind)) = self.member(inner, wanted, depth + 1)
            {
                return Some((bits + offset, kind));
            }
        }
        None
    }

    fn kind(&self, at: usize) -> Option<u32> {
        word(&self.types, at + 4).map(|info| info >> 24 & 0x1f)
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        self.string(word(&self.types, at)?)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        self.strings.get(offset as usize..)?.split(|byte| *byte == 0).next()
    }
}

/// Where each type begins, by id less one.
fn index(types: &[u8]) -> Vec<usize> {
    let mut index = Vec::new();
    let mut at = 0;
    while let Some(info) = word(types, at + 4) {
        index.push(at);
        let members = (info & 0xffff) as usize;
        at += 12
            + match info >> 24 & 0x1f {
                1 | 14 | 17 => 4,                // INT, VAR, DECL_TAG
                3 => 12,                         // ARRAY
                4 | 5 | 15 | 19 => members * 12, // STRUCT, UNION, DATASEC, ENUM64
                6 | 13 => members * 8,           // ENUM, FUNC_PROTO
                _ => 0,
            };
    }
    index
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_a_thread_group_id_in_its_tasks() {
        let btf = Btf::running().expect("a kernel with BTF");
        let (pid, tgid) = (btf.offset("task_struct", "pid"), btf.offset("task_struct", "tgid"));
        assert_eq!(pid.map(|at| at + 4), tgid);
        assert_eq!(btf.offset("task_struct", "no_such_member"), None);
        assert_eq!(btf.offset("no_such_struct", "pid"), None);
    }

    #[test]
    fn bit_fields_and_members_of_members_are_found() {
        let btf = Btf::running().expect("a kernel with BTF");
        let lock = btf.offset("sock", "sk_lock").expect("a lock");
        let owned = btf.nested_offset("sock", "sk_lock", "owned").expect("its owner");
        assert!((lock + 4..lock + 64).contains(&owned), "{lock} {owned}");
        let [kernel, next] =
            ["sk_kern_sock", "sk_no_check_tx"].map(|bit| btf.bit_offset("sock", bit));
        assert_eq!(kernel.map(|at| at + 1), next);
        assert_eq!(btf.nested_offset("sock", "sk_lock", "no_such_member"), None);
    }

    #[test]
    fn garbage_is_no_btf() {
        assert!(Btf::parse(&[]).is_none());
        assert!(Btf::parse(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
