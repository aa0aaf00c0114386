use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port that a server can be started on more than once: as long as this lives the system gives it to nobody, neither
/// to a listener that leaves the choice to it nor to a connection.
pub(crate) struct Port {
    addr: SocketAddr,
    /// Bound and never listening, so that a listener that allows reuse can be bound beside it.
    _bound: Socket,
}

impl Port {
    pub(crate) fn reserve() -> Port {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is free");
        bound.set_reuse_address(true).expect("a socket's own option");
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port is free");
        let addr = bound.local_addr().ok().and_then(|addr| addr.as_socket()).expect("it is bound");
        Port { addr, _bound: bound }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}
