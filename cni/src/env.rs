//! The environment of a call: verb, attachment, namespace.
//!
//! Parsed from a look-up function, so that tests need no process. Left out: a check that the path is a
//! namespace.

use std::ffi::OsString;
use std::path::PathBuf;

use berth_ipam::name::{ContainerId, IfName};

use crate::args::{Args, boolean};
use crate::error::{Error, quotable};

/// Request of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// No `CNI_COMMAND`: the plugin was started from a shell.
    About,
    /// The ADD command.
    Add(Attach),
    /// The DEL command.
    Del(Detach),
    /// Is the attachment as ADD left it?
    Check(Attach),
    /// Remove what is not listed.
    Gc,
    /// Could an ADD be served?
    Status,
    /// The VERSION command.
    Version,
}

/// The attachment of an ADD or CHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Value of `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// Value of `CNI_IFNAME`.
    pub ifname: IfName,
    /// Value of `CNI_NETNS`.
    pub netns: PathBuf,
    /// Value of `CNI_ARGS`.
    pub args: Args,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace is a permitted target.
    pub netns_override: bool,
}

/// The attachment of a DEL. `CNI_ARGS` is not read: nothing in it may make a DEL fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detach {
    /// Value of `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// Value of `CNI_IFNAME`.
    pub ifname: IfName,
    /// `CNI_NETNS`, if there is still one.
    pub netns: Option<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace is a permitted target.
    pub netns_override: bool,
}

/// Reads a call from the environment. An empty variable counts as absent.
pub fn parse(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Call, Error> {
    let env = Lookup(lookup);
    let Some(command) = env.text("CNI_COMMAND")? else { return Ok(Call::About) };
    match command.as_str() {
        "ADD" => Ok(Call::Add(env.attach("ADD")?)),
        "CHECK" => Ok(Call::Check(env.attach("CHECK")?)),
        "DEL" => Ok(Call::Del(env.detach()?)),
        "GC" => Ok(Call::Gc),
        "STATUS" => Ok(Call::Status),
        "VERSION" => Ok(Call::Version),
        _ => Err(Error::UnknownCommand { value: quotable(&command) }),
    }
}

struct Lookup<F>(F);

impl<F: Fn(&str) -> Option<OsString>> Lookup<F> {
    fn raw(&self, name: &'static str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Error> {
        self.raw(name).map(|value| value.into_string().map_err(|_| Error::NotText { name })).transpose()
    }

    fn flag(&self, name: &'static str) -> bool {
        self.raw(name).and_then(|value| value.to_str().and_then(boolean)).unwrap_or(false)
    }

    fn require(&self, command: &'static str, wanted: &[&'static str]) -> Result<(), Error> {
        let names: Vec<_> = wanted.iter().copied().filter(|name| self.raw(name).is_none()).collect();
        if names.is_empty() { Ok(()) } else { Err(Error::MissingVariables { command, names }) }
    }

    fn container_id(&self) -> Result<ContainerId, Error> {
        let name = "CNI_CONTAINERID";
        let text = self.text(name)?.unwrap_or_default();
        text.parse().map_err(|cause| Error::WrongVariable { name, cause })
    }

    fn ifname(&self) -> Result<IfName, Error> {
        let name = "CNI_IFNAME";
        let text = self.text(name)?.unwrap_or_default();
        text.parse().map_err(|cause| Error::WrongVariable { name, cause })
    }

    fn attach(&self, command: &'static str) -> Result<Attach, Error> {
        self.require(command, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])?;
        Ok(Attach {
            container_id: self.container_id()?,
            ifname: self.ifname()?,
            netns: self.raw("CNI_NETNS").map(PathBuf::from).unwrap_or_default(),
            args: Args::parse(&self.text("CNI_ARGS")?.unwrap_or_default())?,
            netns_override: self.flag("CNI_NETNS_OVERRIDE"),
        })
    }

    fn detach(&self) -> Result<Detach, Error> {
        self.require("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"])?;
        Ok(Detach {
            container_id: self.container_id()?,
            ifname: self.ifname()?,
            netns: self.raw("CNI_NETNS").map(PathBuf::from),
            netns_override: self.flag("CNI_NETNS_OVERRIDE"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Call, Error> {
        parse(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn e1_a_command_is_a_verb() {
        assert!(
            matches!(call(&[("CNI_COMMAND", "PING")]), Err(Error::UnknownCommand { value }) if value == "PING")
        );
        assert!(call(&[("CNI_COMMAND", "add")]).is_err());
    }

    #[test]
    fn e1_every_missing_variable_is_named_at_once() {
        let error = call(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "")]).unwrap_err().to_string();
        assert!(error.contains("CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"), "{error}");
    }

    #[test]
    fn e2_e4_names_are_checked() {
        let base = |id, ifname| {
            call(&[
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", id),
                ("CNI_NETNS", "/n"),
                ("CNI_IFNAME", ifname),
            ])
        };
        assert!(base("c1", "eth0").is_ok());
        for (id, ifname) in
            [("-c", "eth0"), ("c/1", "eth0"), ("c1", ".."), ("c1", "a:b"), ("c1", "sixteen-letters-")]
        {
            assert!(matches!(base(id, ifname), Err(Error::WrongVariable { .. })), "{id} {ifname}");
        }
    }

    #[test]
    fn e3_a_del_needs_no_namespace_and_reads_no_args() {
        let del = call(&[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "nonsense"),
        ]);
        assert!(matches!(del, Ok(Call::Del(Detach { netns: None, .. }))), "{del:?}");
    }

    #[test]
    fn e7_the_override_is_read() {
        for (value, expected) in
            [("1", true), ("true", true), ("TRUE", true), ("0", false), ("yes", false), ("", false)]
        {
            let add = call(&[
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", "c1"),
                ("CNI_NETNS", "/n"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS_OVERRIDE", value),
            ]);
            assert!(matches!(add, Ok(Call::Add(attach)) if attach.netns_override == expected), "{value}");
        }
    }

    #[test]
    fn e9_e10_e11_verbs_without_an_attachment_need_nothing() {
        assert_eq!(call(&[]).unwrap(), Call::About);
        assert_eq!(call(&[("CNI_COMMAND", "VERSION")]).unwrap(), Call::Version);
        assert_eq!(call(&[("CNI_COMMAND", "STATUS")]).unwrap(), Call::Status);
        assert_eq!(call(&[("CNI_COMMAND", "GC")]).unwrap(), Call::Gc);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let error = parse(|name| match name {
            "CNI_COMMAND" => Some("DEL".into()),
            "CNI_CONTAINERID" => Some(OsString::from_vec(vec![0xff])),
            _ => Some("eth0".into()),
        });
        assert!(matches!(error, Err(Error::NotText { name: "CNI_CONTAINERID" })));
    }
}
