//! From bytes to calls: the length limit, the version and the form of a request.

use berth_protocol::{Call, Failure, LINE_BYTES_MAX, VERSION};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::{CODE_TRY_AGAIN, CODE_UNDECODABLE};

/// Small, because there is one for each connection; longer lines are gathered apart.
const BUFFER_BYTES: usize = 1024;

/// Next item from a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A valid request.
    Call(Box<Call>),
    /// End of file or a broken connection. A line that was begun is nothing.
    HungUp,
    /// Something that is not a request of this protocol.
    Unusable {
        /// The ID of the call, if it could be read; else 0.
        id: u64,
        /// Error for the client.
        failure: Failure,
    },
}

/// Cuts a stream into calls.
pub(super) struct Reader<R> {
    stream: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream), line: Vec::new() }
    }

    /// Waits for a whole line. Call it again only after a call.
    pub(super) async fn next(&mut self) -> Next {
        self.line.clear();
        loop {
            let Ok(bytes) = self.stream.fill_buf().await else { return Next::HungUp };
            if bytes.is_empty() {
                return Next::HungUp;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n').map(|newline| newline + 1);
            let taken = end.unwrap_or(bytes.len());
            if self.line.len() + taken > LINE_BYTES_MAX {
                return too_long();
            }
            self.line.extend_from_slice(&bytes[..taken]);
            self.stream.consume(taken);
            if end.is_some() {
                let next = parse(&self.line);
                // One long line must not occupy memory as long as its client stays.
                self.line.shrink_to(BUFFER_BYTES);
                return next;
            }
        }
    }
}

fn too_long() -> Next {
    let failure = Failure {
        code: CODE_UNDECODABLE,
        msg: format!("the request is longer than {LINE_BYTES_MAX} bytes"),
        details: "send one JSON object a line, ended by a newline".to_owned(),
    };
    Next::Unusable { id: 0, failure }
}

fn parse(line: &[u8]) -> Next {
    let error = match serde_json::from_slice::<Call>(line) {
        Ok(call) if call.v == VERSION => return Next::Call(Box::new(call)),
        Ok(call) => return other_version(&call.v.to_string(), call.id),
        Err(error) => error,
    };
    // Another version may have other requests, so the version is checked before the form.
    let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    let id = value["id"].as_u64().unwrap_or(0);
    match value.get("v") {
        Some(version) if version.as_u64() != Some(u64::from(VERSION)) => {
            other_version(&version.to_string(), id)
        }
        _ => {
            let failure = Failure {
                code: CODE_UNDECODABLE,
                msg: format!("the request is not of protocol version {VERSION}: {error}"),
                details: "docs/protocol.md shows the requests".to_owned(),
            };
            Next::Unusable { id, failure }
        }
    }
}

fn other_version(theirs: &str, id: u64) -> Next {
    let failure = Failure {
        // An upgrade replaces plugin and agent one after the other: later both are of one version.
        code: CODE_TRY_AGAIN,
        msg: format!("the request is of protocol version {theirs}, this agent speaks version {VERSION}"),
        details: "install plugin, berthctl and agent of one release".to_owned(),
    };
    Next::Unusable { id, failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> Vec<Next> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        loop {
            found.push(reader.next().await);
            if !matches!(found.last(), Some(Next::Call(_))) {
                return found;
            }
        }
    }

    fn only(line: &[u8]) -> (u64, Failure) {
        match parse(line) {
            Next::Unusable { id, failure } => (id, failure),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn lines_become_calls_and_a_begun_line_is_nothing() {
        let bytes =
            b"{\"v\":1,\"id\":4,\"request\":\"leases\"}\n{\"v\":1,\"id\":5,\"request\":\"pools\"}\n{\"v\":1,";
        let found = all(bytes).await;
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(matches!(&found[1], Next::Call(call) if call.id == 5));
        assert_eq!(found[2], Next::HungUp);
    }

    #[tokio::test]
    async fn the_limit_is_exact() {
        let call = b"{\"v\":1,\"id\":4,\"request\":\"leases\"}";
        for (length, fits) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false)] {
            let mut line = call.to_vec();
            line.resize(length - 1, b' ');
            line.push(b'\n');
            let found = all(&line).await;
            assert_eq!(matches!(found[0], Next::Call(_)), fits, "{length}");
        }
        let endless = vec![b'x'; 10 * LINE_BYTES_MAX];
        assert!(matches!(&all(&endless).await[0], Next::Unusable { failure, .. } if failure.code == 6));
    }

    #[test]
    fn another_version_is_named_even_if_its_form_is_new() {
        for line in [
            &br#"{"v":2,"id":9,"request":"leases"}"#[..],
            br#"{"v":2,"id":9,"request":{"novel":1},"extra":true}"#,
        ] {
            let (id, failure) = only(line);
            assert_eq!((id, failure.code), (9, 11));
            assert!(
                failure.msg.contains("version 2") && failure.msg.contains("version 1"),
                "{}",
                failure.msg
            );
        }
    }

    #[test]
    fn garbage_is_named_with_its_place() {
        for (line, id, word) in [
            (&b"hello"[..], 0, "column"),
            (b"\xff\xfe", 0, "column"),
            (b"", 0, "EOF"),
            (b"[]", 0, "version 1"),
            (br#"{"id":3}"#, 3, "missing field"),
            (br#"{"v":1,"id":3,"request":"stauts"}"#, 3, "stauts"),
            (br#"{"v":1,"id":3,"request":{"check":{"attachment":{}}}}"#, 3, "network"),
            (br#"{"v":1,"id":3,"request":"leases","more":1}"#, 3, "more"),
        ] {
            let (found, failure) = only(line);
            assert_eq!((found, failure.code), (id, 6), "{failure}");
            assert!(failure.msg.contains(word), "{failure}");
        }
    }
}
