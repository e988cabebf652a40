//! `CNI_ARGS`: the oldest channel through which a runtime passes data about the pod to a plugin.

use std::net::IpAddr;

use berth_ipam::attachment::PodRef;
use berth_ipam::mac::Mac;

use crate::error::{Error, quotable};

/// Content of `CNI_ARGS`. Unknown keys are dropped if the sender set `IgnoreUnknown`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args {
    /// The pod, if both namespace and name are present.
    pub pod: Option<PodRef>,
    /// Value of `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container: Option<String>,
    /// Value of `IP`: requested addresses, separated by commas.
    pub ips: Vec<IpAddr>,
    /// Value of `MAC`.
    pub mac: Option<Mac>,
}

impl Args {
    /// Parses `K=V;K=V`. Unknown keys are an error unless `IgnoreUnknown` is true.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        let (mut namespace, mut name, mut uid) = (None, None, None);
        let mut ignore_unknown = false;
        let mut unknown = None;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let wrong = |rule| Error::WrongArgs { part: quotable(pair), rule };
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong("which is not KEY=VALUE"))?;
            let present = (!value.is_empty()).then(|| value.to_owned());
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown =
                        boolean(value).ok_or_else(|| wrong("which is not 1, 0, true or false"))?;
                }
                "K8S_POD_NAMESPACE" => namespace = present,
                "K8S_POD_NAME" => name = present,
                "K8S_POD_UID" => uid = present,
                "K8S_POD_INFRA_CONTAINER_ID" => args.infra_container = present,
                "IP" => {
                    for part in value.split(',').filter(|part| !part.is_empty()) {
                        let address = address_with_or_without_prefix(part);
                        args.ips.push(address.ok_or_else(|| wrong("which is not an IP address"))?);
                    }
                }
                "MAC" if value.is_empty() => {}
                "MAC" => args.mac = Some(value.parse().map_err(|_| wrong("which is not a MAC address"))?),
                _ => unknown = unknown.or_else(|| Some(pair.to_owned())),
            }
        }
        if let (Some(part), false) = (unknown, ignore_unknown) {
            let rule = "which has an unknown key; correct the key, or add IgnoreUnknown=1 to have it ignored";
            return Err(Error::WrongArgs { part: quotable(&part), rule });
        }
        if let (Some(namespace), Some(name)) = (namespace, name) {
            args.pod = Some(PodRef { namespace, name, uid });
        }
        Ok(args)
    }
}

/// The spellings that the reference implementation takes.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" => Some(true),
        "0" | "false" | "f" => Some(false),
        _ => None,
    }
}

/// An address as requests for one write it: the prefix length, if there is one, must be valid too.
pub(crate) fn address_with_or_without_prefix(text: &str) -> Option<IpAddr> {
    match text.split_once('/') {
        None => text.parse().ok(),
        Some(_) => text.parse::<ipnetwork::IpNetwork>().ok().map(|network| network.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_names_its_pod() {
        let args = Args::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;X=y",
        )
        .unwrap();
        let pod =
            PodRef { namespace: "ns".to_owned(), name: "web-0".to_owned(), uid: Some("u-1".to_owned()) };
        assert_eq!(args.pod, Some(pod));
        assert_eq!(args.infra_container.as_deref(), Some("abc"));
    }

    #[test]
    fn an_older_runtime_omits_the_uid() {
        let args = Args::parse("IgnoreUnknown=true;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0").unwrap();
        assert_eq!(args.pod.unwrap().uid, None);
        assert_eq!(Args::parse("K8S_POD_NAME=web-0").unwrap().pod, None);
    }

    #[test]
    fn e6_unknown_keys_need_permission_wherever_it_stands() {
        assert!(Args::parse("FOO=bar").unwrap_err().to_string().contains("FOO=bar"));
        assert!(Args::parse("IgnoreUnknown=0;FOO=bar").is_err());
        assert_eq!(Args::parse("FOO=bar;IgnoreUnknown=1").unwrap(), Args::default());
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["FOO", "IgnoreUnknown=maybe", "IP=10.0.0", "IP=10.0.0.7/33", "IP=10.0.0.7/", "MAC=zz"] {
            let error = Args::parse(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn addresses_and_mac_are_read() {
        let args = Args::parse("IP=10.0.0.7,2001:db8::7/64;MAC=02:00:00:00:00:07").unwrap();
        assert_eq!(args.ips, ["10.0.0.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert_eq!(args.mac.unwrap().to_string(), "02:00:00:00:00:07");
    }
}
