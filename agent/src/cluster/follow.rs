//! An endless watch: the present objects, then every change, and a restart after missed changes.
//!
//! A failure is reported and followed by another attempt, at most a few seconds later. It proves nothing.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::committer::chain;

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Event of a watch.
#[derive(Debug)]
pub enum News<K> {
    /// All that is there, at the start and whenever changes may have been missed.
    All(Vec<K>),
    /// An object that was created or changed.
    Changed(K),
    /// A deleted object, in its last state.
    Gone(K),
    /// It failed; a try follows.
    Failed(String),
}

/// Pauses that double, with as much again by chance, up to [`PAUSE_MAX`].
#[derive(Debug, Clone)]
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        // The low digits of the clock are chance enough to keep agents apart.
        let chance = crate::clock::now().0 % 1000;
        Some(pause.mul_f64(0.5 + f64::from(u16::try_from(chance).unwrap_or(0)) / 2000.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }
}

/// Passes all events of `api` to `take`, until that reports that the receiver is gone.
pub async fn follow<K>(api: Api<K>, config: watcher::Config, mut take: impl FnMut(News<K>) -> bool)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut pauses = Pauses(PAUSE_MIN);
    while let End::Lost = once(&api, &config, &mut pauses, &mut take).await {
        let pause = pauses.next().unwrap_or(PAUSE_MAX);
        tokio::time::sleep(pause).await;
    }
}

/// Reason for the end of a watch.
enum End {
    /// The resource version may have another meaning now: the server was away, and may have returned with an
    /// older copy of its storage.
    Lost,
    /// The receiver is gone.
    Unwanted,
}

/// From a list on, as long as the watch can be begun again where it broke off.
async fn once<K>(
    api: &Api<K>,
    config: &watcher::Config,
    pauses: &mut Pauses,
    take: &mut impl FnMut(News<K>) -> bool,
) -> End
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream =
        watcher(api.clone(), config.clone()).modify(|object| object.meta_mut().managed_fields = None);
    let mut stream = pin!(stream.backoff(Pauses(PAUSE_MIN)));
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        let lost = matches!(event, Err(watcher::Error::WatchStartFailed(_)));
        let news = match event {
            Ok(Event::Init) => {
                all = Vec::new();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                all.push(object);
                continue;
            }
            Ok(Event::InitDone) => News::All(std::mem::take(&mut all)),
            Ok(Event::Apply(object)) => {
                pauses.reset();
                News::Changed(object)
            }
            Ok(Event::Delete(object)) => News::Gone(object),
            Err(error) => News::Failed(chain(&error)),
        };
        if !take(news) {
            return End::Unwanted;
        }
        if lost {
            return End::Lost;
        }
    }
    End::Lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        let mut pauses = Pauses(PAUSE_MIN);
        let longest = pauses.by_ref().take(20).max().unwrap();
        assert!(longest <= PAUSE_MAX && longest >= PAUSE_MAX / 2, "{longest:?}");
        pauses.reset();
        assert!(pauses.next().unwrap() <= PAUSE_MIN);
    }
}
