//! The kernel's description of its own types (BTF), as far as needed to find the offset of a member.
//!
//! Pure: bytes in, offsets out. Left out: functions, variables, relocations. Invariant: no input causes a
//! panic, an endless loop or an allocation of more than a few times its length. A lookup costs at most
//! [`MEMBERS_MAX`] comparisons, and unknown data is an error, never a guess: a wrong offset would read
//! another member.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Magic, version, flags, length of the header, then offset and length of types and of strings.
const HEADER: usize = 24;
/// Name, info, and size or type.
const TYPE: usize = 12;
/// Typedefs of typedefs, and members without a name inside one another, end before this.
const DEPTH_MAX: usize = 16;
/// Maximum number of members that one lookup compares; the largest structures have some hundreds. Without it
/// a few hundred bytes of nested structures would occupy the agent without end.
pub const MEMBERS_MAX: u32 = 1 << 16;
/// Names of structures are shorter: the kernel's symbols have at most 512 bytes.
const NAME_MAX: usize = 1024;

/// Reason why types could not be read, or are not as they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The magic number is missing.
    #[error("not BTF data, or of another byte order")]
    NotBtf,
    /// Unsupported version, or unsupported kind of type.
    #[error("unsupported BTF data: {0}; this kernel may be newer than this program")]
    Unknown(String),
    /// It is longer than any kernel's.
    #[error("the BTF data is longer than {0} bytes")]
    TooLong(u64),
    /// It ends before its own contents do.
    #[error("the BTF data is truncated at byte {0}")]
    Short(usize),
    /// A type refers to one that does not exist.
    #[error("type {0} does not exist")]
    NoType(u32),
    /// Types refer to each other without end.
    #[error("types are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// A lookup has no end.
    #[error("a structure has more than {MEMBERS_MAX} members, including those of unnamed members")]
    TooManyMembers,
    /// The name is too long for a structure.
    #[error("the name at byte {0} of the strings is longer than {NAME_MAX} bytes")]
    LongName(u32),
    /// The kernel does not have the structure.
    #[error("this kernel has no struct {0}")]
    NoStruct(String),
    /// The structure does not have the member.
    #[error("struct {holder} has no member {member}")]
    NoMember {
        /// Name of the structure.
        holder: String,
        /// Name of the member.
        member: String,
    },
    /// The member does not start at a byte.
    #[error("member {0} does not start at a byte")]
    NotAtByte(String),
    /// The member is of another kind or size than the programs read.
    #[error("member {member} is {found}; expected {wanted}")]
    OtherShape {
        /// Name of the member.
        member: String,
        /// Type in the kernel.
        found: String,
        /// Type that the programs read.
        wanted: String,
    },
}

/// A member of a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset of the member in bytes.
    pub offset: u32,
    /// Its size, in bytes.
    pub size: u32,
    /// True if it is a pointer.
    pub is_pointer: bool,
}

/// Types, indexed by number and structures by name.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position of the type of each number; number 0 is `void` and has none.
    places: Vec<usize>,
    structs: HashMap<&'a [u8], u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Pointer,
    Array,
    Struct,
    Enum,
    /// Another name, or a qualifier such as `const`: the type behind it counts.
    Alias,
    /// Has no size that could be read.
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Type {
    at: usize,
    kind: Kind,
    count: usize,
    /// True if members carry the size of bit fields.
    with_bits: bool,
    /// Size of the type, or the number of the type behind it, depending on the kind.
    argument: u32,
}

impl<'a> Btf<'a> {
    /// Reads the index of all types.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if half(bytes, 0)? != MAGIC {
            return Err(BtfError::NotBtf);
        }
        let version = *bytes.get(2).ok_or(BtfError::Short(2))?;
        if version != VERSION {
            return Err(BtfError::Unknown(format!("version {version}")));
        }
        let header = word(bytes, 4)? as usize;
        if header < HEADER {
            return Err(BtfError::Short(header));
        }
        let section = |at: usize| -> Result<&'a [u8], BtfError> {
            let start = header.checked_add(word(bytes, at)? as usize);
            let end = start.and_then(|start| start.checked_add(word(bytes, at + 4).ok()? as usize));
            let range = start.zip(end).ok_or(BtfError::Short(at))?;
            bytes.get(range.0..range.1).ok_or(BtfError::Short(bytes.len()))
        };
        let mut btf =
            Self { types: section(8)?, strings: section(16)?, places: vec![0], structs: HashMap::new() };
        btf.index()?;
        Ok(btf)
    }

    /// A reduced copy: the same type numbers without content, except for functions and typedefs of these
    /// names. It suffices to find the attach target of a program, in a hundredth of the memory.
    pub fn hollow(&self, names: &[&str]) -> Result<Vec<u8>, BtfError> {
        const FORWARD: u32 = 7 << 24;
        let mut strings = vec![0];
        let mut types = Vec::with_capacity(self.places.len() * TYPE);
        for at in self.places.iter().skip(1) {
            let info = word(self.types, at + 4)?;
            let own = word(self.types, *at)?;
            let mut words = [0, FORWARD, 0];
            // Functions and typedefs; the names of others may be of any length.
            if matches!((info >> 24) & 0x1f, 8 | 12) {
                for name in names {
                    if self.is_named(own, name.as_bytes())? {
                        let place = u32::try_from(strings.len()).map_err(|_| BtfError::TooDeep)?;
                        words = [place, info, word(self.types, at + 8)?];
                        strings.extend_from_slice(name.as_bytes());
                        strings.push(0);
                        break;
                    }
                }
            }
            types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        let length = |part: &[u8]| u32::try_from(part.len()).map_err(|_| BtfError::TooDeep);
        let (types_length, strings_length) = (length(&types)?, length(&strings)?);
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        for word in [24, 0, types_length, types_length, strings_length] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.append(&mut types);
        bytes.append(&mut strings);
        Ok(bytes)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            let (read, extra) = self.type_at(at)?;
            let number = u32::try_from(self.places.len()).map_err(|_| BtfError::Short(at))?;
            if read.kind == Kind::Struct {
                let name = self.name(word(self.types, at)?)?;
                if !name.is_empty() {
                    // The kernel has a few of one name; the first is the general one.
                    self.structs.entry(name).or_insert(number);
                }
            }
            self.places.push(at);
            at = at.checked_add(TYPE + extra).ok_or(BtfError::Short(at))?;
        }
        if at == self.types.len() { Ok(()) } else { Err(BtfError::Short(self.types.len())) }
    }

    /// The type at a place, and how many bytes follow its fixed part.
    fn type_at(&self, at: usize) -> Result<(Type, usize), BtfError> {
        let info = word(self.types, at + 4)?;
        let argument = word(self.types, at + 8)?;
        let count = (info & 0xffff) as usize;
        // The numbers of include/uapi/linux/btf.h.
        let (kind, extra) = match (info >> 24) & 0x1f {
            1 => (Kind::Integer, 4),
            2 => (Kind::Pointer, 0),
            3 => (Kind::Array, 12),
            4 | 5 => (Kind::Struct, count * 12),
            6 => (Kind::Enum, count * 8),
            7 | 12 | 16 => (Kind::Other, 0),
            8 | 9 | 10 | 11 | 18 => (Kind::Alias, 0),
            13 => (Kind::Other, count * 8),
            14 | 17 => (Kind::Other, 4),
            15 => (Kind::Other, count * 12),
            19 => (Kind::Enum, count * 12),
            unknown => return Err(BtfError::Unknown(format!("kind {unknown} of type"))),
        };
        Ok((Type { at, kind, count, with_bits: info >> 31 == 1, argument }, extra))
    }

    fn get(&self, number: u32) -> Result<Type, BtfError> {
        let place = if number == 0 { None } else { self.places.get(number as usize) };
        Ok(self.type_at(*place.ok_or(BtfError::NoType(number))?)?.0)
    }

    /// The type behind other names and qualifiers.
    fn resolve(&self, number: u32) -> Result<Type, BtfError> {
        let mut found = self.get(number)?;
        for _ in 0..DEPTH_MAX {
            if found.kind != Kind::Alias {
                return Ok(found);
            }
            found = self.get(found.argument)?;
        }
        Err(BtfError::TooDeep)
    }

    fn name(&self, at: u32) -> Result<&'a [u8], BtfError> {
        let rest = self.strings.get(at as usize..).ok_or(BtfError::Short(at as usize))?;
        let beginning = &rest[..rest.len().min(NAME_MAX + 1)];
        match beginning.iter().position(|byte| *byte == 0) {
            Some(end) => Ok(&rest[..end]),
            None if beginning.len() > NAME_MAX => Err(BtfError::LongName(at)),
            None => Err(BtfError::Short(at as usize)),
        }
    }

    /// True if the string at an offset equals the name; it reads no more of the string than that takes.
    fn is_named(&self, at: u32, name: &[u8]) -> Result<bool, BtfError> {
        let rest = self.strings.get(at as usize..).ok_or(BtfError::Short(at as usize))?;
        Ok(rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)))
    }

    /// Offset of a member in a structure. `path` descends through named members, separated by dots; unnamed
    /// ones are passed through.
    pub fn member(&self, holder: &str, path: &str) -> Result<Member, BtfError> {
        let number =
            self.structs.get(holder.as_bytes()).ok_or_else(|| BtfError::NoStruct(holder.to_owned()))?;
        let mut within = self.get(*number)?;
        let mut bits: u32 = 0;
        let mut found = None;
        let mut left = MEMBERS_MAX;
        for name in path.split('.') {
            let missing = || BtfError::NoMember { holder: holder.to_owned(), member: path.to_owned() };
            if within.kind != Kind::Struct {
                return Err(missing());
            }
            let (at, field_bits, inner) =
                self.find(within, name.as_bytes(), 0, &mut left)?.ok_or_else(missing)?;
            bits = bits.checked_add(at).ok_or(BtfError::TooDeep)?;
            within = inner;
            found = Some(field_bits);
        }
        if !bits.is_multiple_of(8) {
            return Err(BtfError::NotAtByte(format!("{holder}.{path}")));
        }
        let size = match found {
            Some(width) if width != 0 => width.div_ceil(8),
            _ => self.size(within, 0)?,
        };
        Ok(Member { offset: bits / 8, size, is_pointer: within.kind == Kind::Pointer })
    }

    /// A member by name: its bit offset, its number of bits if it is a bit field, and its type. `left` is the
    /// number of members that may still be compared.
    fn find(
        &self,
        within: Type,
        name: &[u8],
        depth: usize,
        left: &mut u32,
    ) -> Result<Option<(u32, u32, Type)>, BtfError> {
        if depth >= DEPTH_MAX {
            return Err(BtfError::TooDeep);
        }
        for index in 0..within.count {
            *left = left.checked_sub(1).ok_or(BtfError::TooManyMembers)?;
            let at = within.at + TYPE + index * 12;
            let own = word(self.types, at)?;
            let place = word(self.types, at + 8)?;
            let (bit, width) = if within.with_bits { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            if self.is_named(own, name)? {
                return Ok(Some((bit, width, self.resolve(word(self.types, at + 4)?)?)));
            }
            if self.is_named(own, b"")? {
                let inner = self.resolve(word(self.types, at + 4)?)?;
                if inner.kind == Kind::Struct
                    && let Some((further, width, found)) = self.find(inner, name, depth + 1, left)?
                {
                    return Ok(Some((bit.checked_add(further).ok_or(BtfError::TooDeep)?, width, found)));
                }
            }
        }
        Ok(None)
    }

    fn size(&self, of: Type, depth: usize) -> Result<u32, BtfError> {
        if depth >= DEPTH_MAX {
            return Err(BtfError::TooDeep);
        }
        match of.kind {
            Kind::Integer | Kind::Struct | Kind::Enum => Ok(of.argument),
            Kind::Pointer => Ok(8),
            Kind::Array => {
                let element = self.resolve(word(self.types, of.at + TYPE)?)?;
                let count = word(self.types, of.at + TYPE + 8)?;
                self.size(element, depth + 1)?.checked_mul(count).ok_or(BtfError::TooDeep)
            }
            Kind::Alias | Kind::Other => Err(BtfError::Unknown("a member without a size".to_owned())),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let four = at.checked_add(4).and_then(|end| bytes.get(at..end));
    four.and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes).ok_or(BtfError::Short(at))
}

fn half(bytes: &[u8], at: usize) -> Result<u16, BtfError> {
    let two = at.checked_add(2).and_then(|end| bytes.get(at..end));
    two.and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes).ok_or(BtfError::Short(at))
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
