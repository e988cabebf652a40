//! The same contract over a real API server, if there is one: `BERTH_TEST_KUBECONFIG` names a kubeconfig of a
//! cluster where these tests may create and delete leases. The test bed sets it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_ipam::time::Time;
use berth_store::kubernetes::{Contact, KubernetesStore, LeaseEvent, Settings, client};
use berth_store::{LeaseStore as _, StoreError};
use kube::config::Kubeconfig;
use tokio::runtime::Runtime;

use crate::common::record;
use crate::{has_one_winner, keeps_the_contract, runtime};

const VARIABLE: &str = "BERTH_TEST_KUBECONFIG";

/// A store in the real cluster, emptied; `None` without one.
fn real(runtime: &Runtime) -> Option<(KubernetesStore, PathBuf)> {
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        berth_testbed::skip::because(&format!(
            "{VARIABLE} names no kubeconfig; `cargo xtask cluster up` makes one"
        ));
        return None;
    };
    runtime.block_on(async {
        let contact = Contact::new(|| Time(1));
        let settings = Settings { page: 3, ..Settings::default() };
        let store = KubernetesStore::new(client(Some(&path)).await.unwrap(), contact.clone(), settings);
        for row in store.listing().await.unwrap().rows {
            store.delete(&row.record.address_key(), &row.version).await.unwrap();
        }
        assert!(contact.last().is_some());
        Some((store, path))
    })
}

/// One test, because all of it is about the same objects.
#[test]
fn a_real_api_server_keeps_the_contract() {
    let runtime = runtime();
    let Some((store, path)) = real(&runtime) else { return };
    runtime.block_on(keeps_the_contract(&store));
    runtime.block_on(has_one_winner(Arc::new(store.clone())));
    runtime.block_on(refuses_what_the_rules_refuse(&store));
    runtime.block_on(does_not_free_what_a_finalizer_keeps(&store, &path));
    runtime.block_on(turns_strangers_away(&path));
    runtime.block_on(lists_in_pages(&store));
    runtime.block_on(watches(&store));
}

async fn refuses_what_the_rules_refuse(store: &KubernetesStore) {
    let mut wrong = record("192.0.2.7", "wrong");
    wrong.txn.0 = "x".repeat(65);
    let error = store.create(&wrong).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert_eq!(store.get(&wrong.address_key()).await.unwrap(), None);
}

async fn does_not_free_what_a_finalizer_keeps(store: &KubernetesStore, path: &Path) {
    let (api, kept) = (client(Some(path)).await.unwrap(), record("192.0.2.7", "kept"));
    let (key, name) = (kept.address_key(), kept.address_key().record_name());
    let put = async |finalizers: &str| {
        let body = format!(r#"{{"metadata":{{"finalizers":{finalizers}}}}}"#).into_bytes();
        let request = http::Request::patch(format!("/apis/berth.dev/v1alpha1/ipleases/{name}"))
            .header("content-type", "application/merge-patch+json");
        api.request_text(request.body(body).unwrap()).await.unwrap();
    };
    let stale = store.create(&kept).await.unwrap();
    put(r#"["example.com/keep"]"#).await;
    let refused = store.delete(&key, &stale).await.unwrap_err();
    let StoreError::Conflict { current, .. } = refused else { panic!("{refused}") };
    let error = store.delete(&key, &current.version).await.unwrap_err();
    assert!(matches!(error, StoreError::Finalizers { .. }), "{error}");
    assert!(store.get(&key).await.unwrap().is_some());
    put("null").await;
    assert_eq!(store.get(&key).await.unwrap(), None);
}

/// A token that was never issued, and a user without any right.
async fn turns_strangers_away(path: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let stranger = async |edit: fn(&mut kube::config::AuthInfo)| {
        let mut config = Kubeconfig::read_from(path).unwrap();
        config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()).for_each(edit);
        let file = folder.path().join("config");
        // The client's own form hides the token; as YAML takes JSON, so does kube.
        let text = serde_json::to_string(&config).unwrap();
        std::fs::write(&file, text).unwrap();
        let client = client(Some(&file)).await.unwrap();
        KubernetesStore::new(client, Contact::new(|| Time(1)), Settings::default())
    };
    let wrong = stranger(|info| {
        *info = kube::config::AuthInfo { token: Some("wrong".to_owned().into()), ..Default::default() };
    });
    let error = wrong.await.create(&record("192.0.2.7", "stranger")).await.unwrap_err();
    assert!(matches!(error, StoreError::NotAuthenticated { .. }), "{error}");
    let nobody = stranger(|info| info.impersonate = Some("nobody".to_owned()));
    let error = nobody.await.create(&record("192.0.2.7", "stranger")).await.unwrap_err();
    assert!(matches!(error, StoreError::Forbidden { .. }), "{error}");
}

async fn lists_in_pages(store: &KubernetesStore) {
    for address in 1..=10 {
        store.create(&record(&format!("192.0.2.{address}"), "page")).await.unwrap();
    }
    assert_eq!(store.list().await.unwrap().len(), 10);
}

async fn watches(store: &KubernetesStore) {
    let mut watch = store.watch();
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
    let LeaseEvent::Restarted { rows, unreadable } = next().await else { panic!("first all of them") };
    assert_eq!((rows.len(), unreadable.len()), (10, 0));
    for row in rows {
        let mut other = row.record.clone();
        other.generation += 1;
        let version = store.replace(&other, &row.version).await.unwrap();
        let LeaseEvent::Applied(seen) = next().await else { panic!("a change") };
        assert_eq!((&seen.record, &seen.version), (&other, &version));
        store.delete(&other.address_key(), &version).await.unwrap();
        let LeaseEvent::Deleted { key, version: last, .. } = next().await else { panic!("a deletion") };
        assert_eq!((key, last.uid), (Some(other.address_key()), version.uid));
    }
}
