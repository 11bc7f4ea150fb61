#!/usr/bin/env python3
"""Measures memory and times with many messages, many queues and many waiting receivers.

    tests/scale.py path/to/tertulia [--messages N] [--queues N] [--polls N] [bounds: see --help]

With --messages of 1 KiB waiting in one queue: resident memory, the time of a receive at the head,
the time from SIGKILL to ready and that of the first receive after it. With --queues idle queues
and --polls idle long polls, each on a connection of its own: resident memory. 0 leaves a part out.
A bound that is given and not kept ends the run with exit code 1. Port: SCALE_PORT, or 17480.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

PORT = int(os.environ.get("SCALE_PORT", "17480"))
PHRASE = "a phrase as long as it likes"
BATCH = 100
# A user may have so many.
QUEUES_PER_USER = 10_000
BODY = "x" * 1024


def args():
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("binary")
    parse.add_argument("--messages", type=int, default=1_000_000)
    parse.add_argument("--queues", type=int, default=100_000)
    parse.add_argument("--polls", type=int, default=10_000)
    parse.add_argument("--receives", type=int, default=3_000, help="timed receives at the head")
    parse.add_argument("--messages-mib", type=float, help="bound of memory with the messages")
    parse.add_argument("--receive-ms", type=float, help="bound of the median receive")
    parse.add_argument("--start-ms", type=float, help="bound of the start after SIGKILL")
    parse.add_argument("--first-ms", type=float, help="bound of the first receive after it")
    parse.add_argument("--idle-mib", type=float, help="bound of memory with queues and polls")
    return parse.parse_args()


class Node:
    def __init__(self, binary):
        self.binary, self.folder, self.process = binary, tempfile.mkdtemp(), None

    def start(self):
        """Starts it; the seconds until it is ready."""
        began = time.monotonic()
        env = {k: v for k, v in os.environ.items() if not k.startswith("TERTULIA_")}
        env |= {
            "TERTULIA_DATA_DIR": f"{self.folder}/data",
            "TERTULIA_HTTP__LISTEN": f"127.0.0.1:{PORT}",
            "TERTULIA_LOG__LEVEL": "warn",
        }
        log = open(f"{self.folder}/log", "ab")
        self.process = subprocess.Popen([self.binary, "serve"], env=env, stdout=log, stderr=log)
        while True:
            if self.process.poll() is not None:
                raise SystemExit("scale: the node ended: " + open(f"{self.folder}/log").read())
            try:
                socket.create_connection(("127.0.0.1", PORT), 1).close()
                self.trust = ssl.create_default_context(cafile=f"{self.folder}/data/ca.pem")
                if Client(self).call("GET", "/readyz")[0] == 200:
                    return time.monotonic() - began
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() - began > 600:
                raise SystemExit("scale: the node is not ready after 600 s")
            select.select([], [], [], 0.005)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            lines = [line.split() for line in status if line.startswith(("VmRSS", "VmHWM"))]
        found = {line[0]: int(line[1]) / 1024 for line in lines}
        return found["VmRSS:"], found["VmHWM:"]


class Client:
    def __init__(self, node, token=None):
        self.http = http.client.HTTPSConnection(
            "localhost", PORT, timeout=120, context=node.trust)
        self.head = {"authorization": f"Bearer {token}"} if token else {}

    def call(self, method, path, body=None, wanted=None):
        head = dict(self.head)
        if body is not None:
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            head["content-type"] = "application/json"
        for _ in range(100):
            self.http.request(method, path, body, head)
            answer = self.http.getresponse()
            text = answer.read()
            # The node says when it is too much; it is asked again.
            if answer.status != 503 or wanted is None:
                break
            select.select([], [], [], 0.05)
        if wanted is not None and answer.status != wanted:
            raise SystemExit(f"scale: {method} {path}: {answer.status}: {text[:500]}")
        return answer.status, text


def user(node, name):
    client = Client(node)
    client.call("POST", "/v1/users", {"username": name, "password": PHRASE}, 201)
    text = client.call("POST", "/v1/sessions", {"username": name, "password": PHRASE}, 201)[1]
    return json.loads(text)["token"]


def share(count, workers, work):
    """Runs `work(first, last)` on shares of a count, at once."""
    edges = [count * n // workers for n in range(workers + 1)]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, a, b) for a, b in zip(edges, edges[1:])]:
            done.result()


figures, misses = {}, []


def tell(name, value, unit, bound=None):
    figures[name] = round(value, 2)
    late = bound is not None and value > bound
    if late:
        misses.append(name)
    suffix = "" if bound is None else f" (bound {bound:g}{', MISSED' if late else ''})"
    print(f"{name:44} {value:12.2f} {unit}{suffix}", flush=True)


def receive(client):
    """Receives and acknowledges one message at the head; the ms until it was there."""
    began = time.monotonic()
    _, text = client.call("POST", "/v1/queues/long/leases", {"auto_ack": True}, 200)
    took = (time.monotonic() - began) * 1000
    if len(json.loads(text)["messages"]) != 1:
        raise SystemExit("scale: nothing at the head of a long queue")
    return took


def long_queue(node, given):
    token = user(node, "sender")
    Client(node, token).call("PUT", "/v1/queues/long", {}, 201)
    batch = json.dumps({"messages": [{"body": BODY}] * BATCH}).encode()

    def send(first, last):
        client = Client(node, token)
        for _ in range(first, last):
            client.call("POST", "/v1/queues/long/messages", batch, 201)

    began = time.monotonic()
    share(given.messages // BATCH, 4, send)
    count = given.messages // BATCH * BATCH
    tell("sends, batches of 100", count / (time.monotonic() - began), "messages/s")
    rss, peak = node.rss_mib()
    tell("memory, messages waiting", rss, "MiB", given.messages_mib)
    tell("memory, messages waiting, peak", peak, "MiB")
    size = os.path.getsize(f"{node.folder}/data/tertulia.redb")
    tell("file", size / (1 << 20), "MiB")

    def timed(label, bound):
        client = Client(node, token)
        first = receive(client)
        took = sorted(receive(client) for _ in range(min(given.receives, count // 4)))
        tell(f"receive, first{label}", first, "ms", given.first_ms if label else None)
        tell(f"receive at the head, median{label}", took[len(took) // 2], "ms", bound)
        tell(f"receive at the head, 99 %{label}", took[len(took) * 99 // 100], "ms")
        tell(f"receive at the head, slowest{label}", took[-1], "ms")

    timed("", given.receive_ms)
    node.kill()
    tell("start after SIGKILL", node.start() * 1000, "ms", given.start_ms)
    timed(", after SIGKILL", given.receive_ms)
    rss, peak = node.rss_mib()
    tell("memory after SIGKILL", rss, "MiB", given.messages_mib)
    tell("memory after SIGKILL, peak", peak, "MiB")
    node.kill()
    tell("start after a second SIGKILL, idle", node.start() * 1000, "ms", given.start_ms)


def idle(node, given):
    tokens = [user(node, f"owner{n}") for n in range(-(-given.queues // QUEUES_PER_USER))]

    def make(first, last):
        clients = [Client(node, token) for token in tokens]
        for n in range(first, last):
            clients[n // QUEUES_PER_USER].call("PUT", f"/v1/queues/idle-{n}", {}, 201)

    began = time.monotonic()
    share(given.queues, 16, make)
    tell("queues made", given.queues / (time.monotonic() - began), "1/s")
    tell("memory, idle queues", node.rss_mib()[0], "MiB")
    wait_idle(node, given, tokens)
    tell("memory, idle queues and long polls", node.rss_mib()[0], "MiB", given.idle_mib)
    tell("memory, the same, peak", node.rss_mib()[1], "MiB")


def wait_idle(node, given, tokens):
    """Returns while all polls wait, each for a queue of its own as far as there are queues."""
    body = b'{"wait_seconds":30}'
    open_polls = {}
    watch = select.epoll()

    def request(n):
        n %= given.queues
        token = tokens[n // QUEUES_PER_USER]
        return (
            f"POST /v1/queues/idle-{n}/leases HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {token}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n").encode() + body

    def connect(first, last):
        for n in range(first, last):
            tcp = socket.create_connection(("127.0.0.1", PORT), 60)
            tls = node.trust.wrap_socket(tcp, server_hostname="localhost")
            tls.sendall(request(n))
            tls.setblocking(False)
            open_polls[tls.fileno()] = (tls, n)
            watch.register(tls.fileno(), select.EPOLLIN)

    def again(wait):
        """Reads answers of polls that were in vain, and asks again."""
        for descriptor, _ in watch.poll(wait):
            tls, n = open_polls[descriptor]
            try:
                text = tls.recv(65536)
            except ssl.SSLWantReadError:
                continue
            if b" 200 " not in text.split(b"\r\n")[0]:
                raise SystemExit(f"scale: a poll ended: {text[:400]}")
            tls.setblocking(True)
            tls.sendall(request(n))
            tls.setblocking(False)

    began, step = time.monotonic(), 200
    for first in range(0, given.polls, step):
        last = min(given.polls, first + step)
        share(last - first, 4, lambda a, b: connect(first + a, first + b))
        again(0)
    tell("polls opened", given.polls / (time.monotonic() - began), "1/s")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        again(0.2)
    node.polls = open_polls


def main():
    given = args()
    for part, wanted in ((long_queue, given.messages), (idle, given.queues)):
        if not wanted:
            continue
        node = Node(os.path.realpath(given.binary))
        try:
            node.start()
            tell("memory at the start", node.rss_mib()[0], "MiB")
            part(node, given)
        finally:
            node.stop()
    print(json.dumps(figures))
    if misses:
        print("scale: bounds missed: " + ", ".join(misses))
        sys.exit(1)


main()
