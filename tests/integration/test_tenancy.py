"""I8: no tenant sees or touches another's anything. Every route of the OpenAPI document, by every kind of key.

The cases are made from the document, so a new route is among them; one that takes a body or an id of a new kind fails
here until it is said how to call it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from photos import data_uri, plain
from sqlalchemy import text
from sqlalchemy.orm import Session

from api.auth import create_key, ensure_tenant
from shared.catalogue import find_entry, resolve
from shared.database import Sessions
from shared.experiments.grid import cell_id
from shared.ids import new_id, parse_id, show_id
from shared.objects import ObjectStore
from shared.params import GenerationOptions
from shared.scopes import Scope
from shared.states import DeliveryStatus, JobStatus
from shared.tables import Experiment, ExperimentCell, Input, Job, WebhookDelivery, Worker

PIXEL_ROWS = 40
ABSENT = UUID("01920000-0000-7000-8000-000000000000")


@dataclass(frozen=True)
class Things:
    """One of each that has an id, of one tenant."""

    job_id: str
    experiment_id: str
    cell_id: str
    input_id: str
    delivery_id: str
    key_id: str
    name: str = "tiny"
    number: str = "0"

    def ids(self) -> set[str]:
        return {self.job_id, self.experiment_id, self.cell_id, self.input_id, self.delivery_id, self.key_id}


ABSENT_THINGS = Things(
    *(show_id(prefix, ABSENT) for prefix in ("job", "exp", "cell", "inp", "evt", "key")), name="no-model"
)


def make_things(session: Session, tenant_id: UUID) -> Things:
    image = Input(
        id=new_id(),
        tenant_id=tenant_id,
        object_key="inputs/x.png",
        sha256="0" * 64,
        size_bytes=1,
        width=64,
        height=64,
        media_type="image/png",
    )
    session.add(image)
    session.flush()
    file = {"key": "jobs/x/video.mp4", "size_bytes": 1, "sha256": "0" * 64, "media_type": "video/mp4"}
    job = Job(
        id=new_id(),
        tenant_id=tenant_id,
        status=JobStatus.SUCCEEDED,
        model="tiny",
        params=resolve(GenerationOptions(seed=1), find_entry("tiny")).model_dump(mode="json"),
        input_id=image.id,
        webhook_url="https://example.com/",
        result={"video": file, "manifest": file, "frames": [file], "num_frames": 1, "width": 64, "height": 64}
        | {"duration_s": 1.0},
    )
    session.add(job)
    session.flush()
    delivery = WebhookDelivery(
        id=new_id(),
        tenant_id=tenant_id,
        job_id=job.id,
        event_type="job.succeeded",
        url="https://example.com/",
        host="example.com",
        body=b"{}",
        status=DeliveryStatus.DELIVERED,
    )
    session.add(delivery)
    experiment = Experiment(
        id=new_id(),
        tenant_id=tenant_id,
        name="thing",
        model="tiny",
        images=[{"name": "image_0", "input_id": show_id("inp", image.id)}],
        grid={"fps": [7]},
        base={"seed": 1},
        finished_at=datetime.now(UTC),
    )
    session.add(experiment)
    session.flush()
    cell = ExperimentCell(id=cell_id(experiment.id, 0), experiment_id=experiment.id, index=0, job_id=job.id)
    session.add(cell)
    key, _ = create_key(session, tenant_id, "thing")
    return Things(
        job_id=show_id("job", job.id),
        experiment_id=show_id("exp", experiment.id),
        cell_id=show_id("cell", cell.id),
        input_id=show_id("inp", image.id),
        delivery_id=show_id("evt", delivery.id),
        key_id=show_id("key", key.id),
    )


def needed(method: str, path: str) -> Scope:
    """The rule, said independently of the routes."""
    if path.startswith(("/v1/keys", "/v1/webhook-secret")):
        return Scope.ADMIN
    return Scope.JOBS_READ if method == "get" else Scope.JOBS_WRITE


def body_for(method: str, path: str, things: Things, image: str) -> dict[str, Any]:
    bodies = {
        ("post", "/v1/jobs"): {"input_id": things.input_id, "model": "tiny"},
        ("post", "/v1/inputs"): {"image_url": image},
        ("post", "/v1/experiments"): {"name": "x", "images": [{"input_id": things.input_id}], "grid": {"fps": [7]}},
        ("post", "/v1/keys"): {"name": "made"},
        ("post", "/v1/models/{name}/resolve"): {"seed": 1},
    }
    return bodies[method, path]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation.get("security") != []:
                yield method, path, operation


@pytest.fixture
def image(store: ObjectStore) -> str:
    return data_uri(plain(size=(PIXEL_ROWS, PIXEL_ROWS)))


class Caller:
    """Sends an operation of the document as one tenant with one key."""

    def __init__(self, client: Any, key: str | None) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}" if key else ""}

    def send(self, method: str, path: str, operation: dict[str, Any], things: Things, image: str) -> Any:
        url = re.sub(r"\{(\w+)\}", lambda name: getattr(things, name[1]), path)
        options = {"json": body_for(method, path, things, image)} if "requestBody" in operation else {}
        return self._client.open(url, method=method.upper(), headers=self._headers, **options)


def told(answer: Any, things: Things) -> tuple[int, str]:
    """What an answer tells, besides the ids that were asked for."""
    body = answer.get_data(as_text=True)
    for value in sorted(things.ids() | {things.name}, key=len, reverse=True):
        body = body.replace(value, "ID")
    return answer.status_code, body


def test_every_route_by_every_scope_on_own_others_and_absent_ids(
    client: Any, sessions: Sessions, image: str, record_property: Any
) -> None:
    document = client.get("/openapi.json").json
    with sessions.begin() as session:
        ours, theirs = ensure_tenant(session, "ours"), ensure_tenant(session, "theirs")
        keys = {scope: create_key(session, ours, scope, scopes=[scope])[1] for scope in Scope}
        others = make_things(session, theirs)
    callers = {scope: Caller(client, key) for scope, key in keys.items()}
    failures: list[str] = []
    checked = 0
    for (method, path, operation), (scope, caller) in product(list(operations(document)), callers.items()):
        with sessions.begin() as session:
            own = make_things(session, ours)
        answers = {
            name: (things, caller.send(method, path, operation, things, image))
            # What is absent and another's first: the own may be deleted by it.
            for name, things in (("absent", ABSENT_THINGS), ("other", others), ("own", own))
        }
        checked += len(answers)
        may = scope in (needed(method, path), Scope.ADMIN)
        seen = {name: told(answer, things) for name, (things, answer) in answers.items()}
        takes_id = "{" in path or (method, path) in (("post", "/v1/jobs"), ("post", "/v1/experiments"))
        problems = []
        if not may and ({status for status, _ in seen.values()} != {403} or len(set(seen.values())) != 1):
            problems.append("must be the same 403 for all")
        if may and (seen["own"][0] in (401, 403, 404) or seen["own"][0] >= 500):
            problems.append("must be served")
        if may and takes_id and "{name}" not in path and (seen["other"][0] != 404 or seen["other"] != seen["absent"]):
            problems.append("another's must be the 404 of what is absent")
        if any(thing in answer.get_data(as_text=True) for thing in others.ids() for _, answer in (answers["own"],)):
            problems.append("shows another's id")
        failures += [f"{method} {path} with {scope}: {problem}, got {seen}" for problem in problems]
    assert not failures, "\n".join(failures)
    # What the others have is as it was.
    with sessions() as session:
        row = session.execute(
            text(
                "SELECT (SELECT count(*) FROM jobs WHERE tenant_id = :t AND delete_requested_at IS NULL),"
                " (SELECT count(*) FROM api_keys WHERE tenant_id = :t AND revoked_at IS NULL),"
                " (SELECT count(*) FROM webhook_deliveries WHERE tenant_id = :t AND status = 'delivered'),"
                " (SELECT count(*) FROM experiments WHERE tenant_id = :t AND finished_at IS NOT NULL)"
            ),
            {"t": theirs},
        ).one()
    assert tuple(row) == (1, 1, 1, 1)
    record_property("checked", checked)
    print(f"\n{len(list(operations(document)))} routes × {len(keys)} scopes × 3 ids = {checked} answers checked")


#: not in the document: they show nothing of a tenant but, on a page, the name of the key that is signed in.
UNDOCUMENTED = {
    *("/", "/jobs", "/jobs/<string:job_id>", "/sign-in", "/session"),
    *("/experiments", "/experiments/<string:experiment_id>"),
    *("/docs", "/docs/swagger/<path:name>", "/openapi.json", "/static/<string:name>"),
    "/files/<path:key>",  # of whoever holds a URL that was signed
}


def test_every_route_is_in_the_document_or_known_to_show_nothing_of_a_tenant(client: Any) -> None:
    documented = set(client.get("/openapi.json").json["paths"])
    rules = {rule.rule for rule in client.application.url_map.iter_rules()}
    assert {rule for rule in rules if re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule) not in documented} == UNDOCUMENTED


def test_every_route_but_the_open_ones_needs_a_key(client: Any, image: str) -> None:
    document = client.get("/openapi.json").json
    for method, path, operation in operations(document):
        for key in (None, "ak_" + "x" * 43):
            answer = Caller(client, key).send(method, path, operation, ABSENT_THINGS, image)
            assert (answer.status_code, answer.json["code"]) == (401, "unauthorized"), f"{method} {path}"
    open_paths = {
        path for path, item in document["paths"].items() if any(o.get("security") == [] for o in item.values())
    }
    assert open_paths == {"/healthz", "/readyz", "/metrics"}


def test_the_document_names_the_scope_of_every_route(client: Any) -> None:
    for method, path, operation in operations(client.get("/openapi.json").json):
        assert operation["security"] == [{"api_key": [needed(method, path)]}], f"{method} {path}"


def test_a_cursor_of_another_tenant_is_no_cursor(client: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        others = make_things(session, ensure_tenant(session, "theirs"))
        own = make_things(session, ensure_tenant(session, "default"))
    lists = [
        (path, operation)
        for method, path, operation in operations(client.get("/openapi.json").json)
        if any(parameter["name"] == "after" for parameter in operation.get("parameters", ()))
    ]
    assert {path for path, _ in lists} == {
        *("/v1/jobs", "/v1/keys", "/v1/jobs/{job_id}/deliveries", "/v1/experiments"),
        *("/v1/experiments/{experiment_id}/cells", "/v1/experiments/{experiment_id}/deliveries"),
    }
    for path, _ in lists:
        for kind in ("job_id", "key_id", "delivery_id", "experiment_id", "cell_id"):
            answers = [
                client.get(path.format(**vars(own)), query_string={"after": getattr(things, kind)})
                for things in (others, ABSENT_THINGS)
            ]
            bodies = [told(answer, things) for answer, things in zip(answers, (others, ABSENT_THINGS), strict=True)]
            assert bodies[0] == bodies[1]
            assert bodies[0][0] == 404


def test_workers_are_everybodys_but_of_anothers_job_only_that_there_is_one(client: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        own = make_things(session, ensure_tenant(session, "default"))
        other = make_things(session, ensure_tenant(session, "theirs"))
        for things in (own, other):
            job_id = parse_id("job", things.job_id)
            session.add(Worker(id=new_id(), hostname="secret-host", pid=7, model="tiny", ready=True, job_id=job_id))
    answer = client.get("/v1/workers")
    assert [worker["status"] for worker in answer.json["data"]] == ["busy", "busy"]
    assert {worker["job_id"] for worker in answer.json["data"]} == {own.job_id, None}
    assert "secret-host" not in answer.text
