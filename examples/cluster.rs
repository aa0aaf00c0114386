//! The smallest whole cluster, in one process: an ACMS, two application servers, a client on each, a message each way.

use std::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use trunkline::{Acms, AppServer, Client, ClusterState, Event, Handler, Membership, ServerHandle, ServerId};

/// Tells when the server is in the cluster.
struct Joined(Sender<()>);

impl Handler for Joined {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) && self.0.send(()).is_err() {
            eprintln!("nobody waits for the cluster any more");
        }
    }
}

fn server(number: u16, acms: &str) -> Result<(AppServer, Receiver<()>), Box<dyn Error>> {
    let (sender, joined) = channel();
    let membership = Membership::new(ServerId(number), acms);
    Ok((AppServer::builder().handler(Joined(sender)).cluster(membership).bind("127.0.0.1:0")?, joined))
}

/// Sends `text`, waits until the receiver's engine has it, and shows what the receiver's application gets.
fn pass(from: &Client, to: &Client, text: &str, path: &str) -> Result<(), Box<dyn Error>> {
    from.send_acked(to.user(), 0, text.as_bytes().to_vec())?.wait()???;
    loop {
        if let Event::Message(message) = to.events().recv_timeout(Duration::from_secs(5))? {
            println!("{path}: {}", String::from_utf8_lossy(&message.body));
            return Ok(());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // No server was here before, so none has to be waited for until an unknown user is said to be offline.
    let acms = Acms::builder().directory_grace(Duration::ZERO).bind("127.0.0.1:0")?;
    let ((as01, joined01), (as02, joined02)) =
        (server(1, &acms.local_addr().to_string())?, server(2, &acms.local_addr().to_string())?);
    let (addr01, addr02, stop01, stop02) = (as01.local_addr(), as02.local_addr(), as01.handle(), as02.handle());
    let stop_acms = acms.stopper();
    let engines = [acms.spawn()?, as01.spawn()?, as02.spawn()?];
    for joined in [joined01, joined02] {
        joined.recv_timeout(Duration::from_secs(5))?;
    }

    let client01 = Client::connect(addr01, "client01")?;
    let client02 = Client::connect(addr02, "client02")?;
    pass(&client01, &client02, "hello", "client01 => as01 => acms => as02 => client02")?;
    pass(&client02, &client01, "hello yourself", "client02 => as02 => acms => as01 => client01")?;

    client01.close()?;
    client02.close()?;
    stop01.stop();
    stop02.stop();
    stop_acms();
    engines.into_iter().try_for_each(|engine| engine.join())?;
    Ok(())
}
