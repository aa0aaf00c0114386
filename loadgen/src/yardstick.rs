//! A fixed piece of the kernel's work, to see how fast it is done here and now.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::time::{ClockId, clock_gettime};

const ROUNDS: u32 = 10_000;

/// Processor time of sending 128 bytes over loopback and receiving them in the same thread, in microseconds.
pub(crate) fn micros() -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    let mut bytes = [7; 128];
    let began = thread_seconds();
    for _ in 0..ROUNDS {
        sender.write_all(&bytes)?;
        receiver.read_exact(&mut bytes)?;
    }
    Ok((thread_seconds() - began) * 1e6 / f64::from(ROUNDS))
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
