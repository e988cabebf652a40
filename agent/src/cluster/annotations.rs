//! Requests in a pod's annotations (docs/annotations.md): parsed in one place, from every source.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_ipam::ledger::io::LeaseRequest;

use super::pods::Annotations;

/// The addresses that a pod requests, on all of its interfaces or, with the suffix `.<interface>`, on one.
const IPS: &str = "berth.dev/ips";

/// An annotation that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A part of the value is not an address.
    #[error(
        "annotation {key}: {value:?} is not an address; write addresses separated by commas, as in 10.0.0.7,fd00::7"
    )]
    NotAnAddress {
        /// Key of the annotation.
        key: String,
        /// The invalid part.
        value: String,
    },
    /// An interface gets one address of each family, so a second one would be passed over.
    #[error("annotation {key}: {first} and {second} are of one family; write one address of each at most")]
    TwoOfAFamily {
        /// Key of the annotation.
        key: String,
        /// The first address.
        first: IpAddr,
        /// The second address.
        second: IpAddr,
    },
}

/// Adds the requests of the annotations to a lease request. The runtime's own requests take precedence.
pub fn apply(request: &mut LeaseRequest, annotations: &Annotations) -> Result<(), AnnotationError> {
    if !request.ips.is_empty() || request.adopt {
        return Ok(());
    }
    let own = format!("{IPS}.{}", request.key.ifname);
    let found = [own.as_str(), IPS].into_iter().find_map(|key| Some((key, annotations.get(key)?)));
    let Some((key, text)) = found else { return Ok(()) };
    let asked: BTreeSet<IpAddr> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let wrong = |_| AnnotationError::NotAnAddress {
                key: key.to_owned(),
                value: part.chars().take(100).collect(),
            };
            part.parse::<IpAddr>().map_err(wrong)
        })
        .collect::<Result<_, _>>()?;
    for v4 in [true, false] {
        let mut family = asked.iter().filter(|address| address.is_ipv4() == v4);
        if let (Some(&first), Some(&second)) = (family.next(), family.next()) {
            return Err(AnnotationError::TwoOfAFamily { key: key.to_owned(), first, second });
        }
    }
    request.ips = asked.into_iter().collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use berth_ipam::attachment::{AttachmentKey, Role};
    use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid, TxnId};

    use super::*;

    fn request() -> LeaseRequest {
        LeaseRequest {
            txn: TxnId("t".to_owned()),
            key: AttachmentKey {
                network: "lan".parse().unwrap(),
                container_id: "c".parse().unwrap(),
                ifname: "net1".parse().unwrap(),
            },
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            netns: NetnsIdentity { cookie: NetnsCookie(1), inode: 1, nsid: Nsid(1), nsid_is_random: true },
            pod: None,
            ips: Vec::new(),
            adopt: false,
            mac: None,
            add_timeout: None,
            standing: berth_ipam::access::Standing::default(),
        }
    }

    fn applied(annotations: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut request = request();
        apply(&mut request, &annotations).map_err(|error| error.to_string())?;
        Ok(request.ips.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_asked_for_by_pod_or_by_interface() {
        assert_eq!(applied(&[]), Ok(vec![]));
        let both = [("berth.dev/ips", "10.0.0.7, fd00::7,"), ("berth.dev/ips.eth0", "10.0.0.9")];
        assert_eq!(applied(&both), Ok(vec!["10.0.0.7".to_owned(), "fd00::7".to_owned()]));
        let one = [("berth.dev/ips", "10.0.0.7"), ("berth.dev/ips.net1", "10.0.0.8")];
        assert_eq!(applied(&one), Ok(vec!["10.0.0.8".to_owned()]));
        assert_eq!(applied(&[("berth.dev/ips", "10.0.0.7,10.0.0.7")]), Ok(vec!["10.0.0.7".to_owned()]));
        let wrong = applied(&[("berth.dev/ips", "10.0.0.7/24")]).unwrap_err();
        assert!(wrong.contains("berth.dev/ips") && wrong.contains("10.0.0.7/24"), "{wrong}");
        for (value, pair) in [
            ("10.0.0.7,fd00::7,10.0.0.8", "10.0.0.7 and 10.0.0.8"),
            ("fd00::7,10.0.0.7,fd00::8", "fd00::7 and fd00::8"),
        ] {
            let wrong = applied(&[("berth.dev/ips.net1", value)]).unwrap_err();
            assert!(wrong.contains("berth.dev/ips.net1") && wrong.contains(pair), "{wrong}");
        }
    }

    #[test]
    fn what_the_runtime_asked_for_itself_comes_first() {
        let annotations = Annotations::from([("berth.dev/ips".to_owned(), "10.0.0.7".to_owned())]);
        let mut asked = LeaseRequest { ips: vec!["10.0.0.1".parse().unwrap()], ..request() };
        apply(&mut asked, &annotations).unwrap();
        assert_eq!(asked.ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
