//! A process that is a part of the load: its job and commands come by its standard input, its news go to its output.

use std::io::{self, BufRead, Write};

use trunkline::net::raise_descriptor_limit;

use crate::job::{Command, Job, News};
use crate::swarm::Swarm;

/// Does the job that stands in the first line of the standard input.
pub(crate) fn run() -> io::Result<()> {
    raise_descriptor_limit();
    let mut lines = io::BufReader::new(io::stdin()).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let job: Job = serde_json::from_str(&first)?;
    let (sender, commands) = crossbeam_channel::unbounded();
    let mut out = io::stdout();
    let mut deaf_front = None;
    let tell = |news: News| {
        let written = serde_json::to_writer(&mut out, &news).map_err(io::Error::from);
        let written = written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
        deaf_front = deaf_front.take().or(written.err());
    };
    let swarm = Swarm::new(job, commands, tell)?;
    let waker = swarm.waker()?;
    std::thread::spawn(move || {
        let passed_on = obey(lines, |command| {
            sender.send(command).map_err(io::Error::other)?;
            waker.wake()
        });
        if let Err(error) = passed_on {
            eprintln!("trunkline-loadgen: {error}");
        }
        // Whoever gave the commands is gone.
        std::process::exit(1);
    });
    swarm.run()?;
    deaf_front.map_or(Ok(()), Err)
}

fn obey(lines: io::Lines<impl BufRead>, mut pass_on: impl FnMut(Command) -> io::Result<()>) -> io::Result<()> {
    for line in lines {
        pass_on(serde_json::from_str(&line?)?)?;
    }
    Ok(())
}
