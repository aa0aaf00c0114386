//! The stream of events, a line each.

use std::io::{BufRead, Write};

use serde_json::{Value, json};

use super::{Failure, Operator};
use crate::chat::printable;

impl Operator {
    /// Prints events until the ACMS tells no more.
    pub(super) fn events(&self, no_users: bool, output: &mut impl Write) -> Result<(), Failure> {
        let stream = self.caller.follow(if no_users { "/v1/events?users=false" } else { "/v1/events" })?;
        let (mut name, mut data) = (String::new(), String::new());
        for line in stream.lines() {
            // A stream that breaks is one that ends.
            let Ok(line) = line else { break };
            match line.split_once(':') {
                Some(("event", value)) => name = value.trim_start().to_owned(),
                Some(("data", value)) => data += value.trim_start(),
                None if line.is_empty() && !data.is_empty() => {
                    let data = serde_json::from_str(&std::mem::take(&mut data))?;
                    self.print_event(&std::mem::take(&mut name), &data, output)?;
                }
                // Comments keep the connection alive; other fields are of a later version.
                Some(_) | None => {}
            }
        }
        Err(Failure::NoMoreEvents)
    }

    fn print_event(&self, name: &str, data: &Value, output: &mut impl Write) -> Result<(), Failure> {
        if self.json {
            writeln!(output, "{}", json!({ "event": name, "data": data }))?;
        } else {
            let text =
                |value: &Value| printable(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_bytes());
            let fields = data.as_object().into_iter().flatten().map(|(key, value)| format!(" {key}={}", text(value)));
            writeln!(output, "{:<17}{}", printable(name.as_bytes()), fields.collect::<String>())?;
        }
        Ok(output.flush()?)
    }
}
