"""API keys: what they may do, until when, and how soon a revocation holds."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from photos import plain
from sqlalchemy import select, text
from support import eventually

from api.auth import create_key, ensure_tenant, require_scopes
from shared.database import Sessions
from shared.scopes import Scope
from shared.tables import ApiKey


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def photo() -> tuple[io.BytesIO, str]:
    return io.BytesIO(plain()), "photo.png"


def test_a_new_key_may_read_and_write_jobs_and_no_more_unless_it_is_asked_for(client: Any) -> None:
    made = client.post("/v1/keys", json={"name": "ci"}).json
    assert made["scopes"] == ["jobs:read", "jobs:write"]
    assert client.get("/v1/keys", headers=bearer(made["key"])).status_code == 403
    wide = client.post("/v1/keys", json={"name": "ops", "scopes": ["admin"]}).json
    assert client.get("/v1/keys", headers=bearer(wide["key"])).status_code == 200
    assert client.get("/v1/jobs", headers=bearer(wide["key"])).status_code == 200


def test_a_key_without_the_scope_is_told_which_it_lacks(client: Any) -> None:
    key = client.post("/v1/keys", json={"name": "reader", "scopes": ["jobs:read"]}).json["key"]
    answer = client.post("/v1/jobs", headers=bearer(key), data={"image": photo()})
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")
    assert answer.json["detail"] == "this API key lacks the scope jobs:write; it has jobs:read"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "scopes": "admin"}, "scopes"),
        ({"name": "x", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "x", "expires_in_s": 10**12}, "expires_in_s"),
        ({"name": "x", "expires_in_s": "60"}, "expires_in_s"),
    ],
)
def test_what_a_key_cannot_have_is_named(client: Any, body: dict[str, Any], field: str) -> None:
    answer = client.post("/v1/keys", json=body)
    assert (answer.status_code, answer.json["errors"][0]["field"]) == (422, field)


def test_an_expired_key_is_refused_by_the_databases_clock(client: Any, sessions: Sessions) -> None:
    made = client.post("/v1/keys", json={"name": "short", "expires_in_s": 3600}).json
    assert made["expires_at"] is not None
    assert client.get("/v1/jobs", headers=bearer(made["key"])).status_code == 200
    with sessions.begin() as session:
        session.execute(text("UPDATE api_keys SET expires_at = clock_timestamp() WHERE name = 'short'"))
    answer = client.get("/v1/jobs", headers=bearer(made["key"]))
    assert (answer.status_code, answer.json["detail"]) == (401, "this API key is unknown, expired or revoked")


def test_the_database_holds_no_key_only_its_hash_and_when_it_was_used(client: Any, sessions: Sessions) -> None:
    made = client.post("/v1/keys", json={"name": "k"}).json
    client.get("/v1/jobs", headers=bearer(made["key"]))
    with sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.name == "k")).one()
        everything = session.scalar(text("SELECT string_agg(api_keys::text, '') FROM api_keys"))
    assert len(row.key_sha256) == 32
    assert row.last_used_at is not None
    assert made["key"] not in everything
    assert made["key"][7:] not in everything


def test_a_revoked_key_ends_the_stream_and_the_long_poll_that_it_opened(
    client: Any, make_client: Any, sessions: Sessions
) -> None:
    made = client.post("/v1/keys", json={"name": "k"}).json
    job_id = client.post("/v1/jobs", data={"image": photo(), "model": "double"}).json["id"]
    ended: dict[str, Any] = {}

    def stream() -> None:
        ended["stream"] = make_client().get(f"/v1/jobs/{job_id}/events", headers=bearer(made["key"])).text

    def poll() -> None:
        ended["poll"] = make_client().get(f"/v1/jobs/{job_id}?wait=60", headers=bearer(made["key"])).status_code

    threads = [threading.Thread(target=target) for target in (stream, poll)]
    for thread in threads:
        thread.start()
    eventually(lambda: _last_used(sessions, "k"))
    time.sleep(1)  # both wait by now
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    client.post(f"/v1/jobs/{job_id}/cancel")
    for thread in threads:
        thread.join(20)
    assert ended["poll"] == 401
    assert "canceled" not in ended["stream"]


def _last_used(sessions: Sessions, name: str) -> object:
    with sessions() as session:
        return session.scalar(select(ApiKey.last_used_at).where(ApiKey.name == name))


def test_a_route_that_forgets_its_scope_stops_the_start(make_client: Any) -> None:
    app = make_client().application
    app.add_url_rule("/v1/forgotten", view_func=lambda: "", endpoint="forgotten")
    with pytest.raises(RuntimeError, match="/v1/forgotten needs a scope"):
        require_scopes(app)


def test_the_server_side_command_makes_keys_with_scopes_and_expiry(service: Any, sessions: Sessions) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "api.admin", *arguments],
            env=service.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    key = run("create-api-key", "--tenant", "x", "--scope", "jobs:read", "--expires-in-days", "1")
    run("set-quota", "--tenant", "x", "--queued-jobs-max", "3", "--storage-bytes-max", "1000", "--priority-max", "5")
    with sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.tenant_id == ensure_tenant(session, "x"))).one()
        quotas = session.execute(
            text("SELECT queued_jobs_max, storage_bytes_max, priority_max FROM tenants WHERE name = 'x'")
        ).one()
    assert key.startswith(row.hint[:-1])
    assert row.scopes == [Scope.JOBS_READ]
    assert row.expires_at is not None
    assert tuple(quotas) == (3, 1000, 5)


def test_keys_of_the_version_before_keep_what_they_could_do(client: Any, sessions: Sessions) -> None:
    with sessions.begin() as session:
        row, key = create_key(session, ensure_tenant(session, "default"), "old")
        # As the process of the version before writes it: without the new column.
        session.execute(text("UPDATE api_keys SET scopes = DEFAULT WHERE id = :id"), {"id": row.id})
    assert client.get("/v1/keys", headers=bearer(key)).status_code == 200
