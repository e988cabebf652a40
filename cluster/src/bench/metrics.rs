//! Metrics of the API server: requests by verb and code, bytes that its watches sent. Pure.

use std::collections::BTreeMap;

/// Requests since the server's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// Counts by `VERB CODE`.
    pub by_code: BTreeMap<String, u64>,
    /// Those that change something, by `VERB resource`.
    pub writes: BTreeMap<String, u64>,
    /// Those of them that were carried out, by the same.
    pub done: BTreeMap<String, u64>,
    /// Bytes that watches sent, before encryption.
    pub watch_bytes: u64,
}

/// Parses the text of `/metrics`.
pub fn read(text: &str) -> Requests {
    let mut requests = Requests::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("apiserver_request_total{") {
            count(&mut requests, rest);
        } else if let Some(rest) = line.strip_prefix("apiserver_watch_events_sizes_sum{") {
            requests.watch_bytes += rest.rsplit('}').next().map_or(0, number);
        }
    }
    requests
}

fn count(requests: &mut Requests, line: &str) {
    let Some((labels, value)) = line.rsplit_once('}') else { return };
    let (verb, code) = (label(labels, "verb"), label(labels, "code"));
    let (resource, part) = (label(labels, "resource"), label(labels, "subresource"));
    // Probes of the server itself, and this question.
    if resource.is_empty() {
        return;
    }
    let value = number(value);
    *requests.by_code.entry(format!("{verb} {code}")).or_default() += value;
    if !["GET", "LIST", "WATCH"].contains(&verb) {
        let part = if part.is_empty() { String::new() } else { format!("/{part}") };
        let key = format!("{verb} {resource}{part}");
        if code.starts_with('2') {
            *requests.done.entry(key.clone()).or_default() += value;
        }
        *requests.writes.entry(key).or_default() += value;
    }
}

/// The value of a label; empty if it is not there.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let wanted = |part: &&'a str| part.strip_prefix(name).is_some_and(|rest| rest.starts_with("=\""));
    // The used label values have no comma.
    let found = labels.split(',').find(wanted);
    found.and_then(|part| part.split('"').nth(1)).unwrap_or_default()
}

/// Counts are written as floating point numbers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and positive")]
fn number(text: &str) -> u64 {
    text.trim().parse::<f64>().map_or(0, |value| value.max(0.0) as u64)
}

impl Requests {
    /// Counts since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: &BTreeMap<String, u64>, old: &BTreeMap<String, u64>| {
            let differences = now
                .iter()
                .map(|(key, value)| (key.clone(), value.saturating_sub(old.get(key).copied().unwrap_or(0))));
            differences.filter(|(_, value)| *value > 0).collect()
        };
        Self {
            by_code: less(&self.by_code, &before.by_code),
            writes: less(&self.writes, &before.writes),
            done: less(&self.done, &before.done),
            watch_bytes: self.watch_bytes.saturating_sub(before.watch_bytes),
        }
    }

    /// Number of all requests.
    pub fn total(&self) -> u64 {
        self.by_code.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP apiserver_request_total x
apiserver_request_total{code="200",component="",group="",resource="",subresource="/readyz",verb="GET"} 3
apiserver_request_total{code="201",component="apiserver",group="",resource="pods",subresource="",verb="POST"} 7
apiserver_request_total{code="201",component="apiserver",group="",resource="pods",subresource="binding",verb="POST"} 1e+03
apiserver_request_total{code="409",component="apiserver",group="",resource="pods",subresource="",verb="POST"} 2
apiserver_request_total{code="200",component="apiserver",group="",resource="pods",subresource="",verb="LIST"} 4
apiserver_watch_events_sizes_sum{group="",resource="pods",version="v1"} 8015
apiserver_watch_events_sizes_sum{group="apps",resource="deployments",version="v1"} 1.5e+03
"#;

    #[test]
    fn requests_are_counted_by_verb_and_code_and_writes_by_resource() {
        let read = read(TEXT);
        assert_eq!(read.by_code["POST 201"], 1007);
        assert_eq!(read.by_code["POST 409"], 2);
        assert!(!read.by_code.contains_key("GET 200"), "the server's own");
        assert_eq!((read.writes["POST pods"], read.done["POST pods"]), (9, 7));
        assert_eq!(read.writes["POST pods/binding"], 1000);
        assert_eq!(read.writes.len(), 2, "a list changes nothing");
        assert_eq!((read.watch_bytes, read.total()), (9515, 1013));
    }

    #[test]
    fn only_what_came_since_counts() {
        let (before, mut now) = (read(TEXT), read(TEXT));
        *now.by_code.get_mut("POST 201").unwrap() += 5;
        now.watch_bytes += 1;
        let since = now.since(&before);
        assert_eq!(since.by_code, BTreeMap::from([("POST 201".to_owned(), 5)]));
        assert!(since.writes.is_empty() && since.watch_bytes == 1);
    }
}
