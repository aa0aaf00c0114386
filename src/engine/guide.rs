use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};
use serde::Deserialize;

use super::resolve;
use crate::caller::{CallError, Caller};
use crate::id::UserId;
use crate::limits;
use crate::net::Wake;
use crate::role::client::NoServer;

/// What the ACMS was asked for, or why there is none.
type Found = Result<SocketAddr, NoServer>;

/// Asks the ACMS which server a client is to dial: each question on a thread of its own, since it waits.
pub(super) struct Guide {
    acms: Caller,
    user: UserId,
    wake: Arc<Wake>,
    answers: Receiver<Found>,
    sender: Sender<Found>,
}

#[derive(Deserialize)]
struct Assigned {
    address: String,
}

impl Guide {
    pub(super) fn new(acms: Caller, user: UserId, wake: Arc<Wake>) -> Guide {
        let (sender, answers) = unbounded();
        Guide { acms, user, wake, answers, sender }
    }

    /// Asks; the answer wakes the reactor.
    pub(super) fn ask(&self) {
        let (acms, user) = (self.acms.clone(), self.user.clone());
        let (wake, sender) = (Arc::clone(&self.wake), self.sender.clone());
        let answer = move || {
            resolve(&sender, assigned(&acms, &user));
            wake.wake();
        };
        if let Err(error) = thread::Builder::new().name("assign".to_owned()).spawn(answer) {
            resolve(&self.sender, Err(NoServer::Now(error.to_string())));
            self.wake.wake();
        }
    }

    /// An answer that has come.
    pub(super) fn answer(&self) -> Option<Found> {
        self.answers.try_recv().ok()
    }
}

fn assigned(acms: &Caller, user: &UserId) -> Found {
    let body = serde_json::json!({ "user": user.as_str() });
    let patience = limits::MANAGEMENT_TIMEOUT.to_duration();
    let answer: Result<Assigned, CallError> = acms.call("POST", "/v1/assign", Some(&body), patience);
    match answer {
        Ok(Assigned { address }) => {
            let nowhere = |_| NoServer::Now(format!("the ACMS names {address:?}, which is no address"));
            address.parse().map_err(nowhere)
        }
        Err(error @ CallError::Refused { status: 401 | 403, .. }) => Err(NoServer::Ever(error.to_string())),
        Err(error) => Err(NoServer::Now(error.to_string())),
    }
}
