"""The soak in its small form, and that its audit would see what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import delete, update

from bench.soak.audit import Findings, audit
from bench.soak.clients import Ledger
from shared.database import Sessions
from shared.ids import new_id, show_id
from shared.jobs.claim import Claim
from shared.jobs.events import record_event
from shared.jobs.stop import cancel_job
from shared.objects import ObjectStore
from shared.states import JobStatus
from shared.tables import Job, WebhookDelivery

ROOT = Path(__file__).parent.parent.parent


def test_every_accepted_job_ends_exactly_once_while_everything_is_killed(tmp_path: Path) -> None:
    result = tmp_path / "soak.json"
    command = ["-m", "bench.soak", "--jobs", "60", "--workers", "2", "--seconds", "18", "--every", "2", "--seed", "7"]
    done = subprocess.run(
        [sys.executable, *command, "--result", str(result)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads(result.read_text())["table"]
    assert (table["accepted"], table["terminal"], table["lost"], table["doubled"], table["left"]) == (60, 60, 0, 0, 0)
    assert sum(table["strokes"].values()) >= 5
    assert table["stale finishes rejected"] > 0


def test_the_audit_sees_jobs_that_are_lost_left_doubled_or_without_their_delivery(
    sessions: Sessions, store: ObjectStore, submit: Callable[..., UUID], claim: Callable[..., Claim | None]
) -> None:
    ended, left, lost = submit(webhook_url="https://example.org/hook"), submit(), new_id()
    ledger = Ledger(accepted={str(job): {show_id("job", job)} for job in (ended, left, lost)})
    ledger.with_webhook = {show_id("job", ended)}
    with sessions.begin() as session:
        cancel_job(session, Job.id == ended, public_url="http://animatic.test")
        session.execute(update(WebhookDelivery).values(status="exhausted"))
    assert problems(sessions, store, ledger) == {"lost", "left"}

    claim()
    with sessions.begin() as session:
        record_event(session, ended, JobStatus.CANCELED, attempt=0, reason="again")
        session.execute(delete(WebhookDelivery))
        session.execute(update(Job).where(Job.id == left).values(attempt=2))
    assert problems(sessions, store, ledger) == {
        "lost",
        "left",
        "doubled",
        "jobs with a wrong number of deliveries",
        "I2",
        "I5",
        "one attempt and one event for each claim",
        "the one open attempt is a running job's last",
    }


def problems(sessions: Sessions, store: ObjectStore, ledger: Ledger) -> set[str]:
    with sessions() as session:
        findings: Findings = audit(session, store, ledger, bodies={})
    return {problem.partition(":")[0] for problem in findings.problems}
