"""Bare Celery, set up as a careful user would: late acknowledgement, nothing fetched ahead, no results."""

from __future__ import annotations

import os

from celery import Celery

from bench.service.stamps import stamp

QUEUE = "bare"
TASK = "bare.stamp"

app = Celery("bare", broker=os.environ.get("BENCH_REDIS_URL"), set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    broker_connection_retry_on_startup=True,
)
app.task(stamp, name=TASK)
