"""The words for where a job, an attempt and a delivery stand. docs/states.md draws the transitions."""

from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands."""

    #: accepted and waiting: for a worker, for `run_after`, or for its hold to be lifted.
    QUEUED = "queued"
    #: an attempt holds the lease.
    RUNNING = "running"
    #: the result is stored and verified.
    SUCCEEDED = "succeeded"
    #: it will not be tried again; `error` says why.
    FAILED = "failed"
    #: stopped because the user asked for it.
    CANCELED = "canceled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class Phase(StrEnum):
    """What a running attempt is doing."""

    #: reading and preparing the input.
    FETCH = "fetch"
    #: encoding the conditioning image and denoising; counts steps.
    DENOISE = "denoise"
    #: latents to pixels.
    DECODE = "decode"
    #: frames to MP4 and image files.
    ENCODE = "encode"
    #: files to the object store.
    UPLOAD = "upload"
    #: the closing transaction.
    FINISH = "finish"


class AttemptOutcome(StrEnum):
    """How one try of a worker ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    #: a retryable error; the job went back to the queue.
    RETRIED = "retried"
    #: the worker gave the job back because it is stopping.
    RELEASED = "released"
    #: the lease ran out.
    LOST = "lost"


class DeliveryStatus(StrEnum):
    """Where a webhook stands."""

    #: waiting for its next try.
    PENDING = "pending"
    #: the receiver answered 2xx.
    DELIVERED = "delivered"
    #: every try of the schedule failed; can be replayed.
    EXHAUSTED = "exhausted"
    #: the receiver answered 410, or the outbound guard refuses its address; can be replayed.
    DISABLED = "disabled"
