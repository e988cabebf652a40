//! The node that the agent's own token names.
//!
//! The token of a service account is a signed JSON text. Since Kubernetes 1.30 it names the node of the pod
//! that it is bound to, and the API server passes that node to admission policies. The payload is read
//! without its signature: the API server checks that with each request, and only advice depends on it here.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::Config;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

/// Maximum length of a token in bytes.
const TOKEN_MAX: usize = 64 * 1024;

/// Node in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenNode {
    /// It names this node.
    Named(String),
    /// It names none: it was issued by Kubernetes below 1.30, is not bound to a pod or a node, or is of
    /// another form.
    Unnamed,
    /// The agent has no token that can be read: it authenticates by a certificate or a program, or the
    /// token's file is missing.
    NoToken,
}

/// Payload of a service account's token.
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Binding>,
}

#[derive(Deserialize)]
struct Binding {
    node: Option<Node>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
}

/// Reads the node from the token with which [`super::client`] talks to the API server.
pub async fn token_node(kubeconfig: Option<&Path>) -> TokenNode {
    match super::connect::config(kubeconfig).await {
        Ok(config) => token(&config).map_or(TokenNode::NoToken, |token| node_in(&token)),
        Err(_) => TokenNode::NoToken,
    }
}

fn token(config: &Config) -> Option<String> {
    let given = config.auth_info.token.as_ref().map(|token| token.expose_secret().to_owned());
    given.or_else(|| std::fs::read_to_string(config.auth_info.token_file.as_ref()?).ok())
}

fn node_in(token: &str) -> TokenNode {
    let payload = || {
        let part = token.trim().split('.').nth(1)?;
        let text = URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Payload>(&text).ok()
    };
    let payload = (token.len() <= TOKEN_MAX).then(payload).flatten();
    let node = payload.and_then(|payload| payload.kubernetes?.node);
    node.map(|node| node.name).filter(|name| !name.is_empty()).map_or(TokenNode::Unnamed, TokenNode::Named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(payload: &str) -> String {
        let [head, payload] = [r#"{"alg":"RS256"}"#, payload].map(|text| URL_SAFE_NO_PAD.encode(text));
        format!("{head}.{payload}.c2lnbmF0dXJl")
    }

    #[test]
    fn a_token_names_its_node_or_none() {
        let named = |name: &str| TokenNode::Named(name.to_owned());
        let account = r#""serviceaccount":{"name":"berth-agent","uid":"u"}"#;
        for (payload, node) in [
            (format!(r#"{{"kubernetes.io":{{"node":{{"name":"n1","uid":"u"}},{account}}}}}"#), named("n1")),
            (
                format!(r#"{{"kubernetes.io":{{"pod":{{"name":"a","uid":"u"}},{account}}}}}"#),
                TokenNode::Unnamed,
            ),
            (r#"{"kubernetes.io":{"node":{"name":""}}}"#.to_owned(), TokenNode::Unnamed),
            (r#"{"sub":"x"}"#.to_owned(), TokenNode::Unnamed),
            ("no JSON".to_owned(), TokenNode::Unnamed),
        ] {
            assert_eq!(node_in(&format!("{}\n", token_of(&payload))), node, "{payload}");
        }
        for other in ["account-berth-system-berth-agent-token", "a.b.c", "", &"a.".repeat(TOKEN_MAX)] {
            assert_eq!(node_in(other), TokenNode::Unnamed, "{other:.40}");
        }
    }

    #[tokio::test]
    async fn the_token_is_that_of_the_kubeconfig_in_it_or_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let token = token_of(r#"{"kubernetes.io":{"node":{"name":"n7"}}}"#);
        let file = folder.path().join("token");
        std::fs::write(&file, &token).unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let absent = folder.path().join("absent");
        let named = TokenNode::Named("n7".to_owned());
        for (user, node) in [
            (format!("token: {token}"), named.clone()),
            (format!("tokenFile: {}", file.display()), named),
            (format!("tokenFile: {}", absent.display()), TokenNode::NoToken),
            ("username: me".to_owned(), TokenNode::NoToken),
        ] {
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                 clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:1\"}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
            );
            std::fs::write(&kubeconfig, text).unwrap();
            assert_eq!(token_node(Some(&kubeconfig)).await, node, "{user}");
        }
        assert_eq!(token_node(Some(&absent)).await, TokenNode::NoToken);
    }
}
