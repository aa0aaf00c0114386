//! A cluster of processes.

use std::net::SocketAddr;

use crate::program::{ACMS, APPSERVER, Program};

pub(crate) const INFO: [(&str, &str); 1] = [("RUST_LOG", "info")];
/// Of a cluster manager: who is unknown is offline from the start on.
pub(crate) const NO_GRACE: [&str; 2] = ["--directory-grace-ms", "0"];

/// A cluster of processes, every server of which has told the ACMS of its users.
pub(crate) struct Cluster {
    pub(crate) acms: Program,
    pub(crate) transfer: SocketAddr,
    pub(crate) servers: Vec<Program>,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        Cluster::start_with(&INFO, &[])
    }

    pub(crate) fn start_with(variables: &[(&str, &str)], server_args: &[&str]) -> Cluster {
        Cluster::around(start_acms(0, variables, &NO_GRACE), variables, server_args)
    }

    /// Two servers of a running ACMS.
    pub(crate) fn around(acms: Program, variables: &[(&str, &str)], server_args: &[&str]) -> Cluster {
        let transfer = acms.ready("transfer");
        let servers = ["0", "1"].map(|id| start_server(id, transfer, variables, server_args)).into();
        acms.stderr.lines_with("told of its", 2);
        Cluster { acms, transfer, servers }
    }

    pub(crate) fn clients(&self) -> [SocketAddr; 2] {
        [self.servers[0].ready("clients"), self.servers[1].ready("clients")]
    }
}

/// A cluster manager on this port; 0: on one that the system picks.
pub(crate) fn start_acms(transfer_port: u16, variables: &[(&str, &str)], more: &[&str]) -> Program {
    let port = transfer_port.to_string();
    let args = ["--management-port", "0", "--transfer-port", &port];
    Program::start_with(ACMS, &[&args, more].concat(), variables)
}

pub(crate) fn start_server(id: &str, transfer: SocketAddr, variables: &[(&str, &str)], more: &[&str]) -> Program {
    let acms = transfer.to_string();
    let args = ["--id", id, "--listen", "127.0.0.1:0", "--acms", &acms];
    Program::start_with(APPSERVER, &[&args, more].concat(), variables)
}
