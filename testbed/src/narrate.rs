//! Progress lines of a run, each with its source.

use std::time::{Duration, Instant};

use crate::stats::millis;

/// Source of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// An action of the demo, to build or to break.
    World,
    /// State of the kernel in the testbed's own reads.
    Kernel,
    /// A decision of the agent, from `explain`.
    Agent,
    /// A duration by the testbed's clock.
    Clock,
}

/// Prints a run's progress on standard output, each line with its time since the run's start.
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

    /// Prints one line.
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
