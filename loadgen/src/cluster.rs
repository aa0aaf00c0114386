//! Servers that the load starts itself, as processes of their own.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use trunkline::net::Tuning;
use trunkline::role::appserver::ClusterState;
use trunkline::{Acms, AppServer, Handler, Membership, Nobody, ServerHandle, ServerId};

use crate::dialect::Dialect;
use crate::process::{Server, end_with_parent, part, say_ready};

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An ACMS and that many application servers: those of this program, or of another build of it; `limited` where
    /// they keep the limits on their clients that they have by default.
    Trunkline { servers: u16, tuning: Tuning, limited: bool, program: PathBuf },
    /// Bare forwarders for frames of that size: a hub and two edges.
    Floor { frame_bytes: usize },
    /// A NATS server as hub, and two as its leaf nodes.
    Nats,
}

/// Servers that run.
pub(crate) struct Cluster {
    pub(crate) dialect: Dialect,
    /// The hub first, then those that users connect to.
    pub(crate) servers: Vec<Server>,
    /// Where users connect.
    pub(crate) addrs: Vec<SocketAddr>,
    /// Holds what NATS is configured with.
    _files: Option<TempDir>,
}

impl Kind {
    /// Starts the servers, on processor `cpu`, and waits until they know each other.
    pub(crate) fn start(&self, cpu: Option<usize>) -> io::Result<Cluster> {
        match self {
            Kind::Trunkline { servers, tuning, limited, program } => {
                start_trunkline(program, *servers, *tuning, *limited, cpu)
            }
            Kind::Floor { frame_bytes } => start_floor(*frame_bytes, cpu),
            Kind::Nats => start_nats(cpu),
        }
    }
}

fn start_trunkline(
    program: &Path,
    count: u16,
    tuning: Tuning,
    limited: bool,
    cpu: Option<usize>,
) -> io::Result<Cluster> {
    let rest_us = tuning.rest.as_micros().to_string();
    let acms = Server::start("acms", Command::new(program).args(["acms", &rest_us]), cpu)?;
    let acms_addr = reached(&acms)?;
    let mut cluster = Cluster { dialect: Dialect::Trunkline, servers: vec![acms], addrs: Vec::new(), _files: None };
    for id in 0..count {
        let mut command = Command::new(program);
        command.arg("appserver").arg(id.to_string()).arg(acms_addr.to_string()).arg(&rest_us);
        command.args(limited.then_some("--limited"));
        cluster.add(Server::start(&format!("as{id}"), &mut command, cpu)?)?;
    }
    Ok(cluster)
}

fn start_floor(frame_bytes: usize, cpu: Option<usize>) -> io::Result<Cluster> {
    let frame_bytes = frame_bytes.to_string();
    let hub = Server::start("hub", part("floor-hub")?.arg(&frame_bytes), cpu)?;
    let hub_addr = reached(&hub)?;
    let mut cluster = Cluster { dialect: Dialect::Floor, servers: vec![hub], addrs: Vec::new(), _files: None };
    for number in 0..2 {
        let mut command = part("floor-edge")?;
        command.arg(&frame_bytes).arg(hub_addr.to_string()).arg(number.to_string());
        cluster.add(Server::start(&format!("edge{number}"), &mut command, cpu)?)?;
    }
    Ok(cluster)
}

fn start_nats(cpu: Option<usize>) -> io::Result<Cluster> {
    let files = TempDir::new()?;
    let [hub_port, leaf_port] = [free_addr()?, free_addr()?];
    let mut cluster = Cluster { dialect: Dialect::Nats, servers: Vec::new(), addrs: Vec::new(), _files: None };
    let start = |name: &str, addr: SocketAddr, config: String| -> io::Result<Server> {
        let file = files.path().join(name);
        std::fs::write(&file, format!("listen: \"{addr}\"\n{config}"))?;
        let mut command = part("nats")?;
        command.arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server::start_silent(name, &mut command, cpu)?;
        await_listener(name, addr)?;
        Ok(server)
    };
    let hub = start("hub", hub_port, format!("leafnodes {{ listen: \"{leaf_port}\" }}\n"))?;
    cluster.servers.push(hub);
    for number in 0..2 {
        let addr = free_addr()?;
        let remotes = format!("leafnodes {{ remotes: [ {{ url: \"nats://{leaf_port}\" }} ] }}\n");
        let mut leaf = start(&format!("leaf{number}"), addr, remotes)?;
        leaf.addr = Some(addr);
        cluster.add(leaf)?;
    }
    cluster._files = Some(files);
    Ok(cluster)
}

/// Those that dial end before those that they dial.
impl Drop for Cluster {
    fn drop(&mut self) {
        while self.servers.pop().is_some() {}
    }
}

impl Cluster {
    fn add(&mut self, server: Server) -> io::Result<()> {
        self.addrs.push(reached(&server)?);
        self.servers.push(server);
        Ok(())
    }
}

fn reached(server: &Server) -> io::Result<SocketAddr> {
    server.addr.ok_or_else(|| io::Error::other(format!("{} told no address", server.name)))
}

/// An address that was free a moment ago, for a program that does not tell which one it took.
fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn await_listener(name: &str, addr: SocketAddr) -> io::Result<()> {
    for _ in 0..200 {
        if TcpStream::connect(addr).is_ok() {
            return Ok(());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Err(io::Error::other(format!("{name} does not listen at {addr} after 10 s")))
}

/// The process of an ACMS.
pub(crate) fn run_acms(tuning: Tuning) -> io::Result<()> {
    end_with_parent();
    let acms = Acms::builder().tuning(tuning).directory_grace(Duration::ZERO).bind("127.0.0.1:0")?;
    say_ready(acms.local_addr());
    acms.run_until_signal()
}

/// The process of an application server that lets everyone in, and where it is not `limited` does all that it can.
pub(crate) fn run_appserver(id: u16, acms: SocketAddr, tuning: Tuning, limited: bool) -> io::Result<()> {
    end_with_parent();
    let (tell, told) = crossbeam_channel::bounded(1);
    let membership = Membership::new(ServerId(id), acms.to_string());
    let mut builder = AppServer::builder().cluster(membership).friends(Nobody).handler(Ready(tell)).tuning(tuning);
    if !limited {
        builder = builder.max_accepts_per_second(0).max_messages_per_second(0).max_bytes_per_second(0);
    }
    let server = builder.bind("127.0.0.1:0")?;
    let addr = server.local_addr();
    std::thread::spawn(move || {
        if told.recv().is_ok() {
            say_ready(addr);
        }
    });
    server.run_until_signal()
}

/// Tells when the server has found its cluster.
struct Ready(crossbeam_channel::Sender<()>);

impl Handler for Ready {
    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if let ClusterState::Up { .. } = state {
            // Where the channel is full or closed it was told before.
            self.0.try_send(()).unwrap_or_default();
        }
    }
}
