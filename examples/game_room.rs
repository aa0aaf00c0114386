//! A game whose server is the application's own: two players on two servers are put into one room, and guess a number.
//!
//! A player asks its own server for a room, and is answered once there is another player. Rooms are on the first server;
//! the second passes on what its players say. A room is a group: what is said there reaches players on any server.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use trunkline::{
    Acms, AppServer, Client, ClusterState, Denied, Event, GroupId, Handler, Incoming, Membership, Responder,
    ServerHandle, ServerId, UserId,
};

/// A query to the server: a room, please. The answer is its name.
const PLAY: u32 = 1;
/// A message to the server: a guess, in decimal.
const GUESS: u32 = 2;
/// A message to the room: what happened.
const TOLD: u32 = 3;

/// The server that has the rooms.
const HOST: ServerId = ServerId(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// What a game server decides; the rest is the platform's.
struct Game {
    here: ServerId,
    joined: mpsc::Sender<()>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Who asked for a room and has nobody to play with yet.
    waiting: Option<(UserId, Responder)>,
    rooms: BTreeMap<UserId, Room>,
    opened: u32,
}

#[derive(Clone)]
struct Room {
    group: GroupId,
    players: [UserId; 2],
    secret: u8,
}

impl Game {
    /// The first of two waits; with the second a room is opened. It runs on a thread of the pool, so it may wait.
    fn seat(&self, server: &ServerHandle, user: UserId, reply: Responder) {
        let mut table = self.table.lock().expect("no handler panics");
        let Some((other, first_reply)) = table.waiting.take() else {
            table.waiting = Some((user, reply));
            return;
        };
        table.opened += 1;
        let group: GroupId = format!("room-{}", table.opened).parse().expect("an id");
        let room = Room { group: group.clone(), players: [other, user], secret: 7 };
        let seated = room.players.iter().all(|player| {
            let added = server.add_to_group(player, &group).ok().and_then(|added| added.wait().ok());
            matches!(added, Some(Ok(())))
        });
        if !seated {
            first_reply.fail("a player has left");
            return reply.fail("a player has left");
        }
        table.rooms.extend(room.players.clone().map(|player| (player, room.clone())));
        for reply in [first_reply, reply] {
            reply.send(group.as_str().into());
        }
    }

    fn guess(&self, server: &ServerHandle, user: &UserId, guess: &str) -> Result<(), Denied> {
        let mut table = self.table.lock().expect("no handler panics");
        let (Some(room), Ok(number)) = (table.rooms.get(user).cloned(), guess.parse::<u8>()) else {
            return Err(Denied);
        };
        let hint = match number.cmp(&room.secret) {
            std::cmp::Ordering::Less => "more",
            std::cmp::Ordering::Greater => "less",
            std::cmp::Ordering::Equal => "that is it",
        };
        let told = format!("{user} says {number}: {hint}").into_bytes();
        server.broadcast(&room.group, TOLD, told).map_err(|_| Denied)?;
        if number == room.secret {
            for player in &room.players {
                table.rooms.remove(player);
                server.remove_from_group(player, &room.group).map_err(|_| Denied)?;
            }
        }
        Ok(())
    }
}

impl Handler for Game {
    fn on_query(&self, server: &ServerHandle, query: &Incoming<'_>, reply: Responder) {
        if query.info_type != PLAY {
            return reply.decline();
        }
        if self.here == HOST {
            return self.seat(server, query.from.clone(), reply);
        }
        let body = query.from.as_str().into();
        let answer = server.query_server(HOST, PLAY, body, PATIENCE).ok().and_then(|answer| answer.wait().ok());
        match answer {
            Some(Ok(room)) => reply.send(room),
            Some(Err(failure)) => reply.fail(&failure.to_string()),
            None => reply.fail("this server has too much to do"),
        }
    }

    fn on_message(&self, server: &ServerHandle, message: &Incoming<'_>) -> Result<(), Denied> {
        let guess = std::str::from_utf8(message.body).map_err(|_| Denied)?;
        match (message.info_type, self.here) {
            (GUESS, HOST) => self.guess(server, message.from, guess),
            (GUESS, _) => {
                let body = format!("{} {guess}", message.from).into_bytes();
                server.send_to_server(HOST, GUESS, body).map(drop).map_err(|_| Denied)
            }
            _ => Err(Denied),
        }
    }

    fn on_server_query(&self, server: &ServerHandle, _from: ServerId, _info_type: u32, body: &[u8], reply: Responder) {
        match UserId::parse(body) {
            Ok(user) => self.seat(server, user, reply),
            Err(error) => reply.fail(&error.to_string()),
        }
    }

    fn on_server_message(&self, server: &ServerHandle, from: ServerId, _info_type: u32, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let Some((user, guess)) = text.split_once(' ') else { return };
        let taken = user.parse().map_err(|_| Denied).and_then(|user| self.guess(server, &user, guess));
        if taken.is_err() {
            println!("{text:?} of server {from} is no guess of a player");
        }
    }

    fn on_cluster(&self, _server: &ServerHandle, state: &ClusterState) {
        if matches!(state, ClusterState::Up { .. }) && self.joined.send(()).is_err() {
            eprintln!("nobody waits for the cluster any more");
        }
    }
}

fn server(here: u16, acms: &str, joined: &mpsc::Sender<()>) -> std::io::Result<AppServer> {
    let here = ServerId(here);
    let game = Game { here, joined: joined.clone(), table: Mutex::default() };
    AppServer::builder().handler(game).pool(2).cluster(Membership::new(here, acms)).bind("127.0.0.1:0")
}

/// What is said next in the room, as this player hears it.
fn told(player: &Client) -> Result<String, Box<dyn Error>> {
    loop {
        if let Event::GroupMessage { message, .. } = player.events().recv_timeout(PATIENCE)? {
            return Ok(String::from_utf8_lossy(&message.body).into_owned());
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let acms = Acms::builder().directory_grace(Duration::ZERO).bind("127.0.0.1:0")?;
    let (sender, joined) = mpsc::channel();
    let servers = [1, 2].map(|here| server(here, &acms.local_addr().to_string(), &sender));
    let [as01, as02] = servers;
    let (as01, as02) = (as01?, as02?);
    let (addrs, stops) = ([as01.local_addr(), as02.local_addr()], [as01.handle(), as02.handle()]);
    let stop_acms = acms.stopper();
    let engines = [acms.spawn()?, as01.spawn()?, as02.spawn()?];
    for _ in &stops {
        joined.recv_timeout(PATIENCE)?;
    }

    let players = [Client::connect(addrs[0], "alice")?, Client::connect(addrs[1], "bob")?];
    let mut asked = Vec::new();
    for player in &players {
        asked.push(player.query(None, PLAY, Vec::new(), PATIENCE)?);
    }
    for (player, room) in players.iter().zip(asked) {
        let room = room.wait()???;
        println!("{} is in {}", player.user(), String::from_utf8_lossy(&room));
    }
    for (turn, guess) in ["5", "9", "6", "7"].into_iter().enumerate() {
        players[turn % 2].send(None, GUESS, guess.into())?;
        let heard = [told(&players[0])?, told(&players[1])?];
        assert_eq!(heard[0], heard[1], "both hear the same");
        println!("{}", heard[0]);
    }

    players.into_iter().try_for_each(Client::close)?;
    stops.iter().for_each(ServerHandle::stop);
    stop_acms();
    engines.into_iter().try_for_each(|engine| engine.join())?;
    Ok(())
}
