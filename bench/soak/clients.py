"""Callers: threads that submit jobs over HTTP until each is accepted, and the ledger of what they were promised."""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import urllib3

_TIMEOUT_S = 10.0
_PAUSE_S = 0.3
_SIDE_PX = 64


@dataclass
class Ledger:
    """What the service has promised, as its callers saw it. Safe to share between threads."""

    #: Idempotency-Key → every job id that was answered for it with 202; more than one is a broken promise.
    accepted: dict[str, set[str]] = field(default_factory=dict)
    with_webhook: set[str] = field(default_factory=set)
    #: answers that no fault explains: a client error, or a 500 where a 503 is due.
    refusals: list[str] = field(default_factory=list)
    #: by HTTP status; 0: the connection failed.
    answers: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def job_ids(self) -> set[str]:
        with self.lock:
            return {job_id for ids in self.accepted.values() for job_id in ids}


@dataclass(frozen=True)
class Load:
    """What is to be submitted."""

    jobs: int
    #: the time over which the requests are spread, s.
    spread_s: float
    clients: int
    seed: int
    webhook_url: str


class Clients:
    """The callers. `start`, then `is_done` some time; `stop` lets them leave early."""

    def __init__(self, load: Load, urls: list[str], api_key: str) -> None:
        """
        Args:
            urls: of API processes that serve the same service.
        """
        self.ledger = Ledger()
        self._load = load
        self._urls = urls
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._stopping = threading.Event()
        self._image = _make_image(load.seed)
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"client-{number}")
            for number in range(load.clients)
        ]

    def start(self) -> None:
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def is_done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        pool = urllib3.PoolManager(timeout=_TIMEOUT_S, retries=False)
        for number in range(client, self._load.jobs, self._load.clients):
            due = self._started + self._load.spread_s * number / self._load.jobs
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            # Of its own, so that what a job is does not hang on what befell others.
            draw = random.Random(f"{self._load.seed} {number}")
            job_id = self._submit(pool, draw, number)
            if job_id is None:
                continue
            if draw.random() < 0.05:
                # A caller who did not trust the answer: the same key, so the same job.
                self._submit(pool, random.Random(f"{self._load.seed} {number}"), number)
            if draw.random() < 0.03:
                self._send(pool, draw, "POST", f"/v1/jobs/{job_id}/cancel")

    def _submit(self, pool: urllib3.PoolManager, draw: random.Random, number: int) -> str | None:
        """Submit one job until it is accepted. None: stopped, or refused for good."""
        key = f"soak-{self._load.seed}-{number}"
        has_webhook = draw.random() < 0.5
        fields: dict[str, Any] = {
            "model": "double",
            "width": _SIDE_PX,
            "height": _SIDE_PX,
            "num_frames": 2,
            "seed": number,
            # A job's length, in steps of 50 ms: most are short, some outlive a short lease.
            "num_inference_steps": draw.choice([1, 2, 4, 4, 8, 8, 16, 40]),
            "priority": draw.choice([0, 0, 0, 1]),
            "labels": json.dumps({"number": str(number)}),
            **({"webhook_url": self._load.webhook_url} if has_webhook else {}),
        }
        form = {name: str(value) for name, value in fields.items()}
        while not self._stopping.is_set():
            answer = self._send(
                pool,
                draw,
                "POST",
                "/v1/jobs",
                fields={**form, "image": ("photo.png", self._image, "image/png")},
                headers={**self._headers, "Idempotency-Key": key},
            )
            if answer is not None and answer.status == 202:
                job_id = str(answer.json()["id"])
                with self.ledger.lock:
                    self.ledger.accepted.setdefault(key, set()).add(job_id)
                    if has_webhook:
                        self.ledger.with_webhook.add(job_id)
                return job_id
            if answer is not None and answer.status not in (409, 429, 503):
                with self.ledger.lock:
                    self.ledger.refusals.append(f"{answer.status}: {answer.data[:300].decode(errors='replace')}")
                if answer.status < 500:
                    return None
            self._stopping.wait(_PAUSE_S + draw.random())
        return None

    def _send(
        self, pool: urllib3.PoolManager, draw: random.Random, method: str, path: str, **options: Any
    ) -> urllib3.BaseHTTPResponse | None:
        """One request to any of the API processes; None: the connection failed."""
        answer = None
        with suppress(urllib3.exceptions.HTTPError):
            answer = pool.request(method, draw.choice(self._urls) + path, **{"headers": self._headers, **options})
        with self.ledger.lock:
            self.ledger.answers[answer.status if answer else 0] += 1
        return answer


def _make_image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX)).save(buffer, "PNG")
    return buffer.getvalue()
