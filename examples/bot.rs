//! A client that answers: messages and queries of users on any server, and it greets whoever joins its group.
//!
//! `bot [--server HOST:PORT | --acms http://HOST:PORT] [--user NAME] [--group NAME]`

use std::error::Error;

use trunkline::{Client, Event, GroupChange, GroupId, Message, State};

/// What people write.
const TEXT: u32 = 0;
/// What a bot writes: no bot answers that, or two of them would never end.
const NOTICE: u32 = 1;

/// Answers until its session is over, and tells why that is.
pub(crate) fn serve(client: Client, group: GroupId) -> Result<(), Box<dyn Error>> {
    Bot { client, group, answers: 0 }.run()
}

/// Greets in its group, and counts what it answered.
struct Bot {
    client: Client,
    group: GroupId,
    answers: u64,
}

impl Bot {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        // In again by itself after each lost connection.
        self.client.join(&self.group)?.wait()???;
        println!("{} is in {}", self.client.user(), self.group);
        while let Ok(event) = self.client.events().recv() {
            match event {
                Event::Message(message) => self.answer(&message)?,
                Event::Query(query) => {
                    self.answers += 1;
                    let text = format!("{} answers so far", self.answers);
                    query.reply(text.into_bytes());
                }
                Event::Member { group, user, change: GroupChange::Joined } if user != *self.client.user() => {
                    self.client.broadcast(&group, NOTICE, format!("welcome, {user}").into_bytes())?;
                }
                Event::GroupMessage { group, message } => {
                    let from = message.from.as_ref().map_or("the server", |user| user.as_str());
                    println!("{group}: {from}: {}", String::from_utf8_lossy(&message.body));
                }
                Event::State(State::Stopped { code, text }) => return Err(format!("{code}: {text}").into()),
                Event::State(_) | Event::Member { .. } | Event::MembersMissed(_) => {}
                Event::Undelivered { .. } | Event::Blob(_) | Event::Presence { .. } => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, message: &Message) -> Result<(), Box<dyn Error>> {
        if let Some(from) = &message.from
            && message.info_type == TEXT
        {
            self.answers += 1;
            let text = format!("you said: {}", String::from_utf8_lossy(&message.body));
            self.client.send(Some(from), NOTICE, text.into_bytes())?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut server, mut acms, mut user, mut group) = ("127.0.0.1:6000".into(), None, "bot".into(), "lobby".into());
    let mut args = std::env::args().skip(1);
    while let (Some(option), Some(value)) = (args.next(), args.next()) {
        match option.as_str() {
            "--server" => server = value,
            "--acms" => acms = Some(value),
            "--user" => user = value,
            "--group" => group = value,
            _ => return Err(format!("{option} is not known").into()),
        }
    }
    let builder = Client::builder(&user).takes_queries();
    let client = match acms {
        Some(acms) => builder.connect_via_acms(&acms, None)?,
        None => builder.connect(server)?,
    };
    serve(client, group.parse()?)
}
