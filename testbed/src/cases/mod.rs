//! The thirteen cases that Berth promises to survive, one file each.
//!
//! A case builds its own lab, breaks something, and turns what our own observers saw into times and
//! checks. It returns an error only if it could not be played; a broken promise is a failed check.

mod case1;
mod case10;
mod case11;
mod case12;
mod case13;
mod case2;
mod case3;
mod case4;
mod case5;
mod case6;
mod case7;
mod case8;
mod case9;
mod sources;

use crate::error::{Error, Result};
use crate::lab::Options;
use crate::narrate::Who;
use crate::report::{Builder, Case};

/// One case of the demo.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// 1 to 13.
    pub id: u32,
    /// Title of the fault.
    pub title: &'static str,
    play: fn(&Options, &mut Builder) -> Result<()>,
}

/// All cases, in order.
pub const ALL: [Script; 13] = [
    Script { id: 1, title: "netns deleted, DEL never sent", play: case1::play },
    Script { id: 2, title: "link deleted inside a living namespace", play: case2::play },
    Script { id: 3, title: "namespace leaked, bind mount left", play: case3::play },
    Script { id: 4, title: "agent killed; deletions and DELs while it is down", play: case4::play },
    Script { id: 5, title: "plugin and agent killed after each step", play: case5::play },
    Script { id: 6, title: "reboot", play: case6::play },
    Script { id: 7, title: "rolling restart on an exactly fitting pool", play: case7::play },
    Script { id: 8, title: "hostile namespaces", play: case8::play },
    Script { id: 9, title: "store rolled back, store deleted", play: case9::play },
    Script { id: 10, title: "300 namespaces deleted at once, agent stopped", play: case10::play },
    Script { id: 11, title: "a neighbour answers for free addresses", play: case11::play },
    Script { id: 12, title: "a neighbour takes the address of a live pod", play: case12::play },
    Script { id: 13, title: "every rung in turn", play: case13::play },
];

impl Script {
    /// Runs the case. The only error is an interrupt: all other failures are recorded in the case.
    pub fn run(&self, options: &Options) -> Result<Case> {
        options.tell.title(&format!("case {}: {}", self.id, self.title));
        let mut builder = Builder::new(self.id, self.title, options.slack);
        match (self.play)(options, &mut builder) {
            Ok(()) => Ok(builder.finish()),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                options.tell.say(Who::World, &format!("could not continue: {}", error.chain()));
                Ok(builder.failed(&error))
            }
        }
    }
}
