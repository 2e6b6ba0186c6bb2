"""The maintainer: webhooks that arrive, doorbells that are rung again, a reaper that is patient after an outage."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import select, update
from standardwebhooks import Webhook, WebhookVerificationError
from support import eventually, webhook_receiver

from api.auth import ensure_tenant
from shared.database import Sessions, db_now
from shared.doorbell import Doorbell
from shared.errors import QueueError
from shared.ids import parse_id
from shared.outbound import OutboundGuard
from shared.settings import Settings
from shared.tables import Job, Tenant, WebhookDelivery
from worker.maintenance.deliver import Deliverer
from worker.maintenance.erase import erase_deleted_jobs, forget_old_rows
from worker.maintenance.reaper import Reaper
from worker.maintenance.sweep import ring_for_deficit


@pytest.fixture
def doorbell(settings: Settings) -> Iterator[Doorbell]:
    doorbell = Doorbell(settings)
    yield doorbell
    doorbell.close()


@pytest.fixture
def deliver(sessions: Sessions, settings: Settings) -> Iterator[Callable[[str], int]]:
    """One round, with this URL's port open."""
    deliverers: list[Deliverer] = []

    def deliver(url: str, **changes: Any) -> int:
        host = url.split("/")[2]
        guard = OutboundGuard(allow=(host,), ports=settings.outbound_ports)
        deliverers.append(Deliverer(sessions, settings.model_copy(update={"webhook_timeout_s": 2, **changes}), guard))
        return len(wait(deliverers[-1].deliver_due()).done)

    yield deliver
    for deliverer in deliverers:
        deliverer.close()


@pytest.fixture
def end_job_with_webhook(make_client: Any, rocket: bytes) -> Callable[[str], str]:
    """A canceled job whose webhook is due."""

    def end(url: str) -> str:
        client = make_client(outbound_allow=(url.split("/")[2],))
        job = client.post(
            "/v1/jobs",
            data={"model": "double", "webhook_url": url, "image": (io.BytesIO(rocket), "a.jpg")},
        ).json
        assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
        return str(job["id"])

    return end


def delivery(sessions: Sessions) -> WebhookDelivery:
    with sessions() as session:
        return session.scalars(select(WebhookDelivery)).one()


def make_due(sessions: Sessions) -> None:
    with sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(next_try_at=db_now()))


def test_a_webhook_is_delivered_signed_and_recorded(client, sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver() as receiver:
        job_id = end_job_with_webhook(receiver.url)
        assert deliver(receiver.url) == 1
        assert deliver(receiver.url) == 0
    headers, body = receiver.requests[0]
    secret = client.get("/v1/webhook-secret").json["secret"]
    assert Webhook(secret).verify(body, headers)["data"]["id"] == job_id
    (shown,) = client.get(f"/v1/jobs/{job_id}/deliveries").json["data"]
    assert (shown["status"], shown["tries"], shown["last_status_code"]) == ("delivered", 1, 200)
    assert shown["id"] == headers["webhook-id"]


def test_a_failing_receiver_is_tried_again_with_the_same_id_and_body(sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver(500, 302, 404) as receiver:
        end_job_with_webhook(receiver.url)
        for number in range(1, 5):
            assert deliver(receiver.url) == 1
            row = delivery(sessions)
            assert row.tries == number
            assert row.status == ("delivered" if number == 4 else "pending")
            assert deliver(receiver.url) == 0  # not before its pause is over
            make_due(sessions)
    assert len({body for _, body in receiver.requests}) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


def test_a_dead_receiver_ends_as_exhausted_and_can_be_replayed(client, sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver(*[500] * 3) as receiver:
        job_id = end_job_with_webhook(receiver.url)
        for _ in range(3):
            deliver(receiver.url, webhook_schedule_s=(0, 0.01, 0.01))
            make_due(sessions)
        (shown,) = client.get(f"/v1/jobs/{job_id}/deliveries").json["data"]
        assert (shown["status"], shown["last_error"]) == ("exhausted", "the receiver answered 500")
        again = client.post(f"/v1/deliveries/{shown['id']}/redeliver")
        assert (again.status_code, again.json["status"], again.json["tries"]) == (202, "pending", 0)
        assert client.post(f"/v1/deliveries/{shown['id']}/redeliver").status_code == 409
        deliver(receiver.url)
    assert delivery(sessions).status == "delivered"
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


def test_while_a_secret_is_rotated_both_sign(client, sessions, deliver, end_job_with_webhook) -> None:
    before = client.get("/v1/webhook-secret").json
    assert before["previous_secret_until"] is None
    after = client.post("/v1/webhook-secret/rotate").json
    assert after["secret"] != before["secret"]
    assert after["previous_secret_until"] is not None
    with webhook_receiver() as receiver:
        end_job_with_webhook(receiver.url)
        deliver(receiver.url)
        headers, body = receiver.requests[0]
        assert len(headers["webhook-signature"].split()) == 2
        for secret in (before["secret"], after["secret"]):
            assert Webhook(secret).verify(body, headers)
        with sessions.begin() as session:
            session.execute(update(Tenant).values(previous_webhook_secret_until=db_now()))
            session.execute(update(WebhookDelivery).values(status="pending", next_try_at=db_now()))
        deliver(receiver.url)
    headers, body = receiver.requests[1]
    with pytest.raises(WebhookVerificationError):
        Webhook(before["secret"]).verify(body, headers)
    assert Webhook(after["secret"]).verify(body, headers)


def test_retry_after_is_honoured(sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver(503, retry_after_s=3600) as receiver:
        end_job_with_webhook(receiver.url)
        deliver(receiver.url)
        with sessions() as session:
            pause = session.scalar(select(WebhookDelivery.next_try_at - db_now()))
        assert timedelta(minutes=59) < pause <= timedelta(hours=1)


def test_a_slow_receiver_does_not_delay_another(sessions, settings, end_job_with_webhook) -> None:
    with webhook_receiver(delay_s=3) as slow, webhook_receiver() as quick:
        for _ in range(10):
            end_job_with_webhook(slow.url)
        end_job_with_webhook(quick.url)
        hosts = [receiver.url.split("/")[2] for receiver in (slow, quick)]
        deliverer = Deliverer(sessions, settings, OutboundGuard(allow=hosts, ports=settings.outbound_ports))
        started = time.monotonic()
        running = deliverer.deliver_due()
        running += deliverer.deliver_due()
        eventually(lambda: quick.requests, within_s=2)
        assert time.monotonic() - started < 2
        assert len(running) == 5  # four to the slow one at once, and the quick one
        deliverer.close()


def test_a_tenant_with_many_slow_receivers_does_not_delay_another(sessions, settings, submit, tenant) -> None:
    def never(*_: object, **__: object) -> list[Any]:
        time.sleep(1)
        return []

    with sessions.begin() as session:
        other = ensure_tenant(session, "other")
    for number, owner in enumerate([tenant] * 30 + [other]):
        host = f"h{number}.example.com"
        webhook = {"event_type": "job.succeeded", "url": f"http://{host}/", "host": host, "body": b"{}"}
        with sessions.begin() as session:
            session.add(WebhookDelivery(tenant_id=owner, job_id=submit(owner=owner), **webhook))
    deliverer = Deliverer(sessions, settings, OutboundGuard(allow=(), ports=(80,), resolve=never))
    assert len(deliverer.deliver_due()) == 25
    with sessions() as session:
        tried = select(WebhookDelivery.tries).where(WebhookDelivery.tenant_id == other)
        assert session.scalars(tried).one() == 1
    deliverer.close()


def test_410_disables_a_delivery(sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver(410) as receiver:
        end_job_with_webhook(receiver.url)
        deliver(receiver.url)
    assert delivery(sessions).status == "disabled"


def test_an_address_that_is_no_longer_allowed_is_not_called(sessions, deliver, end_job_with_webhook) -> None:
    with webhook_receiver() as receiver:
        end_job_with_webhook(receiver.url)
        assert deliver("http://somewhere.else:80/") == 1
    assert receiver.requests == []
    assert delivery(sessions).status == "disabled"


def test_the_sweep_rings_for_just_the_jobs_that_no_message_stands_for(
    client, rocket, sessions, doorbell, redis_url
) -> None:
    for _ in range(3):
        client.post("/v1/jobs", data={"model": "double", "image": (io.BytesIO(rocket), "a.jpg")})
    with redis.Redis.from_url(redis_url) as queue:
        assert ring_for_deficit(sessions, doorbell) == 0
        queue.flushall()
        assert ring_for_deficit(sessions, doorbell) == 3
        assert queue.llen("animatic:generate.double") == 3
        message = json.loads(queue.lindex("animatic:generate.double", 0))
    assert message["headers"]["task"] == "animatic.generate"


def test_an_outage_of_redis_costs_one_ring_its_time_out_and_the_next_nothing() -> None:
    clock = [0.0]
    down = Doorbell(Settings(redis_url="redis://127.0.0.1:1/0"), clock=lambda: clock[0])
    assert not down.ring("q", "job")
    with pytest.raises(QueueError):
        down.count_waiting("q")
    down.close()


def test_a_frozen_redis_costs_no_caller_more_than_a_moment() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as frozen:  # accepts, and never answers
        bell = Doorbell(Settings(redis_url=f"redis://127.0.0.1:{frozen.getsockname()[1]}/0"))

        def ring(_: int) -> tuple[bool, float]:
            started = time.monotonic()
            return bell.ring("q", "job"), time.monotonic() - started

        with ThreadPoolExecutor(32) as pool:
            rings = list(pool.map(ring, range(32)))
        assert not any(rung for rung, _ in rings)
        assert max(seconds for _, seconds in rings) < 4
        started = time.monotonic()
        assert not any(bell.ring("q", "job") for _ in range(100))
        assert time.monotonic() - started < 0.5
        bell.close()


def test_after_an_outage_of_postgres_the_reaper_waits_a_whole_lease(client, rocket, sessions, settings) -> None:
    job = client.post("/v1/jobs", data={"model": "double", "image": (io.BytesIO(rocket), "a.jpg")}).json
    job_id = parse_id("job", job["id"])
    with sessions.begin() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(
                status="running", attempt=1, lease_token=UUID(int=1), lease_expires_at=db_now(), worker_id=UUID(int=2)
            )
        )
    # A lease so short that the Postgres of these tests does not count as just restarted.
    settings = settings.model_copy(update={"lease_s": 0.01, "heartbeat_s": 0.001})
    clock = [1000.0]
    reaper = Reaper(sessions, settings, clock=lambda: clock[0])
    with sessions.begin() as session:
        session.execute(update(Job).values(lease_expires_at=db_now() + timedelta(hours=1)))
    assert reaper.reap() == 0
    with sessions.begin() as session:
        session.execute(update(Job).values(lease_expires_at=db_now() - timedelta(hours=1)))
    clock[0] += 60  # out of touch for a minute
    assert reaper.reap() == 0
    clock[0] += 0.005
    assert reaper.reap() == 0
    clock[0] += 0.01
    assert reaper.reap() == 1


def test_after_a_restart_of_postgres_a_fresh_reaper_waits_a_whole_lease(client, rocket, sessions, settings) -> None:
    client.post("/v1/jobs", data={"model": "double", "image": (io.BytesIO(rocket), "a.jpg")})
    with sessions.begin() as session:
        session.execute(
            update(Job).values(
                status="running", attempt=1, lease_token=UUID(int=1), lease_expires_at=db_now(), worker_id=UUID(int=2)
            )
        )
    # To a lease of an hour, the Postgres of these tests has just started.
    assert Reaper(sessions, settings.model_copy(update={"lease_s": 3600.0})).reap() == 0
    assert Reaper(sessions, settings.model_copy(update={"lease_s": 0.01})).reap() == 1


def test_erasing_takes_objects_content_and_pending_webhook_of_a_deleted_job(
    client, sessions, store, settings, end_job_with_webhook
) -> None:
    job_id = end_job_with_webhook("http://127.0.0.1:9/hook")
    assert list(store.list_keys("inputs/"))
    with sessions.begin() as session:
        session.execute(update(Job).values(measures={"flow_px": 1.0}))
    assert client.get(f"/v1/jobs/{job_id}").json["measures"]["flow_px"] == 1
    client.delete(f"/v1/jobs/{job_id}")
    assert erase_deleted_jobs(sessions, store) == 1
    assert erase_deleted_jobs(sessions, store) == 0
    assert list(store.list_keys("")) == []
    row = delivery(sessions)
    assert (row.status, row.body) == ("disabled", b"")
    with sessions() as session:
        erased = session.get_one(Job, parse_id("job", job_id))
        assert (erased.params, erased.result, erased.measures) == ({}, None, None)
    forget_old_rows(sessions, settings)


def test_an_image_stays_while_another_job_uses_it(client, rocket, sessions, store) -> None:
    uploaded = client.post("/v1/inputs", data={"image": (io.BytesIO(rocket), "a.jpg")}).json
    jobs = [client.post("/v1/jobs", json={"model": "double", "input_id": uploaded["id"]}).json for _ in range(2)]
    for job, left in zip(jobs, (1, 0), strict=True):
        client.delete(f"/v1/jobs/{job['id']}")
        erase_deleted_jobs(sessions, store)
        assert len(list(store.list_keys("inputs/"))) == left
    assert client.get(f"/v1/inputs/{uploaded['id']}").status_code == 404
