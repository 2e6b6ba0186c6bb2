"""The audit: what became of every promise, by the callers' ledger, the database, the receiver and the logs."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from bench.soak.clients import Ledger
from bench.soak.ghost import Ghost
from bench.soak.promises import broken_promises
from shared.database import Sessions
from shared.ids import show_id
from shared.jobs.resource import job_prefix
from shared.objects import ObjectMissingError, ObjectStore
from shared.states import TERMINAL_STATUSES

#: what a worker's log says when it has found its attempt stale, by its own clock or at the fence.
_STALE_LINES = (b"is no longer ours", b"lost while its end was being written")


@dataclass
class Findings:
    """The table, and what is wrong."""

    table: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def expect_none(self, name: str, found: Iterable[Any]) -> None:
        """A line of the table that must count nothing."""
        items = [str(item) for item in found]
        self.table[name] = len(items)
        if items:
            self.problems.append(f"{name}: {', '.join(items[:5])}{' …' if len(items) > 5 else ''}")


def count_open(sessions: Sessions) -> tuple[int, int]:
    """Jobs that are not terminal, and deliveries that are pending."""
    with sessions() as session:
        row = session.execute(
            text("""
            SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')),
                   (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending')""")
        ).one()
        return row[0], row[1]


def audit(session: Session, store: ObjectStore, ledger: Ledger, bodies: dict[str, set[str]]) -> Findings:
    """Compare what was promised with what came of it.

    Args:
        bodies: what the webhook receiver got, by `webhook-id`.
    """
    findings = Findings()
    _audit_jobs(session, ledger, findings)
    _audit_results(session, store, findings)
    _audit_deliveries(session, ledger, bodies, findings)
    for promise, jobs in broken_promises(lambda statement: session.execute(text(statement))).items():
        findings.problems.append(f"{promise}: {len(jobs)} jobs, such as {jobs[0]}")
    findings.table |= _delays(session)
    return findings


def audit_stale(session: Session, ghost: Ghost, logs: Iterable[bytes], findings: Findings) -> None:
    """Add what became of attempts that were no longer the ones that count.

    Args:
        logs: of the workers.
    """
    lost = session.execute(text("SELECT job_id, attempt FROM attempts WHERE outcome = 'lost'")).all()
    findings.table |= {
        "attempts found stale by their own worker": sum(log.count(line) for log in logs for line in _STALE_LINES),
        "stale finishes rejected": len(ghost.rejected),
        "… of lost attempts": len(ghost.rejected & {(row.job_id, row.attempt) for row in lost}),
    }
    findings.expect_none("stale finishes let pass", ghost.let_pass)


def _audit_jobs(session: Session, ledger: Ledger, findings: Findings) -> None:
    status = {show_id("job", row[0]): row[1] for row in session.execute(text("SELECT id, status FROM jobs"))}
    ends = Counter(
        show_id("job", row[0])
        for row in session.execute(text("SELECT job_id, status FROM job_events"))
        if row[1] in TERMINAL_STATUSES
    )
    accepted = ledger.job_ids()
    findings.table |= {
        "accepted": len(accepted),
        "terminal": sum(status.get(job_id) in TERMINAL_STATUSES for job_id in accepted),
        "jobs by status": dict(sorted(Counter(status.values()).items())),
    }
    findings.expect_none("lost", sorted(accepted - status.keys()))
    findings.expect_none("left", sorted(job_id for job_id in accepted if status.get(job_id) not in TERMINAL_STATUSES))
    findings.expect_none("doubled", sorted(job_id for job_id, count in ends.items() if count > 1))
    findings.expect_none(
        "keys with two jobs", sorted(key for key, job_ids in ledger.accepted.items() if len(job_ids) > 1)
    )
    findings.expect_none("jobs that nobody was promised", sorted(status.keys() - accepted))
    findings.expect_none("answers that no fault explains", ledger.refusals)
    attempts = session.execute(text("SELECT attempt, count(*) FROM jobs GROUP BY attempt ORDER BY attempt")).all()
    outcomes = session.execute(text("SELECT outcome, count(*) FROM attempts GROUP BY outcome ORDER BY outcome")).all()
    errors = session.execute(
        text("SELECT error_code, count(*) FROM jobs WHERE error_code IS NOT NULL GROUP BY 1 ORDER BY 1")
    ).all()
    findings.table |= {
        "jobs by number of attempts": {str(row[0]): row[1] for row in attempts},
        "attempts by outcome": {str(row[0]): row[1] for row in outcomes},
        "failed jobs by error": {row[0]: row[1] for row in errors},
    }


def _audit_results(session: Session, store: ObjectStore, findings: Findings) -> None:
    """I4: what a succeeded job names lies in its winning attempt's folder, and is what it was."""
    wrong = []
    for row in session.execute(text("SELECT id, attempt, result FROM jobs WHERE status = 'succeeded'")):
        folder = f"{job_prefix(row.id)}attempts/{row.attempt}/"
        for file in (row.result["video"], row.result["manifest"], *row.result["frames"]):
            try:
                data = store.get(file["key"])
            except ObjectMissingError:
                data = b""
            if not file["key"].startswith(folder) or hashlib.sha256(data).hexdigest() != file["sha256"]:
                wrong.append(file["key"])
    findings.expect_none("files of results that are missing or changed", wrong)


def _audit_deliveries(session: Session, ledger: Ledger, bodies: dict[str, set[str]], findings: Findings) -> None:
    rows = session.execute(text("SELECT id, job_id, status FROM webhook_deliveries")).all()
    counts = Counter(show_id("job", row.job_id) for row in rows)
    findings.table |= {
        "jobs with a webhook": len(ledger.with_webhook),
        "deliveries": len(rows),
        "deliveries by status": dict(sorted(Counter(row.status for row in rows).items())),
    }
    asked = ledger.with_webhook
    findings.expect_none(
        "jobs with a wrong number of deliveries",
        sorted(job_id for job_id in asked | counts.keys() if counts[job_id] != (job_id in asked)),
    )
    findings.expect_none("deliveries left", [row.id for row in rows if row.status == "pending"])
    findings.expect_none(
        "delivered, but never received",
        [row.id for row in rows if row.status == "delivered" and show_id("evt", row.id) not in bodies],
    )
    findings.expect_none("bodies that changed over retries", [name for name, seen in bodies.items() if len(seen) > 1])


def _delays(session: Session) -> dict[str, float]:
    """How long jobs stood still without need.

    Running: how much longer than the median successful attempt the longest one took to be over, whatever became of it:
    a lost one is over when the reaper has found it. Queued: the longest time without any claim while a job that could
    be claimed was waiting; workers that are busy, dead or starting are in it.
    """
    rows = session.execute(
        text("""
        SELECT extract(epoch FROM ended_at - started_at), outcome FROM attempts WHERE ended_at IS NOT NULL""")
    ).all()
    succeeded = [float(row[0]) for row in rows if row[1] == "succeeded"]
    need = statistics.median(succeeded) if succeeded else 0.0
    waiting: set[Any] = set()
    since: datetime | None = None
    stood_still = 0.0
    for job_id, status, at in session.execute(text("SELECT job_id, status, at FROM job_events ORDER BY at, id")):
        if since is not None and status == "running":
            stood_still = max(stood_still, (at - since).total_seconds())
            since = at
        if status == "queued":
            since = since if waiting else at
            waiting.add(job_id)
        else:
            waiting.discard(job_id)
            since = since if waiting else None
    return {
        "longest attempt beyond the median's need, s": round(max((float(row[0]) for row in rows), default=0) - need, 1),
        "longest stand-still of a queue with jobs, s": round(stood_still, 1),
    }
