"""Webhook deliveries: what was sent, and sending it again."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from api.auth import needs
from api.lookup import find, missing, owned
from api.pages import envelope, fetch_page
from api.responses import json_response, secured
from api.schemas.experiments import ExperimentPath
from api.schemas.jobs import JobPath
from api.schemas.lists import PageQuery
from api.schemas.webhooks import DeliveryPage, DeliveryPath, DeliveryResource
from api.services import transaction
from shared.database import db_now
from shared.errors import ConflictError
from shared.ids import show_id
from shared.scopes import Scope
from shared.states import DeliveryStatus
from shared.tables import Experiment, Job, WebhookDelivery

api = APIBlueprint("deliveries", __name__, url_prefix="/v1", abp_tags=[Tag(name="webhooks")])


@api.get(
    "/jobs/<string:job_id>/deliveries",
    summary="List a job's webhook deliveries",
    responses=secured(200, DeliveryPage, 404, 422),
)
@needs(Scope.JOBS_READ)
def list_deliveries(path: JobPath, query: PageQuery) -> Response:
    """One once the job has ended, if it named a webhook_url."""
    with transaction() as session:
        job = find(session, Job, path.job_id)
        return _page(session, WebhookDelivery.job_id == job.id, query)


@api.get(
    "/experiments/<string:experiment_id>/deliveries",
    summary="List an experiment's webhook deliveries",
    responses=secured(200, DeliveryPage, 404, 422),
)
@needs(Scope.JOBS_READ)
def list_experiment_deliveries(path: ExperimentPath, query: PageQuery) -> Response:
    """One for each time that its last cell has ended, if it named a webhook_url."""
    with transaction() as session:
        experiment = find(session, Experiment, path.experiment_id)
        return _page(session, WebhookDelivery.experiment_id == experiment.id, query)


@api.post(
    "/deliveries/<string:delivery_id>/redeliver",
    summary="Deliver a webhook again",
    responses=secured(202, DeliveryResource, 404, 409),
)
@needs(Scope.JOBS_WRITE)
def redeliver(path: DeliveryPath) -> Response:
    """Sends the same id and body again, now, with a whole new schedule of tries."""
    is_it = owned(WebhookDelivery, path.delivery_id)
    with transaction() as session:
        row = session.scalars(select(WebhookDelivery).where(is_it).with_for_update()).one_or_none()
        if row is None:
            raise missing(WebhookDelivery, path.delivery_id)
        if row.status == DeliveryStatus.PENDING:
            raise ConflictError("this delivery is under way already")
        if not row.body:
            raise ConflictError("what it is about was deleted, and the message with it")
        session.execute(
            update(WebhookDelivery)
            .where(is_it)
            .values(status=DeliveryStatus.PENDING, tries=0, next_try_at=db_now(), ended_at=None, last_error=None)
        )
        session.refresh(row)
    return json_response(_resource(row), 202)


def _page(session: Session, condition: ColumnElement[bool], query: PageQuery) -> Response:
    rows, has_more = fetch_page(session, WebhookDelivery, condition, query, "evt")
    return json_response(DeliveryPage(**envelope([_resource(row) for row in rows], has_more)))


def _resource(row: WebhookDelivery) -> DeliveryResource:
    return DeliveryResource(
        id=show_id("evt", row.id),
        job_id=None if row.job_id is None else show_id("job", row.job_id),
        experiment_id=None if row.experiment_id is None else show_id("exp", row.experiment_id),
        event_type=row.event_type,
        url=row.url,
        status=DeliveryStatus(row.status),
        tries=row.tries,
        next_try_at=row.next_try_at if row.status == DeliveryStatus.PENDING else None,
        last_status_code=row.last_status_code,
        last_error=row.last_error,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )
