//! A page that shows a run: one file that needs no other.

use std::io;

use crate::args::RunArgs;
use crate::fleet::Outcome;

pub(crate) fn page(_args: &RunArgs, _outcome: &Outcome) -> io::Result<String> {
    Ok(String::new())
}
