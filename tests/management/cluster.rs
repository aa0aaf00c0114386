//! A cluster of engines in this process.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use trunkline::management::Token;
use trunkline::{Acms, AcmsHandle, AppServer, Client, Handler, Membership, Responder, Running, ServerHandle, ServerId};

use crate::http::{self, Answer};
use crate::until;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Answers servers by the information type: 1 with the body, 2 with bytes that are no text, 3 fails, 4 never.
struct Application;

impl Handler for Application {
    fn on_server_query(&self, server: &ServerHandle, from: ServerId, info_type: u32, body: &[u8], reply: Responder) {
        assert_eq!(from, ServerId::ACMS);
        match info_type {
            1 => reply.send(body.to_vec()),
            2 => reply.send(vec![0xFF, 0]),
            3 => reply.fail("tired"),
            4 => KEPT.lock().expect("nobody panics with it").push(reply),
            _ => reply.decline(),
        }
        drop(server.clone());
    }

    fn on_server_message(&self, server: &ServerHandle, _from: ServerId, info_type: u32, body: &[u8]) {
        let to = std::str::from_utf8(body).expect("a text").parse().expect("an id");
        server.send(&to, info_type, b"from your server".to_vec()).expect("room");
    }
}

/// What is never answered.
static KEPT: std::sync::Mutex<Vec<Responder>> = std::sync::Mutex::new(Vec::new());

/// A cluster manager with its management port, and the servers that it has.
pub(crate) struct Cluster {
    acms: Option<Running>,
    handle: AcmsHandle,
    pub(crate) transfer: SocketAddr,
    pub(crate) management: SocketAddr,
    servers: Vec<Server>,
}

/// An application server.
pub(crate) struct Server {
    running: Option<Running>,
    pub(crate) handle: ServerHandle,
    pub(crate) clients: SocketAddr,
    pub(crate) management: SocketAddr,
}

impl Cluster {
    /// That many servers, which have told of their users.
    pub(crate) fn of(servers: u16) -> Cluster {
        let mut cluster = Cluster::with(None, std::time::Duration::ZERO);
        for id in 0..servers {
            cluster.add(id);
        }
        cluster
    }

    pub(crate) fn with(token: Option<Token>, grace: std::time::Duration) -> Cluster {
        let acms = Acms::builder().directory_grace(grace).management(ANY_PORT, token).bind(ANY_PORT);
        let acms = acms.expect("a port of the system's choice is free");
        let (handle, transfer) = (acms.handle(), acms.local_addr());
        let management = acms.management_addr().expect("it has one");
        let acms = acms.spawn().expect("a thread");
        Cluster { acms: Some(acms), handle, transfer, management, servers: Vec::new() }
    }

    /// One server more.
    pub(crate) fn add(&mut self, id: u16) -> &Server {
        let server = AppServer::builder()
            .handler(Application)
            .cluster(Membership::new(ServerId(id), self.transfer.to_string()))
            .drain(std::time::Duration::ZERO)
            .management(ANY_PORT, None)
            .bind(ANY_PORT)
            .expect("a port of the system's choice is free");
        let (handle, clients) = (server.handle(), server.local_addr());
        let management = server.management_addr().expect("it has one");
        let running = server.spawn().expect("a thread");
        self.servers.push(Server { running: Some(running), handle, clients, management });
        until(|| self.state_of(id), |state| state.as_deref() == Some("open"));
        self.servers.last().expect("just added")
    }

    pub(crate) fn server(&self, place: usize) -> &Server {
        &self.servers[place]
    }

    pub(crate) fn handle(&self) -> &AcmsHandle {
        &self.handle
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        http::request(self.management, "GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: Option<&Value>) -> Answer {
        http::request(self.management, "POST", path, body)
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        http::request(self.management, "DELETE", path, None)
    }

    /// `state` of that server; none where it is not there.
    pub(crate) fn state_of(&self, id: u16) -> Option<String> {
        let answer = self.get(&format!("/v1/servers/{id}"));
        (answer.status == 200).then(|| answer.json()["state"].as_str().expect("a text").to_owned())
    }

    /// The value of that series, with its labels.
    pub(crate) fn metric(&self, series: &str) -> Option<u64> {
        metric(self.management, series)
    }

    /// Waits until the server at that place has ended by itself.
    pub(crate) fn join(&mut self, place: usize) {
        let running = self.servers[place].running.take().expect("it runs");
        running.join().expect("it ends well");
    }

    /// Ends the server at that place.
    pub(crate) fn stop_server(&mut self, place: usize) {
        self.servers[place].handle.stop();
        self.join(place);
    }

    /// Ends the cluster manager, the servers go on.
    pub(crate) fn stop_acms(&mut self) {
        self.handle.stop();
        self.acms.take().expect("it runs").join().expect("it ends well");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &self.servers {
            server.handle.stop();
        }
        self.handle.stop();
        let servers = self.servers.iter_mut().filter_map(|server| server.running.take());
        for running in servers.chain(self.acms.take()) {
            // A test that fails has its own cause to tell.
            drop(running.join());
        }
    }
}

impl Server {
    /// The value of that series, with its labels.
    pub(crate) fn metric(&self, series: &str) -> Option<u64> {
        metric(self.management, series)
    }

    pub(crate) fn client(&self, user: &str) -> Client {
        Client::builder(user).connect(self.clients).expect("it lets everyone in")
    }
}

fn metric(addr: SocketAddr, series: &str) -> Option<u64> {
    let answer = http::request(addr, "GET", "/metrics", None);
    let mut lines = answer.text().lines();
    lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
