"""A Trunkline client in plain Python 3, written from docs/PROTOCOL.md alone.

It shares no code with the project: where the two disagree, one of them or the page is wrong. Everything happens on the
caller's thread, inside the calls; a program that waits for nothing else should call recv() now and then, since that is
where PING and WANT_ACK are answered.
"""

import collections
import json
import random
import select
import socket
import struct
import time

LOGIN, WELCOME, CLOSE, LOGOUT, PING, PONG = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
DATA, ACK, BOUNCE, QUERY, REPLY = 0x10, 0x11, 0x12, 0x13, 0x14
GROUP_JOIN, GROUP_LEAVE, GROUP_DATA, GROUP_EVENT = 0x20, 0x21, 0x22, 0x23
PRESENCE, ASK, ANSWER = 0x30, 0x31, 0x32

WANT_ACK, MORE, DROPPABLE, ERROR, RETRY = 0x01, 0x02, 0x04, 0x08, 0x10

OFFLINE, UNREACHABLE, BOUNCE_RETRY, BUSY, DENIED, BOUNCE_TOO_BIG, NO_HANDLER, NOT_IN_GROUP = range(1, 9)

JOINED, LEFT, SESSION_ENDED, MISSED = range(1, 5)

CLIENT_PREFACE = b"TRNK" + bytes([0, 1, 1, 0])
HEADER = struct.Struct(">IBBBBIQ")
# Of the header, what the length field counts.
COUNTED_HEADER_BYTES = HEADER.size - 4
MAX_FRAME_BEFORE_WELCOME = 1 << 20
DEDUPE_IDS = 1024

Frame = collections.namedtuple("Frame", "kind flags info_type id to from_ body")


class Closed(Exception):
    """The server sent CLOSE."""

    def __init__(self, code, text, retry_after_ms=None, go_to=None):
        super().__init__(f"closed with {code}: {text!r}")
        self.code, self.text, self.retry_after_ms, self.go_to = code, text, retry_after_ms, go_to

    @property
    def reconnects(self):
        return not 1500 <= self.code <= 1999


class Lost(Exception):
    """The connection ended without a CLOSE."""


class Bounced(Exception):
    """The message was not delivered."""

    def __init__(self, code, frame):
        super().__init__(f"bounced with {code}: message {frame.id} to {frame.from_!r}")
        self.code, self.frame = code, frame


class Malformed(Exception):
    """The server sent what is no frame."""


def encode(kind, flags=0, info_type=0, id=0, to=b"", from_=b"", body=b""):
    """The bytes of one frame."""
    length = COUNTED_HEADER_BYTES + len(to) + len(from_) + len(body)
    return HEADER.pack(length, kind, flags, len(to), len(from_), info_type, id) + to + from_ + body


def decode(buffer, max_frame):
    """The first frame of a bytearray and how many bytes it has; None while bytes are missing."""
    if len(buffer) < 4:
        return None
    length = int.from_bytes(buffer[:4], "big")
    if not COUNTED_HEADER_BYTES <= length <= max_frame:
        raise Malformed(f"length {length}")
    if len(buffer) < 4 + length:
        return None
    _, kind, flags, to_len, from_len, info_type, id = HEADER.unpack_from(buffer)
    to_end = HEADER.size + to_len
    from_end = to_end + from_len
    if from_end > 4 + length:
        raise Malformed(f"ids of {to_len} and {from_len} bytes in a length of {length}")
    to, from_ = bytes(buffer[HEADER.size:to_end]), bytes(buffer[to_end:from_end])
    return Frame(kind, flags, info_type, id, to, from_, bytes(buffer[from_end:4 + length])), 4 + length


def parse_close(frame):
    """The exception that a CLOSE frame is."""
    text = frame.body.decode("utf-8", "replace")
    if frame.body.startswith(b"{"):
        try:
            body = json.loads(text)
            return Closed(frame.info_type, body.get("text", ""), body.get("retry_after_ms"), body.get("go_to"))
        except ValueError:
            pass
    return Closed(frame.info_type, text)


class Client:
    """One session. `timeout` bounds every call that waits and is given no bound of its own, in seconds."""

    def __init__(self, timeout=10.0):
        self.timeout = timeout
        self.socket = None
        self.user = b""
        self.welcome = None
        self.max_frame = MAX_FRAME_BEFORE_WELCOME
        self.heartbeat = 10.0
        self._buffer = bytearray()
        # Frames that came while another was waited for.
        self._inbox = collections.deque()
        # sender -> its last ids, oldest first
        self._taken = {}
        self._next_id = random.getrandbits(47)
        self._last_heard = self._last_ping = 0.0
        # The id of the PING that ping() waits for.
        self._pinged = None

    def connect(self, host, port):
        """Dials and sends the preface."""
        self.socket = socket.create_connection((host, int(port)), self.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._last_heard = time.monotonic()
        self.send_bytes(CLIENT_PREFACE)
        return self

    def login(self, user, password=None):
        """Logs in and returns the body of WELCOME. Raises Closed where the server refuses."""
        self.user = user.encode()
        body = {"agent": "trunkline-python/1"}
        if password is not None:
            body["password"] = password
        self.send_frame(LOGIN, body=json.dumps(body).encode())
        frame = self._wait(lambda frame: frame.kind == WELCOME, self.timeout, "WELCOME")
        if frame.to != self.user:
            raise Malformed(f"WELCOME to {frame.to!r}")
        self.welcome = json.loads(frame.body)
        self.max_frame = self.welcome["max_frame"]
        self.heartbeat = self.welcome["heartbeat_ms"] / 1000
        return self.welcome

    def send(self, to, body, info_type=0, want_ack=False):
        """Sends a message and returns its id, which wait_ack() takes."""
        id = self.new_id()
        self.send_frame(DATA, WANT_ACK if want_ack else 0, info_type, id, to.encode(), body)
        return id

    def wait_ack(self, id, timeout=None):
        """Returns when the message is acknowledged; raises Bounced."""
        self._wait_answer(ACK, id, timeout)

    def wait_bounce(self, id, timeout=None):
        """Returns the BOUNCE of a message."""
        return self._wait(lambda frame: frame.kind == BOUNCE and frame.id == id, timeout, f"BOUNCE of {id}")

    def query(self, to, body, info_type=0):
        """Asks and returns the query's id, which wait_reply() takes."""
        id = self.new_id()
        self.send_frame(QUERY, 0, info_type, id, to.encode(), body)
        return id

    def wait_reply(self, id, timeout=None):
        """Returns the REPLY frame of a query; raises Bounced. Its flag ERROR tells that the handler failed."""
        return self._wait_answer(REPLY, id, timeout)

    def reply(self, query, body, info_type=0, error=False):
        """Answers a QUERY frame."""
        self.send_frame(REPLY, ERROR if error else 0, info_type, query.id, query.from_, body)

    def join(self, group, timeout=None):
        """Goes into a group and returns the GROUP_EVENT that confirms it; raises Bounced."""
        return self._group_change(GROUP_JOIN, group, timeout)

    def leave(self, group, timeout=None):
        """Goes out of a group and returns the GROUP_EVENT that confirms it."""
        return self._group_change(GROUP_LEAVE, group, timeout)

    def _group_change(self, kind, group, timeout):
        id = self.new_id()
        self.send_frame(kind, id=id, to=group.encode())
        return self._wait_answer(GROUP_EVENT, id, timeout)

    def broadcast(self, group, body, info_type=0, flags=0):
        """Says something to a group and returns its id, which wait_ack() and wait_bounce() take."""
        id = self.new_id()
        self.send_frame(GROUP_DATA, flags, info_type, id, group.encode(), body)
        return id

    def ask(self, ask, users=None, timeout=None, **more):
        """Asks the platform and returns the ANSWER's body."""
        id = self.new_id()
        body = {"ask": ask, **more} if users is None else {"ask": ask, "users": users, **more}
        self.send_frame(ASK, id=id, body=json.dumps(body).encode())
        return json.loads(self._wait_answer(ANSWER, id, timeout).body)

    def recv(self, timeout=None):
        """The next frame that is not PING, PONG or a duplicate. Raises TimeoutError, Closed or Lost."""
        if self._inbox:
            return self._inbox.popleft()
        return self._read(self._deadline(timeout), "a frame")

    def recv_kind(self, kind, timeout=None, **wanted):
        """The next frame of one kind whose named fields are as wanted; others stay for later calls."""
        def is_wanted(frame):
            return frame.kind == kind and all(getattr(frame, name) == value for name, value in wanted.items())

        return self._wait(is_wanted, timeout, f"a frame of kind {kind:#04x} {wanted or ''}")

    def has(self, kind):
        """Whether a frame of that kind is here that nobody has taken."""
        self.ping()
        return any(frame.kind == kind for frame in self._inbox)

    def ping(self, timeout=None):
        """Sends a PING and waits for its PONG."""
        self._pinged = self.new_id()
        self.send_frame(PING, id=self._pinged)
        self._wait(lambda frame: frame.kind == PONG, timeout, "PONG")
        self._pinged = None

    def logout(self):
        """Ends the session and returns the server's Closed."""
        self.send_frame(LOGOUT)
        return self.wait_closed()

    def wait_closed(self, timeout=None):
        """Returns the server's Closed."""
        try:
            self._wait(lambda frame: False, timeout, "CLOSE")
        except Closed as closed:
            return closed

    def close(self):
        """Ends the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def new_id(self):
        """A message id that this session has not used."""
        self._next_id += 1
        return self._next_id

    def send_frame(self, kind, flags=0, info_type=0, id=0, to=b"", body=b"", from_=None):
        """Sends a frame. `from` is the user where the kind has one, unless given."""
        if from_ is None:
            from_ = b"" if kind in (PING, PONG, CLOSE) else self.user
        self.send_bytes(encode(kind, flags, info_type, id, to, from_, body))

    def send_bytes(self, data):
        """Sends bytes as they are, reading meanwhile: a server stops reading from a client that does not read."""
        deadline = self._deadline(None)
        rest = memoryview(data)
        while rest:
            readable, writable = self._select(deadline, True, "room to send")
            try:
                if readable:
                    self._fill()
                if writable:
                    rest = rest[self.socket.send(rest):]
            except BlockingIOError:
                pass
            except (ConnectionError, Lost) as error:
                raise self._close_behind(error) from error

    def _close_behind(self, error):
        """Why a connection broke: the CLOSE that stands in what was read, or the error itself."""
        try:
            while self._fill():
                pass
        except Lost:
            pass
        while (decoded := decode(self._buffer, self.max_frame)) is not None:
            frame, size = decoded
            del self._buffer[:size]
            if frame.kind == CLOSE:
                return parse_close(frame)
        return Lost(str(error))

    def _deadline(self, timeout):
        return time.monotonic() + (self.timeout if timeout is None else timeout)

    def _select(self, deadline, writes, what):
        """Waits for the socket; raises TimeoutError past the deadline."""
        self.socket.setblocking(False)
        while True:
            now = time.monotonic()
            heartbeat_at = max(self._last_heard, self._last_ping) + self.heartbeat
            until = deadline if writes else min(deadline, heartbeat_at)
            readable, writable, _ = select.select(
                [self.socket], [self.socket] if writes else [], [], max(0.0, until - now))
            if readable or writable:
                return bool(readable), bool(writable)
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError(f"{self.user.decode()}: waited in vain for {what}")
            if now - self._last_heard >= 3 * self.heartbeat:
                raise Lost("the server is silent")
            if not writes and now >= heartbeat_at:
                self._last_ping = now
                self.send_frame(PING, id=self.new_id())

    def _fill(self):
        """Reads what is there; False where that is nothing."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise Lost(str(error)) from error
        if not data:
            raise Lost("end of stream")
        self._last_heard = time.monotonic()
        self._buffer += data
        return True

    def _read(self, deadline, what):
        """The next frame from the socket that is the application's."""
        while True:
            decoded = decode(self._buffer, self.max_frame)
            if decoded is None:
                self._select(deadline, False, what)
                self._fill()
                continue
            frame, size = decoded
            del self._buffer[:size]
            if frame.kind == CLOSE:
                raise parse_close(frame)
            if frame.kind == PING:
                self.send_frame(PONG, id=frame.id)
            elif frame.kind == PONG:
                if frame.id == self._pinged:
                    return frame
            elif not self._is_duplicate(frame):
                return frame

    def _is_duplicate(self, frame):
        """Acknowledges a message that wants it; whether it was taken before."""
        if frame.kind not in (DATA, GROUP_DATA) or not frame.flags & WANT_ACK:
            return False
        self.send_frame(ACK, id=frame.id, to=frame.from_)
        if frame.kind == GROUP_DATA:
            # It is never sent again.
            return False
        taken = self._taken.setdefault(frame.from_, collections.deque(maxlen=DEDUPE_IDS))
        if frame.flags & RETRY and frame.id in taken:
            return True
        taken.append(frame.id)
        return False

    def _wait(self, wanted, timeout, what):
        """The next frame that is wanted; others stay for later calls."""
        for place, frame in enumerate(self._inbox):
            if wanted(frame):
                del self._inbox[place]
                return frame
        deadline = self._deadline(timeout)
        while True:
            frame = self._read(deadline, what)
            if wanted(frame):
                return frame
            self._inbox.append(frame)

    def _wait_answer(self, kind, id, timeout):
        frame = self._wait(lambda frame: frame.kind in (kind, BOUNCE) and frame.id == id, timeout, f"answer to {id}")
        if frame.kind == BOUNCE:
            raise Bounced(frame.info_type, frame)
        return frame
