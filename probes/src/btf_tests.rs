use super::*;
use proptest::prelude::*;

/// A blob by hand: types as (name, info, size or type, extra words).
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn add(&mut self, name: &str, kind: u32, count: usize, flag: bool, argument: u32, extra: &[u32]) {
        let name = self.string(name);
        let info = kind << 24 | u32::try_from(count).unwrap() | u32::from(flag) << 31;
        for word in [name, info, argument].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
    }

    /// Members as (name, type, place).
    fn structure(&mut self, name: &str, size: u32, flag: bool, members: &[(&str, u32, u32)]) {
        let words: Vec<u32> =
            members.iter().flat_map(|(member, of, place)| [self.string(member), *of, *place]).collect();
        self.add(name, 4, members.len(), flag, size, &words);
    }

    fn bytes(&self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0]);
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        [bytes, self.types.clone(), self.strings.clone()].concat()
    }
}

/// 1 int, 2 pointer, 3 array of 16 chars (char is 4), 5 typedef of int, 6 anonymous struct with
/// `inner` at bit 32, 7 the struct under test.
fn sample() -> Blob {
    let mut blob = Blob::new();
    blob.add("int", 1, 0, false, 4, &[32]);
    blob.add("", 2, 0, false, 1, &[]);
    blob.add("", 3, 0, false, 0, &[4, 1, 16]);
    blob.add("char", 1, 0, false, 1, &[8]);
    blob.add("u32", 8, 0, false, 1, &[]);
    blob.structure("", 8, false, &[("skipped", 1, 0), ("inner", 5, 32)]);
    // With bit fields: the width is in the top byte of the place.
    blob.structure(
        "device",
        64,
        true,
        &[
            ("index", 5, 64),
            ("", 6, 128),
            ("name", 3, 256),
            ("next", 2, 384),
            ("state", 1, (8 << 24) + 448),
            ("odd", 1, (3 << 24) + 449),
        ],
    );
    blob.structure("holder", 128, false, &[("device", 7, 512)]);
    blob
}

fn member(bytes: &[u8], holder: &str, path: &str) -> Result<Member, BtfError> {
    Btf::parse(bytes)?.member(holder, path)
}

#[test]
fn members_are_found_by_name_through_typedefs_and_nameless_structs() {
    let bytes = sample().bytes();
    let found = |path| member(&bytes, "device", path).unwrap();
    assert_eq!(found("index"), Member { offset: 8, size: 4, is_pointer: false });
    assert_eq!(found("inner"), Member { offset: 20, size: 4, is_pointer: false });
    assert_eq!(found("name"), Member { offset: 32, size: 16, is_pointer: false });
    assert_eq!(found("next"), Member { offset: 48, size: 8, is_pointer: true });
    assert_eq!(found("state"), Member { offset: 56, size: 1, is_pointer: false });
    let nested = member(&bytes, "holder", "device.inner").unwrap();
    assert_eq!(nested.offset, 64 + 20);
}

#[test]
fn what_is_not_there_has_a_name_in_the_error() {
    let bytes = sample().bytes();
    assert_eq!(member(&bytes, "net", "x"), Err(BtfError::NoStruct("net".to_owned())));
    let missing = BtfError::NoMember { holder: "device".to_owned(), member: "index.x".to_owned() };
    assert_eq!(member(&bytes, "device", "index.x"), Err(missing));
    assert_eq!(member(&bytes, "device", "odd"), Err(BtfError::NotAtByte("device.odd".to_owned())));
}

#[test]
fn types_from_the_future_are_refused() {
    let mut blob = sample();
    blob.add("new", 20, 0, false, 0, &[]);
    assert!(matches!(Btf::parse(&blob.bytes()), Err(BtfError::Unknown(_))));
    let mut bytes = sample().bytes();
    bytes[2] = 2;
    assert!(matches!(Btf::parse(&bytes), Err(BtfError::Unknown(_))));
    bytes[0] ^= 0xff;
    assert!(matches!(Btf::parse(&bytes), Err(BtfError::NotBtf)));
}

#[test]
fn types_that_name_each_other_in_a_circle_come_to_an_end() {
    let mut blob = Blob::new();
    blob.add("a", 8, 0, false, 2, &[]);
    blob.add("b", 8, 0, false, 1, &[]);
    // A struct without a name that holds itself, and an array of itself.
    blob.structure("", 8, false, &[("", 3, 0)]);
    blob.add("", 3, 0, false, 0, &[4, 1, 2]);
    blob.structure("device", 8, false, &[("round", 1, 0), ("array", 4, 0), ("", 3, 0)]);
    let bytes = blob.bytes();
    assert_eq!(member(&bytes, "device", "round"), Err(BtfError::TooDeep));
    assert_eq!(member(&bytes, "device", "array"), Err(BtfError::TooDeep));
    assert_eq!(member(&bytes, "device", "absent"), Err(BtfError::TooDeep));
}

#[test]
fn a_hollow_copy_keeps_the_numbers_and_the_names_that_were_asked_for() {
    let mut blob = sample();
    blob.add("wanted", 12, 0, false, 1, &[]);
    blob.add("other", 12, 0, false, 1, &[]);
    let bytes = blob.bytes();
    let whole = Btf::parse(&bytes).unwrap();
    // A struct of that name is no function.
    let copy = whole.hollow(&["wanted", "device"]).unwrap();
    let hollow = Btf::parse(&copy).unwrap();
    assert_eq!(hollow.places.len(), whole.places.len());
    assert!(hollow.structs.is_empty());
    let named: Vec<usize> = (1..hollow.places.len())
        .filter(|number| word(hollow.types, hollow.places[*number]).unwrap() != 0)
        .collect();
    assert_eq!(named, [9]);
    let kept = hollow.places[9];
    assert_eq!(hollow.name(word(hollow.types, kept).unwrap()).unwrap(), b"wanted");
    assert_eq!(hollow.types[kept + 4..kept + 12], whole.types[whole.places[9] + 4..whole.places[9] + 12]);
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample().bytes();
    for length in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn the_running_kernels_own_types_cut_short_are_an_error() {
    let Ok(bytes) = std::fs::read(crate::kernel::TYPES) else { return };
    for length in [0, 1, 23, 24, 1000, bytes.len() / 2, bytes.len() - 1] {
        assert!(Btf::parse(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = member(&bytes, "device", "inner");
    }

    /// Some bytes of a good one are changed: what is still read must not panic either.
    #[test]
    fn no_change_makes_it_panic(changes in proptest::collection::vec((24_usize..400, any::<u8>()), 1..12)) {
        let mut bytes = sample().bytes();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        for path in ["index", "inner", "name", "next", "state", "odd", "absent"] {
            let _ = member(&bytes, "device", path);
            let _ = member(&bytes, "holder", "device.inner");
        }
    }
}
