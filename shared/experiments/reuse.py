"""Reuse: results that are there already, and that a cell would repeat."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from shared.database import db_now
from shared.states import JobStatus
from shared.tables import Input, Job, Worker

#: SHA-256 of the image as stored, and the resolved parameters as text.
Content = tuple[str, str]


def content_of(sha256: str, params: dict[str, Any]) -> Content:
    return sha256, json.dumps(params, sort_keys=True)


def find_results(
    session: Session,
    tenant_id: UUID,
    model: str,
    images: Iterable[str],
    params: Iterable[dict[str, Any]],
    *,
    seen_s: float,
) -> dict[Content, UUID]:
    """The tenant's newest succeeded job of each content, if a worker that is here would make the same.

    The same means: of the same image and resolved parameters, seed included, by the same revision of the model and the
    same engine tier, and decoded as asked. A job that was deleted, or whose files have expired, does not count.

    Args:
        images: SHA-256 of each.
        seen_s: how long a worker may have been silent to count as here.
    """
    engines = session.execute(
        select(Worker.revision, Worker.engine)
        .where(
            Worker.model == model,
            Worker.ready,
            Worker.drain_deadline_at.is_(None),
            Worker.last_seen_at > db_now() - timedelta(seconds=seen_s),
            Worker.revision.is_not(None),
            Worker.engine.is_not(None),
        )
        .distinct()
    ).all()
    if not engines:
        return {}
    made_with = Job.result["made_with"]
    rows = session.execute(
        select(Job.id, Input.sha256, Job.params)
        .join(Input, Input.id == Job.input_id)
        .where(
            Input.tenant_id == tenant_id,
            Input.sha256.in_(list(images)),
            Job.tenant_id == tenant_id,
            Job.model == model,
            Job.status == JobStatus.SUCCEEDED,
            Job.params.in_(list(params)),
            Job.expired_at.is_(None),
            Job.delete_requested_at.is_(None),
            tuple_(made_with["revision"].astext, made_with["engine"].astext).in_([tuple(row) for row in engines]),
            made_with["decode_chunk_size"] == Job.params["decode_chunk_size"],
        )
        .order_by(Job.finished_at)
    )
    return {content_of(sha256, stored): job_id for job_id, sha256, stored in rows}
