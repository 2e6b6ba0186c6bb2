"""/v1/workers: who is there to do the work."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import and_, select

from api.auth import needs
from api.pages import envelope
from api.responses import json_response, secured
from api.schemas.models import WorkerPage, WorkerResource, WorkerStatus
from api.services import current_tenant, reading, services
from shared.database import db_now
from shared.ids import show_id
from shared.scopes import Scope
from shared.tables import Job, Worker

api = APIBlueprint("workers", __name__, url_prefix="/v1/workers", abp_tags=[Tag(name="models")])

_MOST = 1000


@api.get("", summary="List workers", responses=secured(200, WorkerPage))
@needs(Scope.JOBS_READ)
def list_workers() -> Response:
    """Those that were seen within a lease. They are everybody's: of another tenant's job only that there is one."""
    seen = timedelta(seconds=services().settings.lease_s)
    own = and_(Job.id == Worker.job_id, Job.tenant_id == current_tenant(), Job.delete_requested_at.is_(None))
    with reading() as session:
        rows = session.execute(
            select(Worker, Job.id)
            .outerjoin(Job, own)
            .where(Worker.last_seen_at > db_now() - seen)
            .order_by(Worker.model, Worker.started_at, Worker.id)
            .limit(_MOST)
        ).all()
    return json_response(WorkerPage(**envelope([_resource(worker, job_id) for worker, job_id in rows], False)))


def _resource(worker: Worker, job_id: UUID | None) -> WorkerResource:
    return WorkerResource(
        id=show_id("wrk", worker.id),
        model=worker.model,
        device=worker.device,
        status=_status(worker),
        job_id=show_id("job", job_id) if job_id else None,
        started_at=worker.started_at,
        last_seen_at=worker.last_seen_at,
    )


def _status(worker: Worker) -> WorkerStatus:
    if worker.drain_deadline_at is not None:
        return WorkerStatus.DRAINING
    if not worker.ready:
        return WorkerStatus.LOADING
    return WorkerStatus.BUSY if worker.job_id is not None else WorkerStatus.IDLE
