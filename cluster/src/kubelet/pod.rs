//! One pod on its node: sandbox, ADD, status; then DEL, and the object's end. A failed ADD is followed by a
//! DEL, and the next try has a new container id and waits longer.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use kube::Api as Kind;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::sync::watch;

use super::{Record, Running, Shared, TRY_AGAIN, lock, objects};
use crate::habits::back_off;
use crate::runtime::{PodName, Sandbox};

/// Desired state of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The pod has a sandbox.
    Run,
    /// The pod has another sandbox than now, because that one ended. Then `Run` again.
    Renew,
    /// Without one; its object waits for that.
    Stop,
    /// The object is gone: it was deleted by force, or by us.
    Gone,
}

/// Required parts of a pod's object.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Name and UID of the pod.
    pub pod: PodName,
    /// Names and images.
    pub containers: Vec<(String, String)>,
    /// In the node's own namespace: no sandbox, no CNI.
    pub host_network: bool,
}

impl Facts {
    /// `None` for an object that no server would send.
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let annotations = meta.annotations.clone().unwrap_or_default();
        let name = PodName {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            annotations: Value::from_iter(annotations),
        };
        let spec = pod.spec.as_ref()?;
        let listed = spec.containers.iter();
        let containers =
            listed.map(|container| (container.name.clone(), container.image.clone().unwrap_or_default()));
        let host_network = spec.host_network.unwrap_or(false);
        Some(Self { pod: name, containers: containers.collect(), host_network })
    }
}

/// Desired state in a pod's object.
pub fn wish(pod: &Pod) -> Wish {
    // Force-deleted: the object is removed at once, and this is its last event.
    if pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0) {
        return Wish::Gone;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return Wish::Stop;
    }
    Wish::Run
}

type Held = Arc<Mutex<Sandbox>>;

/// A pod's life on the node, until its object is gone.
pub(super) async fn live(shared: Arc<Shared>, facts: Facts, mut wish: watch::Receiver<Wish>) {
    let uid = facts.pod.uid.clone();
    let (mut current, mut failures) = (shared.resume(&facts, &mut wish).await, 0);
    let mut former = Vec::new();
    loop {
        let now = *wish.borrow_and_update();
        match (now, &current) {
            (Wish::Run, None) if facts.host_network => {
                shared.report(&facts, None, &mut wish).await;
                if wish.changed().await.is_err() {
                    return;
                }
            }
            (Wish::Run, None) => {
                current = shared.attach(&facts.pod).await;
                if let Some(held) = &current {
                    failures = 0;
                    for dead in former.drain(..) {
                        shared.take_down(dead).await;
                    }
                    shared.report(&facts, Some(held), &mut wish).await;
                    continue;
                }
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(back_off(failures)) => {}
                    _ = wish.changed() => {}
                }
            }
            (Wish::Run, Some(_)) => {
                if wish.changed().await.is_err() {
                    return;
                }
            }
            (Wish::Renew, _) => {
                lock(&shared.running).remove(&uid);
                if let Some(held) = current.take() {
                    former.extend(shared.renew(held).await);
                }
                shared.renewed(&uid);
            }
            (Wish::Stop, _) => {
                for held in current.take().into_iter().chain(former.drain(..)) {
                    shared.take_down(held).await;
                }
                lock(&shared.running).remove(&uid);
                shared.delete(&facts.pod).await;
                break;
            }
            (Wish::Gone, _) => {
                lock(&shared.running).remove(&uid);
                if let Some(held) = current.take().filter(|_| !shared.runtime.habits().keep_forced) {
                    shared.take_down(held).await;
                }
                break;
            }
        }
    }
    lock(&shared.wishes).remove(&uid);
}

impl Shared {
    /// A new sandbox with an address; after a failure nothing of it is left on the node.
    async fn attach(self: &Arc<Self>, pod: &PodName) -> Option<Held> {
        let _slot = self.slots.acquire().await.ok()?;
        let (shared, pod) = (Arc::clone(self), pod.clone());
        let work = move || {
            let sandbox = shared.sandbox(&pod)?;
            let id = sandbox.id.clone();
            let held = Arc::new(Mutex::new(sandbox));
            // On the disk before any request: the following steps may be cut short.
            let record = Record { uid: pod.uid.clone(), held: Arc::clone(&held) };
            lock(&shared.disk).insert(id.clone(), record);
            let mut sandbox = lock(&held);
            if shared.runtime.add(&mut sandbox).is_ok() {
                drop(sandbox);
                return Some(held);
            }
            // As a runtime does: a DEL without a retry of its own failure.
            let undone = shared.runtime.del(&sandbox, true, None);
            if undone.is_ok() || !shared.runtime.is_off() {
                sandbox.end();
                lock(&shared.disk).remove(&id);
            }
            None
        };
        tokio::task::spawn_blocking(work).await.ok().flatten()
    }

    /// State of a pod at the start of a kubelet: a living sandbox is kept without any call; the remains of
    /// others are removed before a new one is created.
    async fn resume(self: &Arc<Self>, facts: &Facts, wish: &mut watch::Receiver<Wish>) -> Option<Held> {
        let mut kept = None;
        for held in self.sandboxes_of(&facts.pod.uid) {
            let looked_at = Arc::clone(&held);
            // A call of the previous kubelet may still hold it.
            let lives = tokio::task::spawn_blocking(move || lock(&looked_at).lives()).await;
            if kept.is_none() && lives.unwrap_or(false) {
                self.report(facts, Some(&held), wish).await;
                kept = Some(held);
            } else {
                self.take_down(held).await;
            }
        }
        kept
    }

    fn sandboxes_of(&self, uid: &str) -> Vec<Held> {
        let disk = lock(&self.disk);
        disk.values().filter(|record| record.uid == uid).map(|record| Arc::clone(&record.held)).collect()
    }

    /// Handles a sandbox that ended: runs its DEL, or returns it for a DEL after the next ADD.
    async fn renew(self: &Arc<Self>, held: Held) -> Option<Held> {
        let ending = Arc::clone(&held);
        let _ = tokio::task::spawn_blocking(move || lock(&ending).end()).await;
        let habits = self.runtime.habits();
        tokio::time::sleep(habits.notice_after).await;
        if habits.del_last {
            return Some(held);
        }
        self.take_down(held).await;
        None
    }

    /// A new sandbox; its absence is reported to a waiting caller.
    fn sandbox(&self, pod: &PodName) -> Option<Sandbox> {
        let made = self.runtime.sandbox(pod);
        made.inspect_err(|error| self.runtime.tally.complain("make a sandbox", &error.chain())).ok()
    }

    /// DEL until it succeeds, the namespace's end, and the DELs that come too often.
    pub(super) async fn take_down(self: &Arc<Self>, held: Held) {
        let habits = self.runtime.habits();
        if !habits.late_del.is_zero() {
            tokio::time::sleep(habits.late_del).await;
        }
        let mut kill_after = habits.kill_del_after;
        if !habits.no_del {
            while !self.del(&held, true, kill_after.take()).await {
                tokio::time::sleep(habits.del_again_after).await;
            }
        }
        let ending = Arc::clone(&held);
        let _ = tokio::task::spawn_blocking(move || lock(&ending).end()).await;
        if habits.no_del || habits.repeated_dels == 0 {
            let id = lock(&held).id.clone();
            lock(&self.disk).remove(&id);
            return;
        }
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move {
            for _ in 0..habits.repeated_dels {
                tokio::time::sleep(habits.repeat_after).await;
                shared.del(&held, false, None).await;
            }
            let id = lock(&held).id.clone();
            lock(&shared.disk).remove(&id);
        });
        self.keep(task);
    }

    /// One DEL; whether it succeeded.
    async fn del(
        self: &Arc<Self>,
        held: &Held,
        whole: bool,
        kill_after: Option<std::time::Duration>,
    ) -> bool {
        let Ok(_slot) = self.slots.acquire().await else { return false };
        let (shared, held) = (Arc::clone(self), Arc::clone(held));
        let work = move || {
            let mut sandbox = lock(&held);
            // Containers end before the network does.
            sandbox.inhabitant = None;
            shared.runtime.del(&sandbox, whole, kill_after).is_ok()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(false)
    }

    /// Reports to the API server that a pod runs, until that succeeds or the desired state changes.
    async fn report(&self, facts: &Facts, held: Option<&Held>, wish: &mut watch::Receiver<Wish>) {
        let (container, addresses) = match held {
            Some(held) => {
                let sandbox = lock(held);
                (sandbox.id.clone(), sandbox.addresses())
            }
            None => (facts.pod.uid.clone(), vec![self.identity.address.into()]),
        };
        let body = objects::pod_status(&self.identity, facts, &container, &addresses);
        let pods = self.pods(&facts.pod);
        loop {
            let patched =
                pods.patch_status(&facts.pod.name, &PatchParams::default(), &Patch::Strategic(&body)).await;
            match patched {
                Ok(_) => {
                    if held.is_some() {
                        let running = Running { name: facts.pod.name.clone(), container, addresses };
                        lock(&self.running).insert(facts.pod.uid.clone(), running);
                        self.reported.fetch_add(1, Ordering::Relaxed);
                    }
                    return;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => self.again("report a pod's status", &error).await,
            }
            if wish.has_changed().unwrap_or(true) {
                return;
            }
        }
    }

    /// Deletes the object of a pod that has ended, and no later one of its name.
    async fn delete(&self, pod: &PodName) {
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), ..Preconditions::default() };
        let parameters =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
        let pods = self.pods(pod);
        loop {
            match pods.delete(&pod.name, &parameters).await {
                Ok(_) => return,
                // Gone, or another one of that name.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => self.again("delete a pod", &error).await,
            }
        }
    }

    async fn again(&self, what: &str, error: &kube::Error) {
        self.runtime.tally.complain(what, error);
        tokio::time::sleep(TRY_AGAIN).await;
    }

    fn pods(&self, pod: &PodName) -> Kind<Pod> {
        Kind::namespaced(self.client.clone(), &pod.namespace)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_runs_until_it_terminates_or_has_ended() {
        assert_eq!(wish(&pod(json!({"metadata": {}}))), Wish::Run);
        assert_eq!(wish(&pod(json!({"metadata": {}, "status": {"phase": "Running"}}))), Wish::Run);
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(wish(&pod(deleted)), Wish::Stop);
        let forced = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
        assert_eq!(wish(&pod(forced)), Wish::Gone);
        assert_eq!(wish(&pod(json!({"metadata": {}, "status": {"phase": "Failed"}}))), Wish::Stop);
    }

    #[test]
    fn facts_are_read_with_annotations() {
        let facts = Facts::of(&pod(json!({
            "metadata": {"name": "a", "namespace": "d", "uid": "u", "annotations": {"k": "v"}},
            "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]},
        })))
        .unwrap();
        assert_eq!(facts.pod.annotations, json!({"k": "v"}));
        assert_eq!(facts.containers, [("c".to_owned(), "i".to_owned())]);
        assert!(facts.host_network);
        assert!(Facts::of(&pod(json!({"metadata": {"name": "a"}}))).is_none());
    }
}
