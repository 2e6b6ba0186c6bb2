"""procrastinate, as its documentation sets it up."""

from __future__ import annotations

import os

import procrastinate

from bench.service.stamps import stamp

_URL = os.environ.get("BENCH_DATABASE_URL", "")

#: for the worker.
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_URL))
app.task(stamp, name="stamp", queue="bare")
#: for who enqueues.
sync_app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=_URL))
sync_app.task(stamp, name="stamp", queue="bare")
