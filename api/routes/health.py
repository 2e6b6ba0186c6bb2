"""Health, readiness and metrics: for probes and scrapers, without a key."""

from __future__ import annotations

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import text

from api.metrics import render_metrics
from api.responses import documented, json_response
from api.schemas.service import HealthResource
from api.services import services, transaction

api = APIBlueprint("health", __name__, abp_tags=[Tag(name="health")])


@api.get("/healthz", summary="Is the process alive?", responses=documented(200, HealthResource), security=[])
def healthz() -> Response:
    """Says nothing of the parts behind it."""
    return json_response(HealthResource())


@api.get("/readyz", summary="Can requests be served?", responses=documented(200, HealthResource, 503), security=[])
def readyz() -> Response:
    """Needs Postgres. Not Redis: jobs are accepted without it."""
    with transaction() as session:
        session.execute(text("SELECT 1"))
    return json_response(HealthResource())


@api.get(
    "/metrics",
    summary="Prometheus metrics",
    responses=documented(200, {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}, 503),
    security=[],
)
def metrics() -> Response:
    """Jobs by model and status, claimable jobs, workers, attempts, doorbell, deliveries, and HTTP requests."""
    body, content_type = render_metrics(services().sessions, services().doorbell)
    return Response(body, content_type=content_type)
