//! The alias that the plugin sets on a link that it creates, before it asks the agent to bind it.
//!
//! Form: `berth:<network>:<containerID>:<ifname>:<cookie>`. An operator can read the holder from it. A later
//! DEL identifies the link by it where the MAC proves nothing (a passthru child has its parent's MAC). Any
//! process with rights in the namespace can change an alias. It is therefore a hint that needs the matching
//! cookie, never proof of a holder.

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::NetnsCookie;

use crate::spool;

/// The longest alias that the kernel takes (`IFALIASZ` less its end).
const LONGEST: usize = 255;

/// Prefix of every alias.
pub const PREFIX: &str = "berth:";

/// Attachment and namespace that an alias names; `None` if it is not a Berth alias, or if the key was too
/// long to fit.
pub fn parse(alias: &str) -> Option<(AttachmentKey, NetnsCookie)> {
    let mut parts = alias.strip_prefix(PREFIX)?.split(':');
    let mut next = || parts.next();
    let key = AttachmentKey {
        network: next()?.parse().ok()?,
        container_id: next()?.parse().ok()?,
        ifname: next()?.parse().ok()?,
    };
    let cookie = NetnsCookie(next()?.parse().ok()?);
    next().is_none().then_some((key, cookie))
}

/// The alias of an attachment's link. A key that does not fit is hashed.
pub fn write(key: &AttachmentKey, cookie: NetnsCookie) -> String {
    let plain = format!("berth:{}:{}:{}:{cookie}", key.network, key.container_id, key.ifname);
    if plain.len() <= LONGEST {
        return plain;
    }
    let hash = spool::file_name(key, Role::Main, None);
    format!("berth:{}:{cookie}", hash.trim_end_matches(".json"))
}

/// The cookie in an alias, if the alias is that of `key`.
pub fn cookie_of(alias: &str, key: &AttachmentKey) -> Option<NetnsCookie> {
    let (_, cookie) = alias.rsplit_once(':')?;
    let cookie = NetnsCookie(cookie.parse().ok()?);
    (write(key, cookie) == alias).then_some(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    #[test]
    fn an_alias_names_one_attachment_and_its_namespace() {
        let alias = write(&key("c1"), NetnsCookie(7));
        assert_eq!(alias, "berth:lan:c1:eth0:7");
        assert_eq!(cookie_of(&alias, &key("c1")), Some(NetnsCookie(7)));
        assert_eq!(cookie_of(&alias, &key("c2")), None);
        assert_eq!(parse(&alias), Some((key("c1"), NetnsCookie(7))));
        for foreign in
            ["", "berth", "uplink: lan", "berth:lan:c1:eth0:x", "berth:lan:c1:eth0", "berth:lan:c1:eth0:1:2"]
        {
            assert_eq!(parse(foreign), None, "{foreign}");
            assert_eq!(cookie_of(foreign, &key("c1")), None);
        }
    }

    #[test]
    fn the_longest_key_still_fits() {
        let long = key(&"c".repeat(253));
        let alias = write(&long, NetnsCookie(u64::MAX));
        assert!(alias.len() <= LONGEST);
        assert_eq!(cookie_of(&alias, &long), Some(NetnsCookie(u64::MAX)));
        assert_eq!(cookie_of(&alias, &key(&"d".repeat(253))), None);
    }
}
