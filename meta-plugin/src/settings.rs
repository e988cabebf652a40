//! Berth's settings in the network configuration: the role, the network, the place of the agent.
//!
//! No lookups are done here. A DEL reads as few keys as possible, because every required key is one more way
//! for an address to leak.

use std::path::PathBuf;
use std::time::Duration;

use berth_cni::{Error, NetConf};
use berth_ipam::attachment::Role;
use berth_ipam::name::NetworkName;
use serde_json::Value;

/// The plugin's own type.
const TYPE: &str = "berth";

/// Default of `socket`.
const SOCKET: &str = "/run/berth/agent.sock";

/// Default of `stateDir`: the folder of the spool and of the sign of life.
const STATE_DIR: &str = "/var/lib/berth";

/// Default of `bootIDFile`.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The longest `addTimeout`, as for a network's own.
const LONGEST_ADD: Duration = Duration::from_secs(230);

/// Units of durations in milliseconds; `ms` comes before its prefix `m`.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Berth's part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The `UnderlayNetwork`; by default the CNI network's name.
    pub network: NetworkName,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The folder that plugin and agent share.
    pub state_dir: PathBuf,
    /// The file with the boot id.
    pub boot_id_file: PathBuf,
    /// True if Berth was called as the IPAM of another main plugin.
    pub delegate: bool,
}

impl Settings {
    /// Reads them; a wrong type or value is an error that names key and value.
    pub fn read(conf: &NetConf) -> Result<Self, Error> {
        let keys = Keys::of(conf)?;
        let network = match keys.text("network")? {
            None => conf.name().clone(),
            Some((key, text)) => {
                text.parse().map_err(|error| wrong(&key, text, format!("a name: {error}")))?
            }
        };
        Ok(Self {
            network,
            socket: keys.path("socket", SOCKET)?,
            state_dir: keys.path("stateDir", STATE_DIR)?,
            boot_id_file: keys.path("bootIDFile", BOOT_ID_FILE)?,
            delegate: keys.delegate,
        })
    }

    /// The role of an ADD or CHECK. For a DEL the configuration is not sufficient: a main plugin's DEL gets a
    /// `prevResult` too.
    pub fn role(&self, conf: &NetConf) -> Result<Role, Error> {
        Ok(match conf.get("prevResult")? {
            _ if self.delegate => Role::Delegate,
            Some(_) => Role::Chained,
            None => Role::Main,
        })
    }
}

/// Time limit of an ADD for an address; `None`: the network's limit applies.
pub fn add_timeout(conf: &NetConf) -> Result<Option<Duration>, Error> {
    match Keys::of(conf)?.text("addTimeout")? {
        None => Ok(None),
        Some((key, text)) => {
            let expected = "a duration of 0s to 230s such as \"110s\", \"500ms\" or \"1m30s\", because kubelet gives up after 240s";
            let within = duration(text).filter(|time| *time <= LONGEST_ADD);
            within.map(Some).ok_or_else(|| wrong(&key, text, expected))
        }
    }
}

/// The IPAM plugin that assigns the addresses instead of Berth; `None`: Berth assigns them.
pub fn foreign_ipam(conf: &NetConf) -> Result<Option<&str>, Error> {
    let Some(kind) = conf.text("ipam.type")?.filter(|kind| !kind.is_empty() && *kind != TYPE) else {
        return Ok(None);
    };
    if kind.contains('/') {
        return Err(wrong("ipam.type", kind, "the name of a plugin in CNI_PATH, without a slash"));
    }
    Ok(Some(kind))
}

/// Lookup of keys. A delegate's keys are in `ipam`, because the top level belongs to the main plugin.
/// Otherwise the top level comes first, and an `ipam` of another plugin is that plugin's.
struct Keys<'a> {
    conf: &'a NetConf,
    delegate: bool,
    foreign: bool,
}

impl<'a> Keys<'a> {
    fn of(conf: &'a NetConf) -> Result<Self, Error> {
        let own = conf.text("type")?;
        let ipam = conf.text("ipam.type").unwrap_or_default();
        let delegate = match (own, ipam) {
            (Some(TYPE), _) => false,
            (_, Some(TYPE)) => true,
            _ => {
                let value = own.map_or(Value::Null, Value::from);
                return Err(Error::field("type", &value, "\"berth\", or ipam.type must be"));
            }
        };
        Ok(Self { conf, delegate, foreign: !matches!(ipam, None | Some("" | TYPE)) })
    }

    fn text(&self, name: &str) -> Result<Option<(String, &'a str)>, Error> {
        let nested = format!("ipam.{name}");
        let places = if self.delegate { [nested, name.to_owned()] } else { [name.to_owned(), nested] };
        for key in places {
            // The network of a delegate is never the main plugin's key of that name.
            let not_ours = if self.delegate { key == "network" } else { self.foreign && key.contains('.') };
            if not_ours {
                continue;
            }
            if let Some(text) = self.conf.text(&key)?.filter(|text| !text.is_empty()) {
                return Ok(Some((key, text)));
            }
        }
        Ok(None)
    }

    fn path(&self, name: &str, default: &str) -> Result<PathBuf, Error> {
        let Some((key, text)) = self.text(name)? else { return Ok(PathBuf::from(default)) };
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(wrong(&key, text, "an absolute path")) }
    }
}

fn wrong(key: &str, text: &str, expected: impl Into<String>) -> Error {
    Error::field(key, &Value::from(text), expected)
}

/// The form of the declarations' durations: whole numbers with units, as in `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, millis) = UNITS.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        sum = sum.checked_add(number.checked_mul(millis)?)?;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::from_millis(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NetConf {
        NetConf::parse(text.as_bytes()).unwrap()
    }

    fn settings(text: &str) -> Settings {
        Settings::read(&conf(text)).unwrap()
    }

    #[test]
    fn the_three_roles_are_told_apart() {
        for (text, role) in [
            (r#"{"name":"n","type":"berth"}"#, Role::Main),
            (r#"{"name":"n","type":"berth","prevResult":null}"#, Role::Main),
            (r#"{"name":"n","type":"berth","prevResult":{}}"#, Role::Chained),
            (r#"{"name":"n","type":"macvlan","ipam":{"type":"berth"}}"#, Role::Delegate),
            (r#"{"name":"n","type":"berth","ipam":{"type":"berth"}}"#, Role::Main),
        ] {
            assert_eq!(settings(text).role(&conf(text)).unwrap(), role, "{text}");
        }
        assert!(Settings::read(&conf(r#"{"name":"n","type":"macvlan"}"#)).is_err());
    }

    #[test]
    fn defaults_and_places_of_keys() {
        let plain = settings(r#"{"name":"n","type":"berth"}"#);
        assert_eq!((plain.network.as_str(), plain.socket.to_str()), ("n", Some(SOCKET)));
        let delegate = settings(
            r#"{"name":"n","type":"macvlan","network":"other","ipam":{"type":"berth","network":"lan","socket":"/s"},"stateDir":"/d"}"#,
        );
        assert_eq!(delegate.network.as_str(), "lan");
        assert_eq!(delegate.socket, PathBuf::from("/s"));
        assert_eq!(delegate.state_dir, PathBuf::from("/d"));
        let unnamed = settings(r#"{"name":"n","type":"macvlan","network":"other","ipam":{"type":"berth"}}"#);
        assert_eq!(unnamed.network.as_str(), "n");
    }

    #[test]
    fn wrong_values_name_key_and_value() {
        for (text, key, value) in [
            (r#"{"name":"n","type":"berth","network":7}"#, "network", "7"),
            (r#"{"name":"n","type":"berth","network":"a b"}"#, "network", "a b"),
            (r#"{"name":"n","type":"berth","socket":"rel"}"#, "socket", "rel"),
            (r#"{"name":"n","type":"macvlan","ipam":{"type":"berth","stateDir":[]}}"#, "ipam.stateDir", "[]"),
        ] {
            let error = Settings::read(&conf(text)).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
        let path = conf(r#"{"name":"n","type":"berth","ipam":{"type":"../dhcp"}}"#);
        assert!(foreign_ipam(&path).unwrap_err().to_string().contains("../dhcp"));
    }

    #[test]
    fn the_ipam_of_another_plugin_says_nothing_to_berth() {
        let conf =
            conf(r#"{"name":"n","type":"berth","ipam":{"type":"dhcp","socket":"/run/dhcp","network":7}}"#);
        assert_eq!(foreign_ipam(&conf).unwrap(), Some("dhcp"));
        let read = Settings::read(&conf).unwrap();
        assert_eq!((read.socket, read.network.as_str()), (PathBuf::from(SOCKET), "n"));
    }

    #[test]
    fn durations_have_a_unit() {
        let read = |value: &str| {
            add_timeout(&conf(&format!(r#"{{"name":"n","type":"berth","addTimeout":{value}}}"#)))
        };
        assert_eq!(read("\"110s\"").unwrap(), Some(Duration::from_secs(110)));
        assert_eq!(read("\"500ms\"").unwrap(), Some(Duration::from_millis(500)));
        assert_eq!(read("\"2m\"").unwrap(), Some(Duration::from_mins(2)));
        assert_eq!(read("\"1m30s\"").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(read("\"0s\"").unwrap(), Some(Duration::ZERO));
        assert_eq!(read("\"3m50s\"").unwrap(), Some(LONGEST_ADD));
        for bad in
            ["110", "\"110\"", "\"s\"", "\"1.5s\"", "\"1m30\"", "\"231s\"", "\"99999999999999999999s\""]
        {
            assert!(read(bad).unwrap_err().to_string().contains("addTimeout"), "{bad}");
        }
    }
}
