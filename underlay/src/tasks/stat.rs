//! One task's line in `/proc/PID/stat`, read without trusting the name inside it.

use std::fs;
use std::io;
use std::path::Path;

/// The fields that are of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub comm: String,
    state: char,
    pub ppid: i32,
    /// The kernel's task flags. A task cannot choose them, unlike its name.
    pub flags: u64,
    pub start_time: u64,
}

impl Stat {
    /// Reads the file `stat` in a task's directory.
    pub fn read(task: &Path) -> io::Result<Self> {
        let bytes = fs::read(task.join("stat"))?;
        Self::parse(&String::from_utf8_lossy(&bytes))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected contents of stat"))
    }

    /// The name is in parentheses and may contain parentheses: the last one closes it.
    fn parse(line: &str) -> Option<Self> {
        let (head, rest) = line.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            ppid: fields.get(1)?.parse().ok()?,
            flags: fields.get(6)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// True if the task is a zombie or dead: it holds nothing.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";

    #[test]
    fn a_name_full_of_parentheses_and_spaces_moves_no_field() {
        let stat = Stat::parse(&format!("42 (a) Z 1 (b c) {REST}")).unwrap();
        assert_eq!((stat.comm.as_str(), stat.ppid, stat.start_time), ("a) Z 1 (b c", 7, 12345));
        assert!(!stat.has_ended());
    }

    #[test]
    fn a_cut_line_is_refused() {
        let line = format!("42 (sleep) {REST}");
        assert!(Stat::parse(&line).is_some());
        assert!(Stat::parse(&line[..line.len() - 12]).is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(Stat::parse(&format!("42 (x) {}", REST.replacen('S', "Z", 1))).unwrap().has_ended());
    }
}
