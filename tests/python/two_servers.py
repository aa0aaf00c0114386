"""Checks two servers of one cluster through the independent client: two_servers.py HOST PORT_A HOST PORT_B

alice logs in at A, bob at B; everyone is to be everyone's friend there. Prints `ok NAME` for each check and `N passed` at the end; exits 1 with the reason at the
first that fails. No wait is longer than 10 s.
"""

import sys
import time

import trunkline_client as tl

# How long the cluster may take to settle after a start.
SETTLE_SECONDS = 15.0


class Failed(Exception):
    """A check that did not hold."""


def expect(what, actual, expected):
    if actual != expected:
        shown = tuple(repr(value) if len(repr(value)) < 200 else repr(value)[:200] + "..." for value in (actual, expected))
        raise Failed(f"{what}: got {shown[0]}, expected {shown[1]}")


def fields(frame):
    return frame.kind, frame.flags, frame.info_type, frame.id, frame.to, frame.from_, frame.body


def login(address, user):
    client = tl.Client().connect(*address)
    client.login(user)
    return client


def login_in_cluster(address, user):
    """Logs in again until the server reaches its cluster."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        client = login(address, user)
        if client.welcome["cluster"] == "up":
            return client
        if time.monotonic() > deadline:
            raise Failed(f"the server at {address} says cluster = {client.welcome['cluster']!r}")
        client.logout()
        client.close()
        time.sleep(0.2)


def until_settled(bounce_code):
    """Calls bounce_code() until it is not RETRY, and returns it."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        code = bounce_code()
        if code != tl.BOUNCE_RETRY or time.monotonic() > deadline:
            return code
        time.sleep(0.5)


class Checks:
    """Each public method is one check; they run in the order written."""

    def __init__(self, a, b):
        self.address_a, self.address_b = a, b
        self.alice = self.bob = None

    def close(self):
        for client in (self.alice, self.bob):
            if client is not None:
                client.close()

    def both_ways(self):
        return (self.alice, self.bob), (self.bob, self.alice)

    def deliver(self, sender, receiver, body, info_type=0, flags=0):
        """Sends one message, and expects it to arrive byte for byte."""
        id = sender.new_id()
        sender.send_frame(tl.DATA, flags, info_type, id, receiver.user, body)
        self.arrives(sender, receiver, id, body, info_type, flags)
        return id

    def arrives(self, sender, receiver, id, body, info_type=0, flags=0):
        frame = receiver.recv_kind(tl.DATA)
        expect("message", fields(frame), (tl.DATA, flags, info_type, id, receiver.user, sender.user, body))

    def check_login(self):
        self.alice = login_in_cluster(self.address_a, "alice")
        self.bob = login_in_cluster(self.address_b, "bob")
        for client in (self.alice, self.bob):
            for key, kind in (("server", int), ("session", str), ("heartbeat_ms", int), ("max_frame", int)):
                expect(f"type of {key} in WELCOME", type(client.welcome.get(key)), kind)
        if self.alice.welcome["server"] == self.bob.welcome["server"]:
            raise Failed("both users are on the same server")
        if self.alice.welcome["session"] == self.bob.welcome["session"]:
            raise Failed("both sessions have the same name")

    def check_plain(self):
        for sender, receiver in self.both_ways():
            self.deliver(sender, receiver, b"hello \x00\xff", info_type=0xFFFFFFFF)

    def check_acked(self):
        for sender, receiver in self.both_ways():
            id = self.deliver(sender, receiver, b"certainly", info_type=7, flags=tl.WANT_ACK)
            ack = sender.recv_kind(tl.ACK)
            expect("ACK", fields(ack), (tl.ACK, 0, 0, id, sender.user, receiver.user, b""))

    def check_flags_travel(self):
        for flags in (tl.DROPPABLE, tl.MORE, tl.MORE | tl.DROPPABLE, tl.RETRY):
            self.deliver(self.alice, self.bob, b"flags", flags=flags)

    def check_sent_again(self):
        id = self.deliver(self.alice, self.bob, b"once", flags=tl.WANT_ACK)
        self.alice.wait_ack(id)
        self.alice.send_frame(tl.DATA, tl.WANT_ACK | tl.RETRY, 0, id, self.bob.user, b"once")
        self.deliver(self.alice, self.bob, b"behind it")
        self.alice.wait_ack(id)

    def check_empty_body(self):
        for sender, receiver in self.both_ways():
            self.deliver(sender, receiver, b"")

    def check_largest_body(self):
        max_frame = min(self.alice.max_frame, self.bob.max_frame)
        for sender, receiver in self.both_ways():
            size = max_frame - 16 - len(sender.user) - len(receiver.user)
            self.deliver(sender, receiver, (bytes(range(256)) * (size // 256 + 1))[:size])

    def check_byte_by_byte(self):
        id = self.alice.new_id()
        for byte in tl.encode(tl.DATA, 0, 5, id, b"bob", b"alice", b"a byte at a time"):
            self.alice.send_bytes(bytes([byte]))
            time.sleep(0.002)
        self.arrives(self.alice, self.bob, id, b"a byte at a time", info_type=5)

    def check_many_in_order(self):
        ids = [self.alice.new_id() for _ in range(1000)]
        frames = [tl.encode(tl.DATA, 0, n, id, b"bob", b"alice", b"x" * (n % 97)) for n, id in enumerate(ids)]
        self.alice.send_bytes(b"".join(frames))
        for n, id in enumerate(ids):
            self.arrives(self.alice, self.bob, id, b"x" * (n % 97), info_type=n)

    def check_to_oneself(self):
        self.deliver(self.alice, self.alice, b"note")

    def check_query(self):
        for asker, answerer in self.both_ways():
            id = asker.query(answerer.user.decode(), b"how are you?", info_type=9)
            query = answerer.recv_kind(tl.QUERY)
            expect("QUERY", fields(query), (tl.QUERY, 0, 9, id, answerer.user, asker.user, b"how are you?"))
            answerer.reply(query, b"fine", info_type=10)
            reply = asker.wait_reply(id)
            expect("REPLY", fields(reply), (tl.REPLY, 0, 10, id, asker.user, answerer.user, b"fine"))

    def check_query_that_fails(self):
        id = self.alice.query("bob", b"divide by zero")
        self.bob.reply(self.bob.recv_kind(tl.QUERY), b"no", error=True)
        reply = self.alice.wait_reply(id)
        expect("REPLY", (reply.flags, reply.body), (tl.ERROR, b"no"))

    def check_ask_online(self):
        expected = [{"user": "bob", "online": True}, {"user": "nobody", "online": False},
                    {"user": "alice", "online": True}]

        def online():
            return self.alice.ask("online", ["bob", "nobody", "alice"]).get("users")

        deadline = time.monotonic() + SETTLE_SECONDS
        while (users := online()) != expected and time.monotonic() < deadline:
            time.sleep(0.5)
        expect("ANSWER", users, expected)

    def check_ask_where(self):
        answer = self.alice.ask("where", ["bob", "alice"])
        expect("ANSWER", answer.get("users"), [
            {"user": "bob", "online": True, "server": self.bob.welcome["server"]},
            {"user": "alice", "online": True, "server": self.alice.welcome["server"]}])

    def check_ask_rtt(self):
        expect("ANSWER", self.bob.ask("rtt").get("error"), None)

    def check_ask_unknown(self):
        expect("type of error", type(self.bob.ask("weather").get("error")), str)
        expect("type of error", type(self.bob.ask("online", ["x"] * 101).get("error")), str)

    def check_bounce_offline(self):
        def bounce_code():
            id = self.alice.send("nobody", b"hello?", info_type=3)
            bounce = self.alice.wait_bounce(id)
            expect("BOUNCE", fields(bounce), (tl.BOUNCE, 0, bounce.info_type, id, b"alice", b"nobody", b""))
            return bounce.info_type

        expect("bounce code", until_settled(bounce_code), tl.OFFLINE)

    def check_query_bounce_offline(self):
        def bounce_code():
            try:
                self.alice.wait_reply(self.alice.query("nobody", b"hello?"))
            except tl.Bounced as bounced:
                return bounced.code
            raise Failed("a REPLY from nobody")

        expect("bounce code", until_settled(bounce_code), tl.OFFLINE)

    def check_group(self):
        for client in (self.alice, self.bob):
            event = client.join("chess")
            expect("GROUP_EVENT", fields(event), (tl.GROUP_EVENT, 0, tl.JOINED, event.id, b"chess", client.user, b""))
        self.hears_of_member(self.alice, self.bob, tl.JOINED)
        for sender, receiver in self.both_ways():
            for flags in (0, tl.DROPPABLE, tl.WANT_ACK):
                id = sender.broadcast("chess", b"to all \x00\xff", 7, flags)
                said = receiver.recv_kind(tl.GROUP_DATA)
                expect("GROUP_DATA", fields(said), (tl.GROUP_DATA, flags, 7, id, b"chess", sender.user, b"to all \x00\xff"))
            ack = sender.recv_kind(tl.ACK)
            expect("ACK", fields(ack), (tl.ACK, 0, 0, id, sender.user, receiver.user, b""))
        for client in (self.alice, self.bob):
            expect("a copy of what one said oneself", client.has(tl.GROUP_DATA), False)

    def hears_of_member(self, client, member, change):
        event = client.recv_kind(tl.GROUP_EVENT, id=0, info_type=change, from_=member.user)
        expect("GROUP_EVENT", fields(event), (tl.GROUP_EVENT, 0, change, 0, b"chess", member.user, b""))

    def check_group_members(self):
        answer = self.alice.ask("members", group="chess")
        expect("complete", answer.get("complete"), True)
        expect("ANSWER", sorted(answer["users"], key=lambda member: member["user"]), [
            {"user": client.user.decode(), "online": True, "server": client.welcome["server"]}
            for client in (self.alice, self.bob)])

    def check_group_left(self):
        event = self.bob.leave("chess")
        expect("GROUP_EVENT", fields(event), (tl.GROUP_EVENT, 0, tl.LEFT, event.id, b"chess", b"bob", b""))
        self.hears_of_member(self.alice, self.bob, tl.LEFT)
        id = self.bob.broadcast("chess", b"am I in?")
        bounce = self.bob.wait_bounce(id)
        expect("BOUNCE", fields(bounce), (tl.BOUNCE, 0, tl.NOT_IN_GROUP, id, b"bob", b"chess", b""))
        self.alice.leave("chess")
        expect("what nobody said to alice", self.alice.has(tl.GROUP_DATA), False)

    def check_friends(self):
        carol = login(self.address_b, "carol")
        for online, happens in ((1, lambda: None), (0, carol.logout)):
            happens()
            change = self.alice.recv_kind(tl.PRESENCE, from_=b"carol")
            expect("PRESENCE", fields(change), (tl.PRESENCE, 0, online, 0, b"", b"carol", b""))
        carol.close()

    def check_watch(self):
        expect("ANSWER", self.alice.ask("watch", ["bob"]).get("users"), [{"user": "bob", "online": True}])
        expect("ANSWER", self.alice.ask("unwatch", ["bob"]), {})

    def check_ping(self):
        for client in (self.alice, self.bob):
            client.ping()

    def check_spoof(self):
        mallory = login(self.address_a, "mallory")
        mallory.send_frame(tl.DATA, id=1, to=b"bob", body=b"trust me", from_=b"alice")
        expect("close code", mallory.wait_closed().code, 1506)
        mallory.close()
        self.deliver(self.alice, self.bob, b"the true one")

    def check_logout(self):
        for client, other in ((self.bob, self.alice), (self.alice, None)):
            expect("close code", client.logout().code, 1511)
            client.close()
            if other is not None:
                user = client.user.decode()
                expect("bounce code", until_settled(lambda: other.wait_bounce(other.send(user, b"gone?")).info_type),
                       tl.OFFLINE)


def run(a, b):
    checks = Checks(a, b)
    passed = 0
    try:
        for name in (name for name in vars(Checks) if name.startswith("check_")):
            shown = name.removeprefix("check_").replace("_", " ")
            try:
                getattr(checks, name)()
            except (Failed, tl.Closed, tl.Lost, tl.Bounced, tl.Malformed, OSError, ValueError, KeyError) as error:
                print(f"FAILED {shown}: {type(error).__name__}: {error}", flush=True)
                return 1
            print(f"ok {shown}", flush=True)
            passed += 1
    finally:
        checks.close()
    print(f"{passed} passed")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__.splitlines()[0])
    sys.exit(run((sys.argv[1], int(sys.argv[2])), (sys.argv[3], int(sys.argv[4]))))
