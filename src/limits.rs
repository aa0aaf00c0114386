//! Every bound of the platform, with its unit and where it comes from.
//!
//! A bound that an operator may change has the same name in the configuration; the value here is then the default
//! (or, where the name ends in `_CEILING`, the most that may be configured).

use crate::time::Span;

/// Bytes of a frame before `to`: length, kind, flags, to_len, from_len, info_type and id.
pub const HEADER_BYTES: usize = 20;
/// Bytes of the length field, which does not count itself.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of a user id, at most.
pub const ID_BYTES_MAX: usize = 64;
/// Bytes of header, `to` and `from`: as much of a frame as routing ever needs to see.
pub const ENVELOPE_BYTES_MAX: usize = HEADER_BYTES + 2 * ID_BYTES_MAX;
/// Bytes of a frame after its length field, at most. The default, the ceiling, and the bound on the link.
pub const MAX_FRAME: usize = 1 << 20;
/// The least `max_frame` that may be configured: a WELCOME and every control frame fit.
pub const MAX_FRAME_FLOOR: usize = 4 << 10;
/// Bytes of a whole frame on the wire, at most.
pub const FRAME_WIRE_BYTES_MAX: usize = LENGTH_BYTES + MAX_FRAME;
/// Bytes of the frames that a client may send before it is logged in.
pub const LOGIN_FRAME_BYTES_MAX: usize = 4 << 10;
/// Bytes that PONGs may take in the queue of a connection that is not logged in: with a CLOSE behind them less than
/// [`LOGIN_FRAME_BYTES_MAX`], and more than anyone has a use for at that time.
pub const GREETING_QUEUE_BYTES_MAX: usize = 1 << 10;
/// Bytes of the address that a server registers: a host name has 253 at most, a port six more with its colon.
pub const SERVER_ADDRESS_BYTES_MAX: usize = 259;
/// Bytes of a CLOSE text: it must fit the smallest frame.
pub const CLOSE_TEXT_BYTES_MAX: usize = 512;

/// Bytes of the chunk that the reactor reads all its sockets into.
pub const CHUNK_BYTES: usize = 128 << 10;
/// A slice of a chunk that is kept beyond its turn pins the whole chunk; smaller ones are copied out. A quarter of the
/// chunk: what is pinned is at most four times what is kept.
pub const PIN_BYTES_MIN: usize = CHUNK_BYTES / 4;
/// Bytes of one block that copied-out slices are gathered in, at most.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Bytes of the first such block: a slow receiver of small frames costs no more than this.
pub const BLOCK_BYTES_MIN: usize = 512;

/// AS -> client: bytes queued at which that client's own input is no longer read and DROPPABLE frames are dropped.
pub const CLIENT_QUEUE_SOFT_BYTES: usize = 64 << 10;
/// AS -> client: bytes queued, at most; what does not fit is bounced BUSY.
pub const CLIENT_QUEUE_BYTES_MAX: usize = FRAME_WIRE_BYTES_MAX;
/// AS -> ACMS: bytes queued at which the clients whose frames go there are no longer read, until half is gone.
pub const UPLINK_QUEUE_SOFT_BYTES: usize = 2 << 20;
/// AS -> ACMS: bytes queued, at most. Above the soft mark only frames that were already read arrive.
pub const UPLINK_QUEUE_BYTES_MAX: usize = 16 << 20;
/// ACMS -> AS: bytes queued, at most; what does not fit is bounced BUSY and counted.
pub const DOWNLINK_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Bytes that control frames (session confirmations, bounces, kicks) may take beyond a queue's bound, since they are
/// what tells the other side of the bound. Past it a link is closed SLOW, a client's bounce is dropped and counted.
pub const CONTROL_RESERVE_BYTES: usize = 256 << 10;
/// Bytes of that reserve that bounces may take: an overload, which bounces much, crowds out nothing that a link cannot do
/// without.
pub const BOUNCE_RESERVE_BYTES: usize = CONTROL_RESERVE_BYTES / 2;
/// Client engine -> AS: bytes queued, at most; `send` then fails with `Full`.
pub const ENGINE_QUEUE_BYTES_MAX: usize = 4 << 20;
/// Acknowledged sends of one client engine that wait for their outcome, at most.
pub const ACKED_PENDING_MAX: usize = 1024;
/// Bytes of the bodies that those sends hold for a resend, at most.
pub const ACKED_PENDING_BYTES_MAX: usize = 8 << 20;
/// Bytes of an answer of the management interface that are taken, at most: a list of all servers that a cluster can have.
pub const MANAGEMENT_ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Users on one page of the management interface, at most.
pub const MANAGEMENT_PAGE_MAX: usize = 1_000;
/// Users that one operator's command lists, at most: more are many times what anyone reads.
pub const MANAGEMENT_USERS_MAX: usize = 1_000_000;
/// Queries of one engine that wait for their reply, at most.
pub const QUERIES_PENDING_MAX: usize = 4096;
/// Message ids remembered of each sender, to hand a resent message to the application once.
pub const DEDUPE_IDS: usize = 1024;
/// Senders whose ids are remembered; past it the one silent for longest is forgotten.
pub const DEDUPE_SENDERS_MAX: usize = 4096;
/// Events of a client engine that its application has not taken yet; past it the socket is no longer read.
pub const ENGINE_EVENTS_MAX: usize = 1024;
/// Commands of other threads that an engine has not taken yet; past it they fail with `Full`.
pub const ENGINE_COMMANDS_MAX: usize = 64 << 10;
/// Tasks that wait for each thread of a handler pool; past it messages bounce BUSY.
pub const POOL_TASKS_MAX: usize = 1024;
/// Bytes of the bodies of those tasks, the one at work included; past it messages bounce BUSY. Sixteen of the largest: a
/// thread that is further behind is not helped by more.
pub const POOL_BYTES_MAX: usize = 16 << 20;
/// Queries that a server's application has taken and not answered, at most; past it they bounce BUSY. As many as there
/// may be commands: each answer is one.
pub const ANSWERS_OWED_MAX: usize = ENGINE_COMMANDS_MAX;
/// Bytes of a blob, at most, to be sent or to be taken. The default.
pub const BLOB_BYTES_MAX: usize = 64 << 20;
/// Bytes of data in one part of a blob that this release sends: what another message waits behind at the most, in its
/// sender's queue; a seventh of a second on a line of 1 Mbit/s.
pub const BLOB_DATA_BYTES: usize = 16 << 10;
/// The least that a receiver may ask for: it fits the smallest frame, beside the longest ids.
pub const BLOB_DATA_BYTES_FLOOR: usize = MAX_FRAME_FLOOR - ENVELOPE_BYTES_MAX - 16;
/// Bytes of a blob that may be under way, not confirmed by its receiver: as much as an AS queues for a client before it
/// takes it for congested ([`CLIENT_QUEUE_SOFT_BYTES`]). A sender reaches this in each round trip: 1.3 MB/s over 50 ms.
pub const BLOB_WINDOW_BYTES: usize = CLIENT_QUEUE_SOFT_BYTES;
/// Blobs that one engine sends at once; one more fails with `Full`.
pub const BLOBS_SENDING_MAX: usize = 64;
/// Blobs that one engine is offered or receives at once; one more is refused BUSY.
pub const BLOBS_RECEIVING_MAX: usize = 256;
/// Those of one sender; one more is refused BUSY, so that no sender keeps all others out.
pub const BLOBS_OF_SENDER_MAX: usize = 4;
/// Ended blobs whose answers an engine remembers, since they may not have reached the sender; past it the oldest is
/// forgotten, and answered UNKNOWN.
pub const BLOBS_SETTLED_MAX: usize = 256;
/// Bytes of the name in a blob's manifest: what file systems take.
pub const BLOB_NAME_BYTES_MAX: usize = 255;
/// How many times the application of a receiver is told how far a blob is, at most, whatever its size.
pub const BLOB_PROGRESS_STEPS: usize = 64;
/// Bytes of what a server's application notes of a user, at most: a hint for a list of users, not a store.
pub const TAG_BYTES_MAX: usize = 256;
/// Places of the directory looked at for one page of users: some hundred microseconds, however few users are found.
pub const PAGE_PLACES_MAX: usize = 16 << 10;
/// Users on one page, at most.
pub const PAGE_USERS_MAX: usize = 1_000;
/// Messages to everyone that a server has not told all of its users, at most; past it they are BUSY. Bodies of 1 MiB take
/// 16 MiB then.
pub const ANNOUNCEMENTS_MAX: usize = 16;
/// Places of the table of connections whose users are told at once of a message to everyone, at most: with small bodies
/// less than a millisecond.
pub const ANNOUNCED_PLACES_MAX: usize = 1024;
/// Bytes of the frames that they are told it in, about: one frame more may be. Bodies below [`PIN_BYTES_MIN`] are copied,
/// which takes a millisecond then. Those of 1 MiB are told to 2,000 users a second.
pub const ANNOUNCED_BYTES_MAX: usize = 4 << 20;
/// Between those and the next: 500,000 users a second are told.
pub const ANNOUNCEMENT_PAUSE: Span = Span::from_millis(2);
/// How long a message to everyone waits where memory is too short for the next user's. By then who takes nothing is closed;
/// those for whom there is none after that miss it.
pub const ANNOUNCEMENT_PATIENCE: Span = STALL_TIMEOUT;
/// Users that one ASK may name.
pub const ASK_USERS_MAX: usize = 100;
/// A client engine asks again to be let into a group after this time, where it was in and the server has no room now.
pub const JOIN_PAUSE: Span = Span::from_secs(1);
/// Groups that a user is in, joins under way included, at most; one more is refused BUSY.
pub const GROUPS_OF_USER_MAX: usize = 256;
/// Groups with members on one server, at most; the first member of one more is refused BUSY. 16 MiB with the longest ids, and
/// as much at the ACMS for each server.
pub const GROUPS_OF_SERVER_MAX: usize = 64 << 10;
/// Members of a group on one server that hear of comings and goings. In a larger group nobody there is told of any: it would
/// cost the square of the members.
pub const GROUP_EVENT_MEMBERS_MAX: usize = 1024;
/// Members on the sender's server that a message to a group reaches for the price of one message of the sender's rate: what
/// a large group costs is held against those who say much in it.
pub const FAN_OUT_PER_MESSAGE: u64 = 64;
/// Copies of messages to groups that are put into members' queues in one turn; once there are so many, what else is said to
/// a group is BUSY. Some tenths of a second: a read of small messages to a group of thousands would hold the loop for
/// longer than a link may be silent.
pub const FAN_OUT_PER_TURN: u64 = 1 << 20;
/// Members of a group that are named in one answer, by a server or in all; with more the list is said to be incomplete.
/// 266 KiB with the longest ids, half a frame as JSON.
pub const GROUP_MEMBERS_TOLD_MAX: usize = 4096;
/// Questions for a group's members that wait for other servers, at most; one more is answered with what is known here.
pub const ROSTERS_MAX: usize = 256;
/// Unanswered lookups that an AS has at the ACMS, at most.
pub const LOOKUPS_PENDING_MAX: usize = 16 << 10;
/// Users that one client watches, its friends included; more are denied, and counted.
pub const WATCHES_OF_CLIENT_MAX: usize = 1024;
/// Questions of one client to watch users that the application has not said to yet, at most; one more is answered that the
/// server is busy. Ten times what an engine asks after a reconnect.
pub const WATCH_QUESTIONS_MAX: usize = 128;
/// Users of whom a client engine remembers that they are online, at most; of more it tells nothing. Twice what a server
/// tells of where everyone is told of, and all that the client may watch.
pub const SIGHTINGS_MAX: usize = 16 << 10;
/// How long a client engine waits before it repeats a question to watch users that came to nothing.
pub const WATCH_RETRY: Span = Span::from_secs(5);
/// Users that an application server watches for all its clients and its application, at most, some 200 bytes each with few
/// watchers; more are denied, and counted. The ACMS remembers as many of each server, and no more.
pub const WATCHED_MAX: usize = 1 << 20;
/// Users of a server who hear of everyone, at most: each that comes or goes is so many frames. More hear of nobody, and
/// are counted.
pub const EVERYONE_WATCHERS_MAX: usize = 1024;
/// Users that those hear of, at most, so that all of them fit the queue of one who logs in (84 bytes each, at the most) and
/// one ANSWER. Nobody hears of more, which are counted.
pub const EVERYONE_USERS_MAX: usize = 8 << 10;
/// PRESENCE frames that an application server writes in a turn, about: one user more may be told to all of its watchers.
pub const PRESENCE_PER_TURN: usize = 16 << 10;
/// Bytes of the body of a WATCH that tells the ACMS all over again, about.
pub const WATCH_BODY_BYTES: usize = 16 << 10;
/// Users of whom the ACMS answers one server's WATCH in a turn, at most.
pub const WATCH_ANSWERS_PER_TURN: usize = 4 << 10;
/// ACMS -> AS: bytes queued from which it is not answered a WATCH: the answers to one of a million users must leave room
/// for all else.
pub const WATCH_ANSWERS_QUEUE_BYTES: usize = 1 << 20;
/// How long those answers then wait until it is looked at again.
pub const WATCH_ANSWERS_PAUSE: Span = Span::from_millis(5);
/// Connections that have not logged in, at most; one more ends another that has said nothing, at random.
pub const ANONYMOUS_MAX: usize = 16 << 10;
/// Logins that a server has put to the ACMS and not settled, at most: as many as its connections that say nothing.
pub const CLAIMS_OF_SERVER_MAX: usize = ANONYMOUS_MAX;
/// Those of one user, on all servers; looked through for each message of the user. More programs of one user than log in
/// at the same moment.
pub const CLAIMS_OF_USER_MAX: usize = 16;
/// Connections to the ACMS that have not proven to be a member's, at most; one more ends another of them, at random, so
/// that strangers who say nothing keep no server out.
pub const STRANGERS_MAX: usize = 1024;
/// Connections that were refused and linger until they have read why, at most: as many as are accepted in one turn, so
/// that none is cut before its CLOSE is written.
pub const REFUSED_MAX: usize = ACCEPTS_PER_TURN;
/// Users on one page where nobody says.
pub const PAGE_USERS: usize = 100;
/// What operators ask of a cluster manager that it has not taken yet, at most: 503.
pub const OPERATOR_COMMANDS_MAX: usize = 256;
/// Of these, how many are done in one turn: a flood of them holds up no frame for longer than as many pages of users take.
pub const OPERATOR_COMMANDS_PER_TURN: usize = 4;
/// Messages and questions of the cluster manager's own that are not settled, at most: 503.
pub const ERRANDS_MAX: usize = 1024;
/// Those who hear of what happens in a cluster, at most: 503.
pub const SUBSCRIBERS_MAX: usize = 32;
/// What has happened and a subscriber has not taken yet; past it that one hears no more.
pub const SUBSCRIBER_EVENTS_MAX: usize = 4096;
/// Connections to the management port, at most; one more ends the one that has been idle or incomplete for longest, or is
/// refused where each is being served.
pub const MANAGEMENT_CONNECTIONS_MAX: usize = 256;
/// Bytes of a request's line and headers, at most: 431.
pub const MANAGEMENT_HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes of a request's body, at most: 413. The largest message with each character escaped, or in base64.
pub const MANAGEMENT_BODY_BYTES_MAX: usize = 128 << 10;
/// Bytes that the kernel is to hold for a connection to the management port that is not read from; it holds twice as many.
pub const MANAGEMENT_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a message that an operator sends, at most.
pub const MANAGEMENT_MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Descriptors that a process needs beside its connections: standard streams, epoll, eventfd, listener, files.
pub const SPARE_DESCRIPTORS: usize = 64;
/// Connections that an application server lets in a second, and at once; more are told when to come again. A quarter of
/// what a core can log in, so that those who are in hardly feel a storm of those who come back.
pub const ACCEPTS_PER_SECOND: u32 = 10_000;
/// Frames but answers that a client may send in a second, on average: some fifty times what a lively game sends.
pub const CLIENT_MESSAGES_PER_SECOND: u64 = 5_000;
/// Bytes of frames that a client may send in a second, on average: 134 Mbit/s, more than most clients' lines carry.
pub const CLIENT_BYTES_PER_SECOND: u64 = 16 << 20;
/// What the connections of one engine may hold is the process's memory by this, where nobody says: queued bytes cost
/// about twice their number, and large slices up to four times (a chunk by [`PIN_BYTES_MIN`]). So half of the memory is
/// left for all else at the worst.
pub const MEMORY_PART: usize = 8;
/// Bytes that connections may hold where nobody says and the system does not tell how much memory there is: as if it
/// were 256 MiB.
pub const MEMORY_MAX_UNKNOWN: usize = (256 << 20) / MEMORY_PART;
/// The least that may be configured for what connections hold, in bytes: some frames of the largest size fit below the
/// first mark.
pub const MEMORY_MAX_FLOOR: usize = 8 << 20;
/// Percent of that from which nobody new is let in.
pub const MEMORY_NO_LOGINS_PERCENT: usize = 70;
/// Percent of that below which they are again.
pub const MEMORY_LOGINS_PERCENT: usize = 60;
/// Percent of that from which senders are held back.
pub const MEMORY_PAUSE_PERCENT: usize = 85;
/// Percent of that below which they are heard again.
pub const MEMORY_RESUME_PERCENT: usize = 70;
/// Percent of that from which the slowest connections are closed.
pub const MEMORY_SHED_PERCENT: usize = 95;
/// Percent of that below which no more are.
pub const MEMORY_SHED_TO_PERCENT: usize = 85;

/// A client connection that has been silent this long is sent a PING.
pub const HEARTBEAT: Span = Span::from_secs(10);
/// The shortest that a heartbeat, its timeout and the time to log in may be set to: two slots of the timers' wheel, about.
pub const CLIENT_WAIT_FLOOR: Span = Span::from_millis(20);
/// The longest of them.
pub const CLIENT_WAIT_CEILING: Span = Span::from_secs(3_600);
/// A client connection that has been silent this long is closed NO_HEARTBEAT.
pub const HEARTBEAT_TIMEOUT: Span = Span::from_secs(30);
/// From accept to the first byte.
pub const FIRST_BYTE_TIMEOUT: Span = Span::from_secs(5);
/// From accept to a complete LOGIN or REGISTER.
pub const LOGIN_TIMEOUT: Span = Span::from_secs(10);
/// How long a login check may take before the login is refused UNAVAILABLE.
pub const LOGIN_CHECK_TIMEOUT: Span = Span::from_secs(30);
/// How long a client engine waits for WELCOME after its dial: longer than the server looks at a login.
pub const WELCOME_TIMEOUT: Span = Span::from_secs(35);
/// How long a frame may stay incomplete: PARTIAL.
pub const PARTIAL_TIMEOUT: Span = Span::from_secs(10);
/// How long a receiver with bytes queued may take none: SLOW.
pub const STALL_TIMEOUT: Span = Span::from_secs(10);
/// How long a closing connection has to take its CLOSE and end, before it is cut.
pub const CLOSE_LINGER: Span = Span::from_secs(2);
/// How far a client may be ahead of its rates: one second's worth may come at once.
pub const RATE_BURST: Span = Span::from_secs(1);
/// A client that has sent more messages than its rate for this long without a break is closed RATE: it does not mind
/// being slowed, or would be slower by itself.
pub const RATE_PATIENCE: Span = Span::from_secs(30);
/// When a client that was closed for want of room, or for its rate, may be back; drawn between half and all of it, so
/// that those who were turned away together do not return together.
pub const RETRY_AFTER: Span = Span::from_secs(10);
/// Who comes too soon is sent away for at least this long: to dial again costs more than to wait.
pub const RETURN_MIN: Span = Span::from_millis(250);
/// Who comes too soon is sent away for at most about this long, however many come.
pub const RETURN_MAX: Span = Span::from_secs(30);
/// How long a client engine stays away because a server's CLOSE asks it to, at most: more than any server of this release
/// says, which is a quarter above [`RETURN_MAX`].
pub const RETRY_AFTER_CEILING: Span = Span::from_secs(60);
/// How long senders are held back for want of memory. By then every receiver that reads has taken what it can; those
/// that keep the others waiting are closed, slowest first.
pub const MEMORY_PATIENCE: Span = Span::from_secs(3);
/// A side of the AS-ACMS link that has sent nothing for this long sends a PING.
pub const LINK_KEEPALIVE: Span = Span::from_secs(1);
/// A link whose other side has been silent for this long is dead.
pub const LINK_TIMEOUT: Span = Span::from_secs(3);
/// First pause before a redial; it doubles up to [`REDIAL_MAX`], and each pause is drawn between half and all of it.
pub const REDIAL_MIN: Span = Span::from_millis(100);
/// Longest pause before a redial.
pub const REDIAL_MAX: Span = Span::from_secs(5);
/// How long a dial may take; to the ACMS, until the server is registered.
pub const DIAL_TIMEOUT: Span = Span::from_secs(5);
/// How long a question to the management interface may take, the connection included.
pub const MANAGEMENT_TIMEOUT: Span = Span::from_secs(5);
/// How long an ACMS that has started answers RETRY, not OFFLINE, for a user that it does not know: servers that were
/// there before may be in the longest pause before a redial, and the dial itself may take its time. The default.
pub const DIRECTORY_GRACE: Span = Span::from_secs(10);
/// The longest that may be configured: it is time in which nobody is told that a user is offline.
pub const DIRECTORY_GRACE_CEILING: Span = Span::from_secs(3_600);
/// How often an AS sends the digest of its bindings.
pub const DIGEST_INTERVAL: Span = Span::from_secs(10);
/// How often an AS tells the ACMS how many users it has and how busy it is.
pub const STATE_INTERVAL: Span = Span::from_secs(1);
/// How long a user that was sent to a server counts there without having come: longer than a login takes.
pub const ASSIGNMENT_TTL: Span = Span::from_secs(10);
/// Users that count so, at most: a login storm of 100,000 a second for that time, 300 MiB with the longest ids.
pub const RESERVATIONS_MAX: usize = 1 << 20;
/// Thousandths of its time that a server is busy below which it is taken for idle: what it does then is its own upkeep,
/// timers and reports, and tells nothing of what a user costs.
pub const BUSY_PERMILLE_MIN: u64 = 10;
/// Users from which on a server's own busy time says what one of them costs: of fewer, a single one may be most of it.
pub const BUSY_USERS_MIN: u64 = 32;
/// How long an unanswered lookup at the ACMS is waited for.
pub const LOOKUP_TIMEOUT: Span = Span::from_secs(3);
/// A client engine gives a question to the platform up after this time.
pub const ASK_TIMEOUT: Span = Span::from_secs(10);
/// A client engine sends an acknowledged message again when no ACK came within this time.
pub const ACK_TIMEOUT: Span = Span::from_secs(5);
/// A client engine gives an acknowledged message up after this time.
pub const ACKED_DEADLINE: Span = Span::from_secs(30);
/// A blob that has not come further in this time is given up, on both sides.
pub const BLOB_SILENCE: Span = Span::from_secs(30);
/// A sender of a blob takes what is under way for lost, and sends it again, when nothing of it was confirmed in this time.
pub const BLOB_STALL: Span = Span::from_secs(5);
/// The most that it waits behind a bounce before it sends again; the first pause is [`REDIAL_MIN`] and doubles.
pub const BLOB_PAUSE_MAX: Span = Span::from_millis(3_200);
/// The most that a reactor rests between turns: more would be felt by people, and could cost a link its keep-alive.
pub const REST_MAX: Span = Span::from_millis(10);
/// A handler that holds the loop for longer is named in the log.
pub const HANDLER_WATCHDOG: Span = Span::from_millis(50);
/// A handler that has held the loop for this long is named while it still does.
pub const HANDLER_STUCK: Span = Span::from_secs(1);
/// How long a server that stops waits for its connections to take their CLOSE.
pub const SHUTDOWN_GRACE: Span = Span::from_secs(3);

/// How long a server that stops while others go on spreads the sending of its users to those, at least. The default.
pub const DRAIN: Span = Span::from_secs(2);
/// The longest that may be configured, or that it takes: a restart that waits longer is rather a fault.
pub const DRAIN_CEILING: Span = Span::from_secs(600);
/// How long a user that was sent to another server is not called offline. It covers the way there, the login check and the
/// claim, or five dials that are refused and the pauses between them (0.1 to 1.6 s, [`REDIAL_MIN`] doubled). It does not
/// cover a dial that nobody answers ([`DIAL_TIMEOUT`]), nor a server that says when to come again: a drain goes slowly
/// enough for that to be seldom. A user who does not come is RETRY, not OFFLINE, for as long.
pub const MOVE_GRACE: Span = Span::from_secs(3);
/// How long nobody hears that a user is gone who may be back: the connection broke, or its server was lost, or sent it
/// away. As [`DIRECTORY_GRACE`], it covers the longest pause before a redial and a dial that takes its time.
pub const PRESENCE_GRACE: Span = Span::from_secs(10);
/// Users waited for so, at most: 64 bytes of id twice, 160 MiB in all. Of more it is told at once.
pub const DEPARTURES_MAX: usize = 1 << 20;
/// How long a client engine that was sent to another server dials that one again where it is closed there with a code, before
/// it goes back to its usual address: twice the longest that a server sends it away for ([`RETURN_MAX`]).
pub const MOVE_PATIENCE: Span = Span::from_secs(60);
/// Users under way between two servers, at most: 64 bytes of id twice, 40 MiB in all. More are called offline.
pub const MOVES_MAX: usize = 256 << 10;

/// From a connection to the management port, or the answer to its last request, to the end of a request's headers; also
/// from there to the end of its body (408), and from one piece of an answer that the other side takes to the next.
pub const MANAGEMENT_REQUEST_TIMEOUT: Span = Span::from_secs(10);
/// How long an operator's command waits for the reactor: 503.
pub const OPERATOR_PATIENCE: Span = Span::from_secs(5);
/// How long what comes of an operator's message, or of a question of the cluster manager's own, may be waited for.
pub const OPERATOR_PATIENCE_CEILING: Span = Span::from_secs(60);
/// How long the reactor may take to answer at all before it is told to be ill: 503.
pub const HEALTH_TIMEOUT: Span = Span::from_secs(1);
/// Between two comments on a stream of events that has nothing to tell, so that a connection that is gone is noticed.
pub const EVENTS_KEEPALIVE: Span = Span::from_secs(15);

/// Empty ropes that are kept for queues to come: about as many as there are receivers in a turn, each of one small
/// frame.
pub const SPARE_ROPES_MAX: usize = 1024;
/// Segments that all of these have room for together, at most: 3 MiB.
pub const SPARE_SEGMENTS_MAX: usize = 64 << 10;
/// Slices handed to one `writev`. Linux takes 1,024 (IOV_MAX); past 64 the copy outweighs the call.
pub const WRITE_SLICES_MAX: usize = 64;
/// Connections accepted in one turn, so that a storm of them does not hold up the frames of the others.
pub const ACCEPTS_PER_TURN: usize = 64;

const _: () = {
    assert!(ENVELOPE_BYTES_MAX <= BLOCK_BYTES_MIN, "the first block of an incomplete frame holds its envelope");
    assert!(PIN_BYTES_MIN >= ENVELOPE_BYTES_MAX, "a pinned slice that begins a frame holds its envelope");
    assert!(CLIENT_QUEUE_BYTES_MAX >= FRAME_WIRE_BYTES_MAX, "an empty queue takes any frame");
    assert!(UPLINK_QUEUE_BYTES_MAX >= UPLINK_QUEUE_SOFT_BYTES + CHUNK_BYTES + FRAME_WIRE_BYTES_MAX);
    assert!(POOL_BYTES_MAX >= MAX_FRAME, "a thread with nothing to do takes any message");
    assert!(DOWNLINK_QUEUE_BYTES_MAX >= FRAME_WIRE_BYTES_MAX);
    assert!(CLIENT_QUEUE_SOFT_BYTES < CLIENT_QUEUE_BYTES_MAX);
    assert!(LOGIN_FRAME_BYTES_MAX <= MAX_FRAME_FLOOR);
    assert!(CLOSE_TEXT_BYTES_MAX + ENVELOPE_BYTES_MAX <= MAX_FRAME_FLOOR);
    assert!(GREETING_QUEUE_BYTES_MAX + 2 * HEADER_BYTES + CLOSE_TEXT_BYTES_MAX <= LOGIN_FRAME_BYTES_MAX);
    assert!(BLOB_DATA_BYTES <= PIN_BYTES_MIN && 4 * BLOB_DATA_BYTES <= BLOB_WINDOW_BYTES);
    assert!(BLOB_SILENCE.as_micros() >= 3 * BLOB_STALL.as_micros());
    assert!(LINK_TIMEOUT.as_micros() >= 2 * LINK_KEEPALIVE.as_micros());
    assert!(DIRECTORY_GRACE.as_micros() >= REDIAL_MAX.as_micros() + DIAL_TIMEOUT.as_micros());
    assert!(PRESENCE_GRACE.as_micros() >= REDIAL_MAX.as_micros() + DIAL_TIMEOUT.as_micros());
    assert!(PRESENCE_GRACE.as_micros() >= MOVE_GRACE.as_micros());
    assert!(SIGHTINGS_MAX >= EVERYONE_USERS_MAX + WATCHES_OF_CLIENT_MAX);
    let everyone = EVERYONE_USERS_MAX * (HEADER_BYTES + ID_BYTES_MAX);
    assert!(everyone < CLIENT_QUEUE_BYTES_MAX, "who logs in is told of everyone");
    assert!(WATCHES_OF_CLIENT_MAX * (1 + ID_BYTES_MAX) < MAX_FRAME / 2, "one WATCH names all that a client watches");
    assert!(ACKED_DEADLINE.as_micros() > DIRECTORY_GRACE.as_micros(), "an engine hears OFFLINE before it gives up");
    assert!(WELCOME_TIMEOUT.as_micros() > LOGIN_CHECK_TIMEOUT.as_micros());
    assert!(MEMORY_LOGINS_PERCENT < MEMORY_NO_LOGINS_PERCENT && MEMORY_NO_LOGINS_PERCENT < MEMORY_PAUSE_PERCENT);
    assert!(MEMORY_RESUME_PERCENT < MEMORY_PAUSE_PERCENT && MEMORY_PAUSE_PERCENT < MEMORY_SHED_PERCENT);
    assert!(MEMORY_LOGINS_PERCENT < MEMORY_RESUME_PERCENT && MEMORY_RESUME_PERCENT < MEMORY_SHED_TO_PERCENT);
    assert!(MEMORY_SHED_TO_PERCENT < MEMORY_SHED_PERCENT && MEMORY_SHED_PERCENT < 100);
    assert!(MEMORY_MAX_FLOOR >= 4 * FRAME_WIRE_BYTES_MAX);
    assert!(RATE_PATIENCE.as_micros() >= 2 * RATE_BURST.as_micros());
    assert!(RETRY_AFTER_CEILING.as_micros() >= RETURN_MAX.as_micros() + RETURN_MAX.as_micros() / 4);
    assert!(RETRY_AFTER_CEILING.as_micros() >= RETRY_AFTER.as_micros());
    assert!(MOVE_PATIENCE.as_micros() >= 2 * RETURN_MAX.as_micros());
    assert!(HEARTBEAT_TIMEOUT.as_micros() >= 2 * HEARTBEAT.as_micros());
};
