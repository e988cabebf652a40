//! Type information built in code, for tests and the fuzzer.
//!
//! Writes the format of include/uapi/linux/btf.h without interpretation, so that invalid data can be written
//! too. [`kernel`] is a kernel of a few structures that contains every lookup of the agent.

/// A blob: types, and the strings that name them.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The section of types.
    pub types: Vec<u8>,
    /// The section of strings.
    pub strings: Vec<u8>,
}

impl Default for Blob {
    fn default() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }
}

impl Blob {
    /// The place of a new string.
    pub fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = length(&self.strings);
        self.strings.extend(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type: its name, kind, count of members, flag, size or type, and the words after it.
    pub fn add(&mut self, name: &str, kind: u32, count: u16, flag: bool, argument: u32, extra: &[u32]) {
        let name = self.string(name);
        let info = kind << 24 | u32::from(count) | u32::from(flag) << 31;
        for word in [name, info, argument].iter().chain(extra) {
            self.types.extend(word.to_ne_bytes());
        }
    }

    /// Members as (name, type, place).
    pub fn structure(&mut self, name: &str, size: u32, flag: bool, members: &[(&str, u32, u32)]) {
        let words: Vec<u32> =
            members.iter().flat_map(|(member, of, place)| [self.string(member), *of, *place]).collect();
        self.add(name, 4, u16::try_from(members.len()).unwrap_or(u16::MAX), flag, size, &words);
    }

    /// The blob with a valid header.
    pub fn bytes(&self) -> Vec<u8> {
        let (types, strings) = (length(&self.types), length(&self.strings));
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types, types, strings] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        [bytes, self.types.clone(), self.strings.clone()].concat()
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// 1 int, 2 pointer, 3 array of 16 chars (char is 4), 5 typedef of int, 6 anonymous struct with
/// `inner` at bit 32, 7 the struct `device`, 8 `holder` with a device in it.
pub fn sample() -> Blob {
    let mut blob = Blob::default();
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

/// All members of [`crate::kernel::resolve`], each after an unrelated member.
pub fn kernel() -> Blob {
    let (int, pointer, name, long) = (1, 2, 3, 5);
    let (net_pointer, namespace) = (6, 7);
    let mut blob = Blob::default();
    blob.add("int", 1, 0, false, 4, &[32]);
    blob.add("", 2, 0, false, 0, &[]);
    blob.add("", 3, 0, false, 0, &[4, int, 16]);
    blob.add("char", 1, 0, false, 1, &[8]);
    blob.add("long", 1, 0, false, 8, &[64]);
    blob.structure("possible_net_t", 8, false, &[("net", pointer, 0)]);
    blob.structure("ns_common", 16, false, &[("ops", pointer, 0), ("inum", int, 64), ("__ns_ref", int, 96)]);
    let device = [
        ("", 9, 0),
        ("ifindex", int, 64),
        ("nd_net", net_pointer, 128),
        ("name", name, 192),
        ("ip_ptr", pointer, 320),
        ("flags", int, 384),
    ];
    blob.structure("net_device", 64, false, &device);
    blob.structure("", 8, true, &[("reg_state", int, 8 << 24)]);
    blob.structure("in_device", 16, false, &[("dev", pointer, 0), ("ifa_list", pointer, 64)]);
    blob.structure("in_ifaddr", 16, false, &[("ifa_next", pointer, 0), ("ifa_local", int, 64)]);
    blob.structure("net", 32, false, &[("ns", namespace, 0), ("net_cookie", long, 128)]);
    blob.structure("Qdisc", 16, false, &[("flags", long, 0), ("dev_queue", pointer, 64)]);
    blob.structure("netdev_queue", 8, false, &[("dev", pointer, 0)]);
    blob.structure("task_struct", 16, false, &[("nsproxy", pointer, 0), ("pid", int, 64)]);
    blob.structure("nsproxy", 16, false, &[("count", int, 0), ("net_ns", pointer, 64)]);
    blob.structure("work_struct", 16, false, &[("data", long, 0), ("func", pointer, 64)]);
    blob.add("dev_shutdown", 12, 0, false, int, &[]);
    blob.add("btf_trace_qdisc_destroy", 8, 0, false, pointer, &[]);
    blob
}
