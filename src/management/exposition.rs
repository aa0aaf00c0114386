//! What is measured, in Prometheus's text format.

use std::fmt::Write as _;

use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::engine::{AcmsVitals, ServerVitals};
use crate::net::Calls;
use crate::role::Counters;
use crate::role::acms::ServerView;
use crate::time::Span;

/// The text so far.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    /// A series that only grows, with one value for each set of labels.
    fn counter<'a>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        self.family(name, "counter", help, values);
    }

    /// A series that also falls.
    fn gauge<'a>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        self.family(name, "gauge", help, values);
    }

    fn family<'a>(&mut self, name: &str, kind: &str, help: &str, values: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        let text = &mut self.0;
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes all");
        for (Labels(labels), value) in values {
            writeln!(text, "{name}{labels} {value}").expect("a string takes all");
        }
    }
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], self.0).into_response()
    }
}

/// Names and values in braces, or nothing. No value has a character that would need escaping.
struct Labels<'a>(std::borrow::Cow<'a, str>);

const NONE: Labels<'static> = Labels(std::borrow::Cow::Borrowed(""));

fn label(name: &str, value: impl std::fmt::Display) -> Labels<'static> {
    Labels(format!("{{{name}=\"{value}\"}}").into())
}

/// What a cluster manager tells.
pub(super) fn of_acms(vitals: &AcmsVitals, servers: &[ServerView]) -> Response {
    let mut text = Exposition::default();
    about(&mut text, "acms", vitals.uptime);
    text.gauge("trunkline_servers", "Registered servers.", [(NONE, vitals.servers as u64)]);
    text.gauge("trunkline_subscribers", "Those who hear of events.", [(NONE, vitals.subscribers as u64)]);
    text.gauge("trunkline_users", "Users that are in, on all servers.", [(NONE, vitals.users as u64)]);
    common(&mut text, &vitals.counters, vitals.calls);
    let held = [("held", vitals.memory_held), ("max", vitals.memory_max)];
    room(&mut text, vitals.connections, held);
    servers_of(&mut text, servers);
    text.into_response()
}

/// What an application server tells.
pub(super) fn of_appserver(vitals: &ServerVitals) -> Response {
    let mut text = Exposition::default();
    about(&mut text, "appserver", vitals.uptime);
    text.gauge("trunkline_users", "Users that are in on this server.", [(NONE, vitals.users as u64)]);
    let up = u64::from(vitals.is_clustered);
    text.gauge("trunkline_cluster_up", "1 while the link to the cluster manager stands.", [(NONE, up)]);
    common(&mut text, &vitals.counters, vitals.calls);
    let held = [("held", vitals.memory_held), ("max", vitals.memory_max)];
    room(&mut text, vitals.connections, held);
    text.into_response()
}

fn about(text: &mut Exposition, role: &str, uptime: Span) {
    let version = env!("CARGO_PKG_VERSION");
    let labels = Labels(format!("{{role=\"{role}\",version=\"{version}\"}}").into());
    text.gauge("trunkline_info", "1; its labels tell what runs here.", [(labels, 1)]);
    let seconds = uptime.as_micros() / 1_000_000;
    text.gauge("trunkline_uptime_seconds", "Time since the start.", [(NONE, seconds)]);
}

fn common(text: &mut Exposition, counters: &Counters, calls: Calls) {
    // Each is named, so that none is left out: the bounced and dropped ones are told by cause and by reason.
    let &Counters {
        forwarded,
        forwarded_bytes,
        bounced: _,
        dropped_droppable: _,
        dropped_unroutable: _,
        dropped_bounces: _,
        dropped_spoofed: _,
        slowed,
        closed_rate,
        shed,
        shed_bytes,
        late_bytes,
        wrong_port,
        bad_magic,
        sent_away,
        watches_refused,
    } = counters;
    text.counter("trunkline_frames_forwarded_total", "Frames passed on.", [(NONE, forwarded)]);
    text.counter("trunkline_bytes_forwarded_total", "Bytes of those.", [(NONE, forwarded_bytes)]);
    let bounced = counters.bounces().map(|(cause, count)| (label("cause", cause), count));
    text.counter("trunkline_bounced_total", "Messages sent back to their sender, by cause.", bounced);
    let dropped = counters.drops().map(|(reason, count)| (label("reason", reason), count));
    text.counter("trunkline_dropped_total", "Frames dropped without a word to their sender, by reason.", dropped);
    text.counter("trunkline_slowed_total", "Times that a client over its rates was not read from.", [(NONE, slowed)]);
    text.counter("trunkline_closed_rate_total", "Clients closed for their rate.", [(NONE, closed_rate)]);
    text.counter("trunkline_shed_total", "Connections closed because memory was short.", [(NONE, shed)]);
    text.counter("trunkline_shed_bytes_total", "Bytes dropped with those.", [(NONE, shed_bytes)]);
    text.counter("trunkline_late_bytes_total", "Bytes that came behind a CLOSE.", [(NONE, late_bytes)]);
    let refused = [("wrong_port", wrong_port), ("bad_magic", bad_magic), ("sent_away", sent_away)];
    let refused = refused.map(|(reason, count)| (label("reason", reason), count));
    text.counter(
        "trunkline_refused_total",
        "Connections refused before they had said who they are, by reason.",
        refused,
    );
    text.counter(
        "trunkline_watches_refused_total",
        "Users that somebody would watch and does not, since a bound on that was reached.",
        [(NONE, watches_refused)],
    );
    let calls = [("wait", calls.waits), ("read", calls.reads), ("write", calls.writes)];
    let calls = calls.map(|(call, count)| (label("call", call), count));
    text.counter("trunkline_system_calls_total", "System calls of the reactor, by call.", calls);
}

fn room(text: &mut Exposition, connections: usize, memory: [(&str, usize); 2]) {
    text.gauge("trunkline_connections", "Connections, of whatever stage.", [(NONE, connections as u64)]);
    let memory = memory.map(|(bound, bytes)| (label("bound", bound), bytes as u64));
    text.gauge("trunkline_memory_bytes", "Bytes that wait for all connections: held, and the bound on them.", memory);
}

/// What the servers of a cluster say of themselves, and what is known of them here.
fn servers_of(text: &mut Exposition, servers: &[ServerView]) {
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&ServerView) -> u64| {
        let values = servers.iter().map(|view| (label("server", view.server), value(view)));
        text.gauge(&format!("trunkline_server_{name}"), help, values);
    };
    gauge("users", "Users of the server.", &|view| view.users.into());
    gauge("assigned", "Users sent there who have not come yet.", &|view| view.assigned.into());
    gauge("capacity", "Users that it takes.", &|view| view.capacity.into());
    gauge("connected_seconds", "Time since it registered.", &|view| view.connected.as_micros() / 1_000_000);
    gauge("queued_bytes", "Bytes that wait in it.", &|view| view.state.queued_bytes);
    gauge("link_queued_bytes", "Bytes that wait here for it.", &|view| view.link_queued_bytes as u64);
    gauge("busy_permille", "Thousandths of its time that it is busy.", &|view| view.state.busy_permille.into());
    let standings = servers.iter().map(|view| {
        let (server, standing) = (view.server, super::acms::standing_name(view.standing));
        (Labels(format!("{{server=\"{server}\",state=\"{standing}\"}}").into()), 1)
    });
    text.gauge("trunkline_server_state", "1 with the state that the server is in.", standings);
    let frames = servers.iter().map(|view| (label("server", view.server), view.state.frames));
    text.counter("trunkline_server_frames_forwarded_total", "Frames that it has passed on.", frames);
    let bytes = servers.iter().map(|view| (label("server", view.server), view.state.bytes));
    text.counter("trunkline_server_bytes_forwarded_total", "Bytes of those.", bytes);
    let of_each = |name: &'static str, tallies: fn(&ServerView) -> &crate::wire::link::Tallies| {
        servers.iter().flat_map(move |view| {
            let server = view.server;
            tallies(view).iter().map(move |(reason, count)| {
                (Labels(format!("{{server=\"{server}\",{name}=\"{reason}\"}}").into()), count)
            })
        })
    };
    let bounced = of_each("cause", |view| &view.state.bounced);
    text.counter("trunkline_server_bounced_total", "Messages that it has sent back, by cause.", bounced);
    let dropped = of_each("reason", |view| &view.state.dropped);
    text.counter("trunkline_server_dropped_total", "Frames that it has dropped, by reason.", dropped);
}
