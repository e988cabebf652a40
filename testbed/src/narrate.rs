//! What a run tells while it goes: who said what.

use std::time::{Duration, Instant};

use crate::stats::millis;

/// Whose word a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// What the demo does, to build or to break.
    World,
    /// What the kernel showed to our own reads.
    Kernel,
    /// What the agent decided, as `explain` tells it.
    Agent,
    /// How long it took, by our clock.
    Clock,
}

/// Tells a run on standard output, each line with its time since the run's start.
#[derive(Debug, Clone)]
pub struct Narrator {
    start: Instant,
}

impl Default for Narrator {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Narrator {
    /// Starts a chapter.
    pub fn title(&self, text: &str) {
        println!("\n{text}");
    }

    /// One line.
    pub fn say(&self, who: Who, text: &str) {
        let name = match who {
            Who::World => "demo",
            Who::Kernel => "kernel",
            Who::Agent => "agent",
            Who::Clock => "clock",
        };
        println!("{:9.3} s  {name:<6}  {text}", self.start.elapsed().as_secs_f64());
    }
}

/// A duration for people.
pub fn short(duration: Duration) -> String {
    if duration < Duration::from_secs(10) {
        format!("{:.1} ms", millis(duration))
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
