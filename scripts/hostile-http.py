#!/usr/bin/env python3
"""What a hundred HTTP connections that flood the ACMS's management port, or a hundred that stall on it, cost the messages
that the ACMS relays: rounds in turn, and whether their p99 with these is told from their p99 without.

    cargo build --release --workspace && scripts/hostile-http.py [ROUNDS]

A flood takes processor time wherever it goes. So it is compared with the same flood on an ACMS without a cluster, which is
another process on the same machine. A round takes about 8 s.
"""

import contextlib
import multiprocessing
import selectors
import socket
import subprocess
import sys
import time

from rounds import measure, summary

CONNECTIONS = 100
LOAD = ["target/release/trunkline-loadgen", "--clients", "2000", "--rate", "5000", "--size", "128", "--warm-up", "1s",
        "--duration", "4s", "--json", "--servers"]
USERS = b"GET /v1/users?limit=1000 HTTP/1.1\r\nHost: acms\r\n\r\n"
SERVERS = b"GET /v1/servers HTTP/1.1\r\nHost: acms\r\n\r\n"


@contextlib.contextmanager
def program(name, *options):
    """A role on ports of the system's choice; yields what its first line says of them."""
    command = [f"target/release/{name}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield dict(word.split("=") for word in process.stdout.readline().split() if "=" in word)
        finally:
            process.terminate()


def acms():
    return program("trunkline-acms", "--transfer-port", "0", "--management-port", "0")


def server(number, transfer):
    return program("trunkline-appserver", "--id", str(number), "--listen", "127.0.0.1:0", "--acms", transfer,
                   "--max-messages-per-second", "0", "--max-bytes-per-second", "0")


def dial(address):
    host, port = address.split(":")
    return socket.create_connection((host, int(port)))


def stall(address, started):
    """Half a request on each connection, and requests whose answers nobody reads; anew where the port hangs up."""
    sockets = []
    started.set()
    while True:
        while len(sockets) < CONNECTIONS:
            connection = dial(address)
            connection.sendall(USERS[:-2] if len(sockets) % 2 else USERS * 8)
            sockets.append(connection)
        time.sleep(0.1)
        sockets = [connection for connection in sockets if not hung_up(connection)]


def hung_up(connection):
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def flood(address, started):
    """A request on each connection as soon as something of the last one's answer is there."""
    selector = selectors.DefaultSelector()

    def begin():
        connection = dial(address)
        connection.sendall(USERS)
        selector.register(connection, selectors.EVENT_READ)

    for _ in range(CONNECTIONS):
        begin()
    started.set()
    while True:
        for key, _ in selector.select():
            try:
                is_open = key.fileobj.recv(1 << 20)
                key.fileobj.sendall(USERS + SERVERS)
            except ConnectionError:
                is_open = b""
            if not is_open:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                begin()


def beside(visitors, address, name, load):
    started = multiprocessing.Event()
    process = multiprocessing.Process(target=visitors, args=(address, started), daemon=True)
    process.start()
    if not started.wait(10):
        sys.exit(f"{name}: not begun after 10 s")
    try:
        result = measure(name, load)
        if not process.is_alive():
            sys.exit(f"{name}: gave up")
        return result
    finally:
        process.terminate()
        process.join()


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    results = {name: [] for name in ("calm", "stalled", "flood elsewhere", "flood")}
    with acms() as hub, acms() as other, server(0, hub["transfer"]) as as0, server(1, hub["transfer"]) as as1:
        load = LOAD + [f"{as0['clients']},{as1['clients']}"]
        for _ in range(rounds):
            results["calm"].append(measure("calm", load))
            results["stalled"].append(beside(stall, hub["management"], "stalled", load))
            results["flood elsewhere"].append(beside(flood, other["management"], "flood elsewhere", load))
            results["flood"].append(beside(flood, hub["management"], "flood", load))
    summary(results, {"stalled": "calm", "flood": "flood elsewhere"})


if __name__ == "__main__":
    main()
