//! A whole cluster on this machine, and the operator's commands for any cluster.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use crossbeam_channel::{Sender, bounded};
use trunkline::chat::Chat;
use trunkline::operator;
use trunkline::{Acms, AppServer, Client, ClusterState, Event, Handler, Membership, ServerHandle, ServerId, UserId};

/// Cross-server messaging for TCP client/server applications
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts an ACMS and two application servers on loopback, puts you on one and an echo on the other
    ///
    /// Lines typed (or piped in) go to the echo user: client => as0 => acms => as1 => client, and back. Others join from
    /// other terminals with trunkline-chat.
    Demo {
        /// Who you are
        #[arg(long, default_value = "you")]
        user: UserId,
        /// Moves all ports: N for the ACMS, N+1 and N+2 for the servers; 0 lets the system choose each [default: 12000,
        /// 6000 and 6001]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=65_533))]
        port_base: Option<u16>,
    },
    #[command(flatten)]
    Operator(operator::Request),
}

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Args::parse().command {
        Command::Demo { user, port_base } => match demo(&user, ports(port_base)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("trunkline demo: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Operator(request) => operate(request),
    }
}

fn operate(request: operator::Request) -> ExitCode {
    match operator::run(request, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("trunkline: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Ports of the ACMS and the two servers.
fn ports(base: Option<u16>) -> [u16; 3] {
    match base {
        None => [12_000, 6_000, 6_001],
        Some(0) => [0; 3],
        Some(base) => [base, base + 1, base + 2],
    }
}

/// Runs the cluster until the input ends. True where every line was delivered and came back.
fn demo(user: &UserId, [acms_port, ports @ ..]: [u16; 3]) -> Result<bool, Box<dyn std::error::Error>> {
    // Nobody was here before: who is unknown is offline.
    let acms = Acms::builder().directory_grace(Duration::ZERO).bind(("127.0.0.1", acms_port))?;
    let acms_addr = acms.local_addr();
    let mut servers = Vec::new();
    let (sender, joined) = bounded(ports.len());
    for (number, port) in ports.into_iter().enumerate() {
        let id = ServerId(number as u16);
        let server = AppServer::builder()
            .handler(Joined(sender.clone()))
            .cluster(Membership::new(id, acms_addr.to_string()))
            .bind(("127.0.0.1", port))?;
        servers.push(server);
    }
    // Once every port is bound: where one is in use, nothing was ready.
    println!("ready acms transfer={acms_addr}");
    for (id, server) in servers.iter().enumerate() {
        println!("ready appserver id={id} clients={}", server.local_addr());
    }
    let addrs: Vec<_> = servers.iter().map(AppServer::local_addr).collect();
    let handles: Vec<_> = servers.iter().map(AppServer::handle).collect();
    let stop_acms = acms.stopper();
    let acms = acms.spawn()?;
    let mut running = Vec::new();
    for server in servers {
        running.push(server.spawn()?);
    }
    for _ in ports {
        joined.recv_timeout(Duration::from_secs(10))?;
    }

    let echo = Client::builder("echo").takes_queries().connect(addrs[1])?;
    let client = Client::builder(user.as_str()).takes_queries().connect(addrs[0])?;
    let echo = std::thread::Builder::new().name("echo".to_owned()).spawn(move || echo_all(&echo))?;
    println!("join from another terminal:");
    for addr in &addrs {
        println!("  trunkline-chat --server {addr} --user NAME --to {user}");
    }
    let path = format!("{user} => as0 => acms => as1 => echo");
    let mut chat = Chat::new(client, Some("echo".parse()?)).echoing(path);
    if io::stdin().is_terminal() {
        chat = chat.interactive();
    }
    let all_delivered = chat.run(io::stdin(), &mut io::stdout())?;

    for handle in handles {
        handle.stop();
    }
    for server in running {
        server.join()?;
    }
    stop_acms();
    acms.join()?;
    echo.join().map_err(|_| "the echo user panicked")?;
    Ok(all_delivered)
}

/// Tells when a server is in the cluster.
struct Joined(Sender<()>);

impl Handler for Joined {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) && self.0.try_send(()).is_err() {
            log::info!("a server is in the cluster again");
        }
    }
}

/// Sends every message back to where it came from, until the server stops.
fn echo_all(client: &Client) {
    while let Ok(event) = client.events().recv() {
        match event {
            Event::Message(message) => {
                let sent = client.send(message.from.as_ref(), message.info_type, message.body);
                if let Err(error) = sent {
                    eprintln!("echo: {error}");
                }
            }
            Event::Query(query) => {
                let body = query.message.body.clone();
                query.reply(body);
            }
            Event::State(trunkline::State::Reconnecting { .. } | trunkline::State::Stopped { .. }) => return,
            Event::State(_) | Event::Presence { .. } | Event::Undelivered { .. } => {}
            // A blob that is offered is refused with the end of its event.
            Event::Blob(_) => {}
            Event::GroupMessage { .. } | Event::Member { .. } | Event::MembersMissed(_) => {}
        }
    }
}
