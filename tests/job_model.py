"""A reference model of the job's life: plain Python, no database, nothing of the code that it judges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

TERMINAL = ("succeeded", "failed", "canceled")


@dataclass
class ModelJob:
    id: UUID
    tenant: UUID
    input_id: UUID | None
    priority: int
    rank: int
    webhook: bool
    status: str = "queued"
    attempt: int = 0
    losses: int = 0
    failures: int = 0
    #: who runs it, as of the last claim; None in the queue.
    worker: UUID | None = None
    cancel: bool = False
    deleted: bool = False
    erased: bool = False
    held: bool = False
    #: `run_after` lies ahead.
    waiting: bool = False
    #: its parameters are of another version.
    odd: bool = False
    #: the lease has run out, the attempt's deadline has passed.
    expired: bool = False
    overdue: bool = False
    events: list[tuple[str, int, str]] = field(default_factory=list)
    attempts: dict[int, str | None] = field(default_factory=dict)
    delivery: str | None = None

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


@dataclass
class Model:
    """All jobs. Each method is one transaction of somebody's, and returns what that somebody must learn."""

    max_losses: int
    max_failures: int
    jobs: dict[UUID, ModelJob] = field(default_factory=dict)
    #: whether the image is erased.
    inputs: dict[UUID, bool] = field(default_factory=dict)
    keys: dict[tuple[UUID, str], tuple[bytes, UUID]] = field(default_factory=dict)
    #: the job that a worker took last, while it has it.
    workers: dict[UUID, UUID | None] = field(default_factory=dict)
    #: every attempt that was begun, in order: worker, job, number.
    begun: list[tuple[UUID, UUID, int]] = field(default_factory=list)
    draining: set[UUID] = field(default_factory=set)

    def accept(
        self,
        made: UUID | None,
        *,
        tenant: UUID,
        input_id: UUID,
        priority: int,
        webhook: bool,
        idempotency: tuple[str, bytes] | None,
        queued_jobs_max: int,
    ) -> str | UUID:
        """
        Args:
            made: the id that the service gave, if it made a job.

        Returns:
            The job's id, or the code of the error.
        """
        if idempotency is not None and (tenant, idempotency[0]) in self.keys:
            fingerprint, known = self.keys[tenant, idempotency[0]]
            return "invalid_input" if fingerprint != idempotency[1] or self.jobs[known].deleted else known
        if sum(job.tenant == tenant and job.status == "queued" for job in self.jobs.values()) >= queued_jobs_max:
            return "rate_limited"
        if self.inputs.get(input_id, False):
            return "not_found"
        assert made is not None, "the service made no job"
        peers = [job for job in self.jobs.values() if job.priority == priority]
        served = max((job.rank for job in peers if job.attempt > 0), default=0)
        tail = max((job.rank for job in peers if job.tenant == tenant and job.status == "queued"), default=0)
        job = ModelJob(made, tenant, input_id, priority, max(served, tail) + 1, webhook)
        job.events.append(("queued", 0, "accepted"))
        self.jobs[made] = job
        self.inputs[input_id] = False
        if idempotency is not None:
            self.keys[tenant, idempotency[0]] = (idempotency[1], made)
        return made

    def claim(self, worker: UUID) -> tuple[UUID, int] | None:
        """The job and its attempt."""
        while worker not in self.draining:
            free = [job for job in self.jobs.values() if job.status == "queued" and not job.held and not job.waiting]
            if not free:
                return None
            job = min(free, key=lambda job: (-job.priority, job.rank, job.id.int))
            job.status, job.attempt, job.worker = "running", job.attempt + 1, worker
            job.expired = job.overdue = False
            job.events.append(("running", job.attempt, "claimed"))
            job.attempts[job.attempt] = None
            self.workers[worker] = job.id
            self.begun.append((worker, job.id, job.attempt))
            if not job.odd:
                return job.id, job.attempt
            self._end(job, "failed", "invalid_params")
        return None

    def holds(self, job_id: UUID, attempt: int) -> bool:
        job = self.jobs[job_id]
        return job.status == "running" and job.attempt == attempt

    def beat(self, job_id: UUID, attempt: int) -> tuple[bool, bool] | None:
        """The flags: cancel, release."""
        if not self.holds(job_id, attempt):
            return None
        job = self.jobs[job_id]
        job.expired = False
        return job.cancel, job.worker in self.draining

    def finish(self, job_id: UUID, attempt: int, status: str, reason: str) -> bool:
        held = self.holds(job_id, attempt)
        if held:
            self._end(self.jobs[job_id], status, reason)
        return held

    def retry(self, job_id: UUID, attempt: int, reason: str) -> None:
        """A retryable error, with a pause."""
        if self.holds(job_id, attempt):
            job = self.jobs[job_id]
            if job.failures >= self.max_failures:
                self._end(job, "failed", reason)
            else:
                self._requeue(job, "retried", "retry", waits=True)

    def release(self, job_id: UUID, attempt: int) -> None:
        if self.holds(job_id, attempt):
            self._requeue(self.jobs[job_id], "released", "released")

    def cancel(self, job_id: UUID) -> str | None:
        """The status then, `conflict`, or None: there is no such job."""
        job = self.jobs[job_id]
        if job.deleted:
            return None
        if job.status in ("succeeded", "failed"):
            return "conflict"
        if job.status == "queued":
            self._end(job, "canceled", "canceled")
        job.cancel = job.cancel or job.status == "running"
        return job.status

    def delete(self, job_id: UUID) -> bool:
        job = self.jobs[job_id]
        if job.deleted:
            return False
        if job.status == "queued":
            self._end(job, "canceled", "deleted")
        job.cancel = job.cancel or job.status == "running"
        job.deleted = True
        return True

    def reap_lost(self, job_id: UUID) -> str | None:
        job = self.jobs[job_id]
        if job.status != "running" or not job.expired:
            return None
        if not job.cancel and self._is_collateral(job):
            self._requeue(job, "lost", "collateral_loss")
            job.losses -= 1
        elif job.losses + 1 >= self.max_losses and not job.cancel:
            job.losses += 1
            self._end(job, "failed", "worker_lost", outcome="lost")
        else:
            self._requeue(job, "lost", "worker_lost")
        return job.status

    def _is_collateral(self, job: ModelJob) -> bool:
        """Never lost before, and silent together with one that its worker began later."""
        began = next(n for n, (_, *attempt) in enumerate(self.begun) if attempt == [job.id, job.attempt])
        later = [(self.jobs[other], number) for worker, other, number in self.begun[began:] if worker == job.worker]
        return "lost" not in job.attempts.values() and any(
            other.attempts[number] == "lost" or (other.expired and self.holds(other.id, number))
            for other, number in later
            if other is not job
        )

    def reap_overdue(self, job_id: UUID) -> str | None:
        job = self.jobs[job_id]
        if job.status != "running" or not job.overdue or job.expired:
            return None
        self._end(job, "failed", "deadline_exceeded")
        return job.status

    def expire_queued(self, job_id: UUID) -> str | None:
        job = self.jobs[job_id]
        if job.status != "queued" or job.attempt > 0:
            return None
        self._end(job, "failed", "expired_in_queue")
        return job.status

    def erase(self) -> None:
        for job in self.jobs.values():
            if job.deleted and job.is_terminal and not job.erased:
                job.erased, input_id, job.input_id = True, job.input_id, None
                self.keys = {key: known for key, known in self.keys.items() if known[1] != job.id}
                if input_id is not None and all(other.input_id != input_id for other in self.jobs.values()):
                    self.inputs[input_id] = True

    def snapshot(self) -> dict[str, Any]:
        """What the tables must say."""
        return {
            "jobs": {
                job.id: {
                    "status": job.status,
                    "attempt": job.attempt,
                    "losses": job.losses,
                    "failures": job.failures,
                    "rank": job.rank,
                    "cancel": job.cancel,
                    "deleted": job.deleted,
                    "erased": job.erased,
                    "waiting": job.waiting,
                    "input": job.input_id,
                    "events": job.events,
                    "attempts": job.attempts,
                    "delivery": job.delivery,
                }
                for job in self.jobs.values()
            },
            "inputs": self.inputs,
            "keys": {key: known[1] for key, known in self.keys.items()},
            "workers": self.workers,
        }

    def _end(self, job: ModelJob, status: str, reason: str, *, outcome: str | None = None) -> None:
        self._close_attempt(job, outcome or status)
        job.status, job.waiting = status, False
        job.events.append((status, job.attempt, reason))
        if job.webhook:
            job.delivery = f"job.{status}"

    def _requeue(self, job: ModelJob, outcome: str, reason: str, *, waits: bool = False) -> None:
        job.losses += outcome == "lost"
        if job.cancel:
            self._end(job, "canceled", "canceled", outcome=outcome)
            return
        job.failures += outcome == "retried"
        self._close_attempt(job, outcome)
        job.status, job.worker, job.waiting = "queued", None, waits
        job.events.append(("queued", job.attempt, reason))

    def _close_attempt(self, job: ModelJob, outcome: str) -> None:
        if job.status == "running":
            job.attempts[job.attempt] = outcome
            self.workers = {worker: None if at == job.id else at for worker, at in self.workers.items()}
