"""The endpoint that a user would write instead of the API: decode, store, INSERT, `send_task`.

`python -m bench.service.bare` serves it under the API's own gunicorn settings, which it reads from the same variables.
No key, no checks, no limits, no idempotency: what a request costs here is the least that one can cost.
"""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import PIL.Image
from celery import Celery
from flask import Flask, jsonify, request
from sqlalchemy import create_engine, text

from api.serve import Server
from bench.service.celery_app import QUEUE, TASK
from shared.environment import load_settings
from shared.settings import Settings

_TABLE = text("""
CREATE TABLE IF NOT EXISTS bare_jobs (
    id uuid PRIMARY KEY, status text NOT NULL DEFAULT 'queued', params jsonb NOT NULL, image text NOT NULL,
    width int NOT NULL, height int NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp())""")
_INSERT = text("""
INSERT INTO bare_jobs (id, params, image, width, height)
VALUES (:id, CAST(:params AS jsonb), :image, :width, :height)""")
_SELECT = text("SELECT status, params, image, width, height, created_at FROM bare_jobs WHERE id = :id")


def make_bare_app(settings: Settings) -> Flask:
    """`POST /jobs` stores the file as it came, `POST /jobs-png` the decoded image; `GET /jobs/{id}`."""
    app = Flask("bare")
    url = settings.database_url.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, pool_size=8, max_overflow=8)
    celery = Celery("bare", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    celery.conf.task_ignore_result = True
    folder = Path(settings.object_store) / "bare"
    folder.mkdir(parents=True, exist_ok=True)

    def submit(*, as_png: bool) -> Any:
        upload = request.files["image"].read()
        image = PIL.Image.open(io.BytesIO(upload)).convert("RGB")
        job_id = uuid.uuid4()
        path = folder / f"{job_id}.{'png' if as_png else 'jpg'}"
        if as_png:
            image.save(path)
        else:
            path.write_bytes(upload)
        params = jsonify(request.form.to_dict()).get_data(as_text=True)
        with engine.begin() as connection:
            values = {"id": job_id, "params": params, "image": str(path), "width": image.width, "height": image.height}
            connection.execute(_INSERT, values)
        celery.send_task(TASK, args=[str(job_id)], queue=QUEUE, ignore_result=True)
        return jsonify(id=str(job_id), status="queued"), 202, {"Location": f"/jobs/{job_id}"}

    app.add_url_rule("/jobs", "submit", lambda: submit(as_png=False), methods=["POST"])
    app.add_url_rule("/jobs-png", "submit_png", lambda: submit(as_png=True), methods=["POST"])

    @app.get("/jobs/<uuid:job_id>")
    def read(job_id: uuid.UUID) -> Any:
        with engine.connect() as connection:
            row = connection.execute(_SELECT, {"id": job_id}).mappings().one()
        return jsonify(id=str(job_id), **row)

    @app.get("/readyz")
    def ready() -> Any:
        with engine.begin() as connection:
            connection.execute(_TABLE)
        return jsonify(status="ok")

    return app


class _BareServer(Server):
    def load_config(self) -> None:
        super().load_config()
        # The API's own hooks for its streams and metrics.
        self.cfg.set("post_worker_init", lambda _worker: None)
        self.cfg.set("child_exit", lambda _server, _worker: None)

    def load(self) -> Any:
        return make_bare_app(self._settings)


if __name__ == "__main__":
    _BareServer(load_settings()).run()
