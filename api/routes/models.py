"""/v1/models: what can be asked for, and whether somebody is there to do it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import func, select

from api.auth import needs
from api.intake import read_json
from api.pages import envelope
from api.responses import json_response, secured
from api.schemas.models import ModelLimits, ModelPage, ModelPath, ModelResource, ResolvedResource
from api.services import services, transaction
from shared.catalogue import ModelEntry, off_distribution, resolve
from shared.database import db_now
from shared.errors import InvalidInputError, NotFoundError
from shared.jobs.claim import claimable
from shared.params import GenerationOptions
from shared.scopes import Scope
from shared.tables import Job, Worker

api = APIBlueprint("models", __name__, url_prefix="/v1/models", abp_tags=[Tag(name="models")])


@api.get("", summary="List models", responses=secured(200, ModelPage))
@needs(Scope.JOBS_READ)
def list_models() -> Response:
    """The first is the default."""
    counts = _counts()
    return json_response(ModelPage(**envelope([_resource(entry, *counts) for entry in services().catalogue], False)))


@api.get("/<string:name>", summary="Read a model", responses=secured(200, ModelResource, 404))
@needs(Scope.JOBS_READ)
def read_model(path: ModelPath) -> Response:
    """Its defaults and limits."""
    return json_response(_resource(_find(path.name), *_counts()))


@api.post("/<string:name>/resolve", summary="Try parameters", responses=secured(200, ResolvedResource, 404, 413, 422))
@needs(Scope.JOBS_WRITE)
def resolve_params(path: ModelPath) -> Response:
    """What a job with these parameters would run with, and its warnings; makes none."""
    entry = _find(path.name)
    params = resolve(read_json(GenerationOptions), entry)
    return json_response(ResolvedResource(params=params, warnings=off_distribution(params, entry)))


def _find(name: str) -> ModelEntry:
    try:
        return services().catalogue.get(name)
    except InvalidInputError as error:
        raise NotFoundError(str(error)) from None


def _counts() -> tuple[Mapping[str, int], Mapping[str, int]]:
    seen = timedelta(seconds=services().settings.lease_s)
    with transaction() as session:
        workers = session.execute(
            select(Worker.model, func.count())
            .where(Worker.ready, Worker.drain_deadline_at.is_(None), Worker.last_seen_at > db_now() - seen)
            .group_by(Worker.model)
        )
        queued = session.execute(select(Job.model, func.count()).where(claimable()).group_by(Job.model))
        return {row[0]: row[1] for row in workers}, {row[0]: row[1] for row in queued}


def _resource(entry: ModelEntry, workers: Mapping[str, int], queued: Mapping[str, int]) -> ModelResource:
    return ModelResource(
        id=entry.name,
        title=entry.title,
        repository=entry.repository,
        revision=entry.revision,
        licence=entry.licence,
        defaults=entry.defaults,
        limits=ModelLimits(max_pixels=entry.max_pixels, max_num_frames=entry.max_num_frames),
        workers=workers.get(entry.name, 0),
        queued=queued.get(entry.name, 0),
    )
