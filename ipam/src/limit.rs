//! Limit of repeated words: so many in a window, and then their number.
//!
//! For log lines and events, which others can cause without end. Pure; time is an argument. Invariants: the first words
//! about a thing are said at once, what is held back is counted, and neither the words nor the memory grow
//! with the flood.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Time;

/// So many things are remembered; while all of them are in their window, further ones are held back.
const REMEMBERED_MAX: usize = 4096;
/// Windows for which a word that is held back waits for a call of [`Limiter::due`] where others need the room.
const WINDOWS_KEPT: u32 = 2;

/// Words that were said about each thing. `K` names it, `W` is the word that is held back last.
#[derive(Debug, Clone)]
pub struct Limiter<K, W = ()> {
    most: u32,
    window: Duration,
    said: BTreeMap<K, Series<W>>,
    /// Held back because of things that are not remembered.
    unnamed: u64,
}

#[derive(Debug, Clone)]
struct Series<W> {
    since: Time,
    said: u32,
    held_back: u64,
    last: Option<W>,
}

/// A word that may be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<W> {
    /// Word that may be said.
    pub word: W,
    /// Number of words about the same thing that were held back before it.
    pub held_back: u64,
}

impl<K: Ord + Clone, W> Limiter<K, W> {
    /// `most` words about one thing in each `window`.
    pub const fn new(most: u32, window: Duration) -> Self {
        Self { most, window, said: BTreeMap::new(), unnamed: 0 }
    }

    /// The word, if it may be said now.
    pub fn admit(&mut self, now: Time, about: K, word: W) -> Option<Word<W>> {
        if let Some(series) = self.said.get_mut(&about) {
            if now.since(series.since) >= self.window {
                (series.since, series.said) = (now, 0);
            }
            if series.said >= self.most {
                series.held_back += 1;
                series.last = Some(word);
                return None;
            }
            series.said += 1;
            series.last = None;
            return Some(Word { word, held_back: std::mem::take(&mut series.held_back) });
        }
        if self.said.len() >= REMEMBERED_MAX {
            self.forget(now);
        }
        if self.said.len() >= REMEMBERED_MAX {
            self.unnamed += 1;
            return None;
        }
        self.said.insert(about, Series { since: now, said: 1, held_back: 0, last: None });
        Some(Word { word, held_back: 0 })
    }

    /// The last words that were held back in windows that are over, each with the number held back before it.
    pub fn due(&mut self, now: Time) -> Vec<Word<W>> {
        let mut due = Vec::new();
        for series in self.said.values_mut().filter(|series| now.since(series.since) >= self.window) {
            if let Some(word) = series.last.take() {
                due.push(Word { word, held_back: std::mem::take(&mut series.held_back).saturating_sub(1) });
                (series.since, series.said) = (now, 1);
            }
        }
        self.forget(now);
        due
    }

    /// True if a word is held back that [`Self::due`] is to return.
    pub fn is_waiting(&self) -> bool {
        self.said.values().any(|series| series.last.is_some())
    }

    /// Number of words that were held back because too many things were spoken of, since the last call.
    pub fn unnamed(&mut self) -> u64 {
        std::mem::take(&mut self.unnamed)
    }

    fn forget(&mut self, now: Time) {
        self.said.retain(|_, series| {
            let windows = if series.held_back > 0 { WINDOWS_KEPT } else { 1 };
            now.since(series.since) < self.window * windows
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn the_first_words_are_said_and_the_rest_is_counted() {
        let mut limiter = Limiter::new(2, WINDOW);
        let mut said = |millis, word: u32| limiter.admit(at(millis), "a", word);
        assert_eq!(said(1000, 1), Some(Word { word: 1, held_back: 0 }));
        assert_eq!(said(1001, 2), Some(Word { word: 2, held_back: 0 }));
        assert!((1002..2000).all(|millis| said(millis, 3).is_none()));
        assert_eq!(said(11_001, 4), Some(Word { word: 4, held_back: 998 }));
        assert_eq!(limiter.admit(at(2000), "b", 5), Some(Word { word: 5, held_back: 0 }), "another thing");
    }

    #[test]
    fn the_last_word_of_a_flood_is_said_when_its_window_is_over() {
        let mut limiter = Limiter::new(1, WINDOW);
        for word in 0..100 {
            limiter.admit(at(1000), "a", word);
        }
        assert!(limiter.due(at(10_999)).is_empty() && limiter.is_waiting());
        assert_eq!(limiter.due(at(11_000)), [Word { word: 99, held_back: 98 }]);
        assert!(!limiter.is_waiting());
        assert!(limiter.due(at(60_000)).is_empty(), "once");
        assert!(limiter.said.is_empty(), "and forgotten");
    }

    #[test]
    fn a_flood_about_ever_new_things_is_bounded_too() {
        let mut limiter = Limiter::new(1, WINDOW);
        let said = (0..10_000).filter(|thing| limiter.admit(at(1000), *thing, ()).is_some()).count();
        assert_eq!((said, limiter.unnamed(), limiter.unnamed()), (REMEMBERED_MAX, 10_000 - 4096, 0));
        assert!(limiter.admit(at(11_000), 10_001, ()).is_some(), "old things make room");
        assert!(limiter.said.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn words_that_no_call_takes_make_room_after_another_window() {
        let mut limiter = Limiter::new(1, WINDOW);
        for thing in 0..REMEMBERED_MAX {
            assert!(
                limiter.admit(at(1000), thing, ()).is_some() && limiter.admit(at(1000), thing, ()).is_none()
            );
        }
        assert!(limiter.admit(at(20_999), REMEMBERED_MAX, ()).is_none(), "each of them is still to be told");
        assert!(limiter.admit(at(21_000), REMEMBERED_MAX, ()).is_some());
    }
}
