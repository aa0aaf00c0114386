//! An application server with a login check and a handler of its own; with `--acms HOST:PORT` it is server 2 of a cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use trunkline::{
    AppServer, Denied, Handler, Incoming, LoginRequest, Membership, Refusal, Responder, ServerHandle, ServerId,
};

/// Sends back what users write to the server; who asks is told how many messages that were.
#[derive(Default)]
struct Echo(AtomicU64);

impl Handler for Echo {
    fn on_message(&self, server: &ServerHandle, message: &Incoming<'_>) -> Result<(), Denied> {
        self.0.fetch_add(1, Ordering::Relaxed);
        server.send(message.from, message.info_type, message.body.to_vec()).map(drop).map_err(|_| Denied)
    }

    fn on_query(&self, _server: &ServerHandle, _query: &Incoming<'_>, reply: Responder) {
        reply.send(format!("{} messages", self.0.load(Ordering::Relaxed)).into_bytes());
    }
}

fn check(request: &LoginRequest) -> Result<(), Refusal> {
    let knows = request.login.password.as_deref() == Some("sesame");
    knows.then_some(()).ok_or_else(|| Refusal("wrong password".to_owned()))
}

fn main() -> std::io::Result<()> {
    let mut builder = AppServer::builder().authenticator(check).handler(Echo::default());
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--acms") {
        let acms = args.next().expect("--acms HOST:PORT");
        builder = builder.cluster(Membership::new(ServerId(2), acms));
    }
    let server = builder.bind("127.0.0.1:6002")?;
    println!("clients connect to {}", server.local_addr());
    server.run_until_signal()
}
