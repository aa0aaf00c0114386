//! An application server.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use trunkline::config::{self, AppServerArgs, AppServerSettings, FriendsPolicy, JoinPolicy, LoginCheck};
use trunkline::{AppServer, Authenticator, Everyone, GroupId, LoginRequest, Membership, Nobody, Refusal, UserId};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let settings = config::load::<AppServerArgs>();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trunkline-appserver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: AppServerSettings) -> io::Result<()> {
    let AppServerSettings { id, listen, acms, .. } = settings;
    let mut builder = AppServer::builder()
        .relogin(settings.relogin)
        .when_cut_off(settings.when_cut_off)
        .heartbeat(settings.heartbeat.to_duration(), settings.heartbeat_timeout.to_duration())
        .login_timeout(settings.login_timeout.to_duration())
        .drain(settings.drain.to_duration())
        .max_frame(settings.max_frame)
        .max_connections(settings.max_connections as usize)
        .max_accepts_per_second(settings.max_accepts_per_second)
        .max_messages_per_second(settings.max_messages_per_second)
        .max_bytes_per_second(settings.max_bytes_per_second)
        .capacity(settings.capacity as usize)
        .tuning(settings.tuning);
    builder = match settings.friends {
        FriendsPolicy::Everyone => builder.friends(Everyone),
        FriendsPolicy::Nobody => builder.friends(Nobody),
    };
    if let Some(addr) = settings.management {
        builder = builder.management(addr, settings.management_token);
    }
    if let Some(bytes) = settings.max_memory {
        builder = builder.max_memory(bytes);
    }
    if settings.groups == JoinPolicy::Nobody {
        builder = builder.groups(|_: &UserId, _: &GroupId| false);
    }
    if let LoginCheck::Users(passwords) = settings.login_check {
        builder = builder.authenticator(Passwords(passwords));
    }
    if let Some(acms) = acms {
        let mut membership =
            Membership::new(id, acms.to_string()).name(settings.cluster).secret(settings.cluster_secret);
        if let Some(address) = settings.public_address {
            membership = membership.public_address(address);
        }
        builder = builder.cluster(membership);
    }
    let server = builder.bind(listen)?;
    let management = server.management_addr().map(|addr| format!(" management={addr}")).unwrap_or_default();
    println!("ready appserver id={id} clients={}{management}", server.local_addr());
    server.run_until_signal()
}

/// The login check of `--users-file`.
struct Passwords(BTreeMap<UserId, String>);

impl Authenticator for Passwords {
    fn check(&self, request: &LoginRequest) -> Result<(), Refusal> {
        match (self.0.get(&request.user), &request.login.password) {
            (None, _) => Err(Refusal("no such user".to_owned())),
            (Some(_), None) => Err(Refusal("a password is needed".to_owned())),
            (Some(expected), Some(given)) if expected == given => Ok(()),
            (Some(_), Some(_)) => Err(Refusal("wrong password".to_owned())),
        }
    }
}
