"""/v1/experiments: a grid of jobs as one request; read, follow, pause, resume, cancel and retry it as a whole."""

from __future__ import annotations

from functools import partial

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import and_, select

from api.auth import check_still_valid, needs
from api.experiments import (
    accept_experiment,
    ring_for,
    show_experiment,
    show_experiments,
)
from api.intake import read_json
from api.live import stream, stream_schema, wait_for_end
from api.lookup import find, missing, owned
from api.pages import envelope, fetch_page
from api.responses import json_response, secured
from api.schemas.experiments import CellPage, CellsQuery, ExperimentPage, ExperimentPath, ExperimentRequest
from api.schemas.lists import PageQuery, WaitQuery
from api.services import current_tenant, quotas, reading, services, transaction
from shared.errors import NotFoundError
from shared.experiments.resource import ExperimentResource, cell_resources
from shared.experiments.steer import (
    cancel_experiment,
    delete_experiment,
    pause_experiment,
    resume_experiment,
    retry_experiment,
)
from shared.ids import parse_id
from shared.scopes import Scope
from shared.tables import Experiment, ExperimentCell, Job

api = APIBlueprint("experiments", __name__, url_prefix="/v1/experiments", abp_tags=[Tag(name="experiments")])

_STREAM = stream_schema("experiment", "An ExperimentResource")
#: between two events: cells end often, and each event counts them all.
_PAUSE_S = 0.5


@api.post("", summary="Submit an experiment", responses=secured(202, ExperimentResource, 404, 409, 413, 422))
@needs(Scope.JOBS_WRITE)
def submit_experiment() -> Response:
    """Makes a job for each cell, all or none. With an `Idempotency-Key` header a repetition gets the first one's."""
    experiment, replayed = accept_experiment(read_json(ExperimentRequest), request.headers.get("Idempotency-Key"))
    headers = {"Location": experiment.links.self}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return json_response(experiment, 202, headers)


@api.get("", summary="List experiments", responses=secured(200, ExperimentPage, 404, 422))
@needs(Scope.JOBS_READ)
def list_experiments(query: PageQuery) -> Response:
    """The tenant's experiments, newest first."""
    with reading() as session:
        rows, has_more = fetch_page(session, Experiment, Experiment.tenant_id == current_tenant(), query, "exp")
        return json_response(ExperimentPage(**envelope(show_experiments(session, rows), has_more)))


@api.get("/<string:experiment_id>", summary="Read an experiment", responses=secured(200, ExperimentResource, 404, 422))
@needs(Scope.JOBS_READ)
def read_experiment(path: ExperimentPath, query: WaitQuery) -> Response:
    """With `?wait=SECONDS` the answer comes when all cells have ended, or after that time."""
    read = partial(_read, path.experiment_id)
    return json_response(wait_for_end(parse_id("exp", path.experiment_id), read, _is_over, query.wait))


@api.get(
    "/<string:experiment_id>/events",
    summary="Stream an experiment's progress",
    responses=secured(200, _STREAM, 404),
)
@needs(Scope.JOBS_READ)
def stream_experiment(path: ExperimentPath) -> Response:
    """Server-sent events: `experiment` with the whole experiment, now and as it changes; ends when it has finished."""
    read = partial(_read, path.experiment_id)
    return stream("experiment", parse_id("exp", path.experiment_id), read, _is_over, pause_s=_PAUSE_S)


@api.get(
    "/<string:experiment_id>/cells", summary="List an experiment's cells", responses=secured(200, CellPage, 404, 422)
)
@needs(Scope.JOBS_READ)
def list_cells(path: ExperimentPath, query: CellsQuery) -> Response:
    """In the order of their indexes, each with its job."""
    with reading() as session:
        experiment = find(session, Experiment, path.experiment_id)
        index = ExperimentCell.index
        condition = ExperimentCell.experiment_id == experiment.id
        if query.after is not None:
            cell = parse_id("cell", query.after)
            after = session.scalars(select(index).where(condition, ExperimentCell.id == cell)).one_or_none()
            if after is None:
                raise NotFoundError(f"after must be the last_id of a page, got {query.after!r}", field="after")
            condition = and_(condition, index > after if query.order == "asc" else index < after)
        if query.status is not None:
            condition = and_(condition, Job.status == query.status)
        rows = session.execute(
            select(ExperimentCell, Job)
            .join(Job, Job.id == ExperimentCell.job_id)
            .where(condition)
            .order_by(index.asc() if query.order == "asc" else index.desc())
            .limit(query.limit + 1)
        ).all()
        cells = cell_resources(
            experiment, [(cell, job) for cell, job in rows[: query.limit]], services().settings.public_url
        )
        return json_response(CellPage(**envelope(cells, len(rows) > query.limit)))


@api.post(
    "/<string:experiment_id>/pause", summary="Pause an experiment", responses=secured(200, ExperimentResource, 404, 409)
)
@needs(Scope.JOBS_WRITE)
def pause(path: ExperimentPath) -> Response:
    """No further cell is started; those that run, run on."""
    with transaction() as session:
        experiment = _there(pause_experiment(session, owned(Experiment, path.experiment_id)), path)
        return json_response(show_experiment(session, experiment))


@api.post(
    "/<string:experiment_id>/resume",
    summary="Resume an experiment",
    responses=secured(200, ExperimentResource, 404, 409),
)
@needs(Scope.JOBS_WRITE)
def resume(path: ExperimentPath) -> Response:
    """What was paused goes to the queue again, as if it came now."""
    with transaction() as session:
        experiment = _there(resume_experiment(session, owned(Experiment, path.experiment_id)), path)
        resource = show_experiment(session, experiment)
    ring_for(experiment, resource.counts.queued)
    return json_response(resource)


@api.post(
    "/<string:experiment_id>/cancel", summary="Cancel an experiment", responses=secured(200, ExperimentResource, 404)
)
@needs(Scope.JOBS_WRITE)
def cancel(path: ExperimentPath) -> Response:
    """Cells that wait end at once, those that run within one denoising step; results that are there stay."""
    with transaction() as session:
        url = services().settings.public_url
        experiment = _there(cancel_experiment(session, owned(Experiment, path.experiment_id), public_url=url), path)
        return json_response(show_experiment(session, experiment))


@api.post(
    "/<string:experiment_id>/retry",
    summary="Retry the failed cells of an experiment",
    responses=secured(200, ExperimentResource, 403, 404),
)
@needs(Scope.JOBS_WRITE)
def retry(path: ExperimentPath) -> Response:
    """Makes a new job of the same parameters for each cell that failed. It runs, and finishes, again."""
    with transaction() as session:
        found, made = retry_experiment(session, owned(Experiment, path.experiment_id), quotas())
        experiment = _there(found, path)
        resource = show_experiment(session, experiment)
    ring_for(experiment, made)
    return json_response(resource)


@api.delete("/<string:experiment_id>", summary="Delete a finished experiment", responses=secured(204, None, 404, 409))
@needs(Scope.JOBS_WRITE)
def delete(path: ExperimentPath) -> Response:
    """With every job that it made: these are hidden at once, and erased soon after."""
    with transaction() as session:
        if not delete_experiment(session, owned(Experiment, path.experiment_id)):
            raise missing(Experiment, path.experiment_id)
    return Response(status=204)


def _there(experiment: Experiment | None, path: ExperimentPath) -> Experiment:
    if experiment is None:
        raise missing(Experiment, path.experiment_id)
    return experiment


def _read(experiment_id: str) -> ExperimentResource:
    with reading() as session:
        check_still_valid(session)
        return show_experiment(session, find(session, Experiment, experiment_id))


def _is_over(experiment: ExperimentResource) -> bool:
    return experiment.status == "finished"
