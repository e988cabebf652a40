//! Operation of a request to an API server, from its method and its path. Pure.

use http::{Method, Uri};

/// Operation of a request, in RBAC verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// GET of one object.
    Get,
    /// All of them.
    List,
    /// All that happens to them.
    Watch,
    /// POST of an object.
    Create,
    /// PUT of an object.
    Update,
    /// PATCH of an object.
    Patch,
    /// DELETE of an object.
    Delete,
    /// Any other case.
    Other,
}

/// The parts of a request that fault rules match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Operation of the request.
    pub verb: Verb,
    /// Resource of the request, as `ipleases`; empty for paths such as `/version`.
    pub resource: String,
    /// To which one; empty if to none that exists already.
    pub name: String,
}

impl Asked {
    /// Reads it. A subresource counts as its resource.
    pub fn read(method: &Method, uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let of_objects = match parts.next() {
            Some("api") => parts.next().is_some(),
            Some("apis") => parts.next().and(parts.next()).is_some(),
            _ => false,
        };
        let rest: Vec<&str> = if of_objects { parts.collect() } else { Vec::new() };
        let (resource, name) = match rest[..] {
            ["namespaces", _, resource] | [resource] => (resource, ""),
            ["namespaces", _, resource, name, ..] | [resource, name, ..] => (resource, name),
            [] => ("", ""),
        };
        let pairs = uri.query().unwrap_or_default().split('&');
        let watches = pairs.into_iter().any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let verb = match *method {
            Method::GET if watches => Verb::Watch,
            Method::GET if name.is_empty() => Verb::List,
            Method::GET => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        Self { verb, resource: resource.to_owned(), name: name.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_verb_resource_and_object() {
        for (method, path, expected) in [
            (Method::GET, "/apis/berth.dev/v1alpha1/ipleases?limit=5", (Verb::List, "ipleases", "")),
            (
                Method::GET,
                "/apis/berth.dev/v1alpha1/ipleases?limit=5&watch=true",
                (Verb::Watch, "ipleases", ""),
            ),
            (Method::GET, "/apis/berth.dev/v1alpha1/ipleases/a.b?timeout=5s", (Verb::Get, "ipleases", "a.b")),
            (Method::POST, "/apis/berth.dev/v1alpha1/ipleases?x=y", (Verb::Create, "ipleases", "")),
            (Method::PATCH, "/apis/berth.dev/v1alpha1/ippools/p/status", (Verb::Patch, "ippools", "p")),
            (Method::PUT, "/api/v1/namespaces/d/pods/p", (Verb::Update, "pods", "p")),
            (Method::GET, "/api/v1/pods?watch=1", (Verb::Watch, "pods", "")),
            (Method::DELETE, "/api/v1/namespaces/d", (Verb::Delete, "namespaces", "d")),
            (Method::GET, "/version", (Verb::List, "", "")),
        ] {
            let asked = Asked::read(&method, &path.parse().unwrap());
            assert_eq!((asked.verb, &*asked.resource, &*asked.name), expected, "{method} {path}");
        }
    }
}
