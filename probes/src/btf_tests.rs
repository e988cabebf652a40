use super::*;
use crate::btf_blob::{Blob, sample};
use proptest::prelude::*;

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
    let mut blob = Blob::default();
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
    // A struct of that name does not match a function.
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

/// The two nested counts of member comparisons: 60 to the 14th would never end.
#[test]
fn structures_without_names_that_fan_out_come_to_an_end() {
    let mut blob = Blob::default();
    for number in 1..=14 {
        let members = vec![("", number + 1, 0); 60];
        blob.structure(if number == 1 { "device" } else { "" }, 8, false, &members);
    }
    blob.structure("", 8, false, &[("last", 16, 0)]);
    blob.add("int", 1, 0, false, 4, &[32]);
    let bytes = blob.bytes();
    assert_eq!(member(&bytes, "device", "last"), Ok(Member { offset: 0, size: 4, is_pointer: false }));
    assert_eq!(member(&bytes, "device", "absent"), Err(BtfError::TooManyMembers));
}

/// A name for each of many structures that is as long as all strings: for ever again.
#[test]
fn names_without_an_end_are_refused_at_once() {
    let mut blob = Blob::default();
    for _ in 0..20_000 {
        blob.structure("", 8, false, &[]);
    }
    blob.strings = vec![b'x'; 2_000_000];
    blob.strings.push(0);
    assert!(matches!(Btf::parse(&blob.bytes()), Err(BtfError::LongName(0))));
    // Without any end they are cut short.
    blob.strings = vec![b'x'; 10];
    assert_eq!(Btf::parse(&blob.bytes()).unwrap_err(), BtfError::Short(0));
    // As the name of a member, or of an unread one, it is harmless.
    let mut blob = Blob::default();
    blob.add(&"x".repeat(5000), 1, 0, false, 4, &[32]);
    blob.structure("device", 8, false, &[(&"x".repeat(5000), 1, 0), ("index", 1, 32)]);
    let bytes = blob.bytes();
    assert_eq!(member(&bytes, "device", "index").unwrap().offset, 4);
    assert!(Btf::parse(&bytes).unwrap().hollow(&["index"]).is_ok());
}

#[test]
fn counts_and_lengths_beyond_the_end_are_cut_short() {
    let mut blob = sample();
    blob.add("huge", 4, u16::MAX, false, 8, &[]);
    let bytes = blob.bytes();
    assert!(matches!(Btf::parse(&bytes), Err(BtfError::Short(_))));
    for (at, value) in [(4, u32::MAX), (4, 23), (8, u32::MAX), (12, u32::MAX), (16, u32::MAX), (20, u32::MAX)]
    {
        let mut bytes = sample().bytes();
        bytes[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
        assert!(matches!(Btf::parse(&bytes), Err(BtfError::Short(_))), "word at {at} = {value}");
    }
    // An array that is larger than memory has no size.
    let mut blob = Blob::default();
    blob.add("int", 1, 0, false, 4, &[32]);
    blob.add("", 3, 0, false, 0, &[1, 1, u32::MAX]);
    blob.structure("device", 8, false, &[("huge", 2, 0), ("far", 1, u32::MAX - 7)]);
    let bytes = blob.bytes();
    assert_eq!(member(&bytes, "device", "huge"), Err(BtfError::TooDeep));
    assert_eq!(member(&bytes, "device", "far").unwrap().offset, u32::MAX / 8);
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
