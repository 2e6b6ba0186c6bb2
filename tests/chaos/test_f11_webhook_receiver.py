"""F11: webhook receivers that fail in every way that a receiver can."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook
from support import eventually
from trial import Trial, kill

from shared.database import db_now
from shared.ids import parse_id
from shared.tables import WebhookDelivery

_ANSWERS = {
    "500": b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    "302": b"HTTP/1.1 302 There\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
    "410": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    #: it has done its work, and dies on the way to saying so.
    "torn": b"HTTP/1.1 2",
    #: it has said yes, and dies after that.
    "dies": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "ok": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}

#: longer than any sender waits here.
_HANG_S = 12


@dataclass
class Misbehaving:
    """Answers by path: `/500`, `/hang`, …; the second time, and at `/ok`, as it should."""

    port: int
    got: defaultdict[str, list[tuple[dict[str, str], bytes]]] = field(default_factory=lambda: defaultdict(list))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@pytest.fixture
def receiver() -> Iterator[Misbehaving]:
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        made = Misbehaving(server.getsockname()[1])
        server.settimeout(0.1)

        def serve() -> None:
            threads = []
            while not closing.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                threads.append(threading.Thread(target=_answer, args=(made, connection, closing)))
                threads[-1].start()
            for thread in threads:
                thread.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield made
        closing.set()
        thread.join()


def _answer(receiver: Misbehaving, connection: socket.socket, closing: threading.Event) -> None:
    with connection:
        connection.settimeout(5)
        with connection.makefile("rb") as stream:
            path = stream.readline().split()[1].decode().strip("/")
            headers: dict[str, str] = {}
            while line := stream.readline().strip().decode():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers["content-length"]))
        receiver.got[path].append((headers, body))
        behaviour = path if len(receiver.got[path]) == 1 else "ok"
        if behaviour == "hang":
            closing.wait(_HANG_S)
        elif behaviour == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.sendall(_ANSWERS[behaviour])


def delivery(trial: Trial, job: str) -> WebhookDelivery:
    with trial.sessions() as session:
        return session.scalars(select(WebhookDelivery).where(WebhookDelivery.job_id == parse_id("job", job))).one()


def test_every_misbehaviour_is_tried_again_with_the_same_message_or_ends_it(
    trial: Trial, receiver: Misbehaving
) -> None:
    # Long enough that a receiver that answers is never given up on a slow machine.
    changes = {"outbound_ports": (receiver.port,), "webhook_timeout_s": 4, "webhook_schedule_s": (0, 0.5, 0.5)}
    trial.service.start_api(**changes)
    jobs = {}
    for path in ("500", "hang", "302", "410", "reset", "torn", "dies", "ok"):
        jobs[path] = trial.submit(webhook_url=receiver.url(path))
        trial.service.request("POST", f"/v1/jobs/{jobs[path]}/cancel")
    trial.service.start_maintainer(**changes)
    secret = trial.service.request("GET", "/v1/webhook-secret").json()["secret"]
    for path, job in jobs.items():
        eventually(lambda job=job: delivery(trial, job).status != "pending")
        row = delivery(trial, job)
        tries = 1 if path in ("410", "dies", "ok") else 2
        assert (row.status, row.tries) == ("disabled" if path == "410" else "delivered", tries), path
        requests = receiver.got[path]
        assert len(requests) == tries
        assert len({(headers["webhook-id"], body) for headers, body in requests}) == 1, path
        for headers, body in requests:
            assert Webhook(secret).verify(body, headers)["data"]["id"] == job
    trial.judge()


def test_a_maintainer_killed_after_the_receiver_said_yes_sends_the_same_message_again(
    trial: Trial, receiver: Misbehaving
) -> None:
    changes = {"outbound_ports": (receiver.port,), "webhook_schedule_s": (0, 0.5, 0.5)}
    trial.service.start_api(**changes)
    job = trial.submit(webhook_url=receiver.url("hang"))
    trial.service.request("POST", f"/v1/jobs/{job}/cancel")
    killed = trial.service.start_maintainer(**changes)
    eventually(lambda: receiver.got["hang"], every_s=0.02)
    kill(killed)
    with trial.sessions.begin() as session:  # instead of waiting for its claim to run out
        session.execute(update(WebhookDelivery).values(next_try_at=db_now()))
    trial.service.start_maintainer(**changes)
    eventually(lambda: delivery(trial, job).status == "delivered")
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got["hang"]}) == 1
    assert len(receiver.got["hang"]) == 2
    trial.judge()
