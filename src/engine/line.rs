//! How other threads give an engine commands.

use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{Overloaded, Pending};
use crate::limits;
use crate::net::Wake;

/// Where commands go in; no call waits.
pub(super) struct CommandLine<T> {
    commands: Sender<T>,
    wake: Arc<Wake>,
}

impl<T> CommandLine<T> {
    /// A line, and its end at the engine.
    pub(super) fn new(wake: Arc<Wake>) -> (CommandLine<T>, Receiver<T>) {
        let (commands, queue) = unbounded();
        (CommandLine { commands, wake }, queue)
    }

    pub(super) fn give(&self, command: T) -> Result<(), Overloaded> {
        if self.commands.len() >= limits::ENGINE_COMMANDS_MAX {
            return Err(Overloaded::Full);
        }
        self.commands.send(command).map_err(|_| Overloaded::Stopped)?;
        self.wake.wake();
        Ok(())
    }

    /// Gives a command that has an outcome.
    pub(super) fn ask<O>(&self, command: impl FnOnce(Sender<O>) -> T) -> Result<Pending<O>, Overloaded> {
        let (outcome, pending) = Pending::new();
        self.give(command(outcome))?;
        Ok(pending)
    }

    /// Gives a command that must not be lost, however many wait. An engine that has stopped has no use for it.
    pub(super) fn tell(&self, command: T) {
        if self.commands.send(command).is_ok() {
            self.wake.wake();
        }
    }

    /// Wakes the engine for what it was told in another way.
    pub(super) fn wake(&self) {
        self.wake.wake();
    }
}

impl<T> Clone for CommandLine<T> {
    fn clone(&self) -> CommandLine<T> {
        CommandLine { commands: self.commands.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> fmt::Debug for CommandLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandLine").finish_non_exhaustive()
    }
}
