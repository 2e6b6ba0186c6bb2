"""Accepting and showing experiments, for the routes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.auth import require_rate
from api.intake import ImageSource
from api.jobs import TakenImage, checked_key, discard_images, take_source
from api.schemas.experiments import ExperimentRequest
from api.services import current_tenant, own_usage, quotas, services, transaction
from shared.catalogue import ModelEntry, off_distribution, queue_name, resolve
from shared.errors import AnimaticError, ConflictError, InvalidInputError, RequestError
from shared.experiments.accept import NewExperiment, Point, find_by_idempotency_key, insert_experiment
from shared.experiments.grid import Axes, count_points, grid_points
from shared.experiments.resource import ExperimentResource, experiment_resource, tally_cells
from shared.ids import show_id
from shared.params import GenerationOptions, draw_seed
from shared.quotas import check_priority, check_queue, check_storage
from shared.tables import Experiment

#: at once; more than there are workers of most installations.
_RINGS_MAX = 32


def show_experiments(session: Session, experiments: Sequence[Experiment]) -> list[ExperimentResource]:
    tallies = tally_cells(session, experiments)
    url = services().settings.public_url
    return [experiment_resource(experiment, tallies[experiment.id], url) for experiment in experiments]


def show_experiment(session: Session, experiment: Experiment) -> ExperimentResource:
    return show_experiments(session, [experiment])[0]


def accept_experiment(request: ExperimentRequest, idempotency_key: str | None) -> tuple[ExperimentResource, bool]:
    """Check every cell, store the images, write the rows, ring the doorbell. All of it, or nothing.

    Returns:
        The experiment, and whether it was there already under the same idempotency key.

    Raises:
        InvalidInputError: a value, a cell or an image is not acceptable; says which.
        NotFoundError: an `input_id` names nothing.
        RateLimitedError: the tenant has too many queued jobs, or the key has sent too many images.
        QuotaExceededError: it has no room for the images, or none for results.
        TransientError: Postgres or the object store is not answering.
    """
    app = services()
    entry = app.catalogue.get(request.model or next(iter(app.catalogue)).name)
    axes = request.grid.axes()
    sources, names = _sources(request), _names(request)
    base = _base(request, axes)
    _check_size(axes, len(sources))
    points = [_point(values, base, entry) for values in grid_points(axes)]
    if request.webhook_url is not None:
        app.outbound.check_url(request.webhook_url, field="webhook_url")
    idempotency = None
    if idempotency_key is not None:
        idempotency = (checked_key(idempotency_key), _fingerprint(request, axes, sources))
        known = _find_known(*idempotency)
        if known is not None:
            return known, True
    with transaction() as session:
        # Asked before the work, too.
        usage = own_usage(session)
        check_priority(usage, request.priority)
        check_queue(usage, adding=0 if request.reuse else len(sources) * len(points))
        check_storage(usage)
    # A request may bring many images: each counts as a request.
    require_rate(len(sources) - 1)
    taken = _take_images(sources)
    new = NewExperiment(
        tenant_id=current_tenant(),
        name=request.name,
        model=entry.name,
        images=list(zip(names, (image for image, _ in taken), strict=True)),
        grid=axes,
        base=base,
        points=points,
        labels=request.labels,
        warnings=_warnings(request, base, points),
        priority=request.priority,
        webhook_url=request.webhook_url,
        wandb=None if request.wandb is None else request.wandb.model_dump(exclude_none=True),
    )
    try:
        with transaction() as session:
            experiment = insert_experiment(
                session,
                new,
                quotas(),
                public_url=app.settings.public_url,
                reuse_of_s=app.settings.lease_s if request.reuse else None,
                idempotency=idempotency,
            )
            resource = show_experiment(session, experiment)
    except ConflictError:
        # Another request under the same key was first: its commit is what we waited for.
        discard_images(taken)
        known = _find_known(*idempotency) if idempotency is not None else None
        if known is None:
            raise
        return known, True
    except RequestError:
        discard_images(taken)
        raise
    # Accepted, whether or not anybody hears this.
    ring_for(experiment, resource.counts.queued)
    return resource, False


def ring_for(experiment: Experiment, jobs: int) -> None:
    """Wake as many workers as there may be; the sweep rings for the rest within seconds."""
    for _ in range(min(jobs, _RINGS_MAX)):
        if not services().doorbell.ring(queue_name(experiment.model), show_id("exp", experiment.id)):
            break


def _sources(request: ExperimentRequest) -> list[ImageSource]:
    sources = [ImageSource(url=image.image_url, input_id=image.input_id) for image in request.images]
    first: dict[str, int] = {}
    for number, source in enumerate(sources):
        if (other := first.setdefault(source.digest(), number)) != number:
            raise InvalidInputError(f"images.{number} is the same as images.{other}", field=f"images.{number}")
    return sources


def _names(request: ExperimentRequest) -> list[str]:
    names = [image.name or f"image_{number}" for number, image in enumerate(request.images)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidInputError(f"names of images must differ, got {name!r} twice", field=f"images.{number}.name")
    return names


def _base(request: ExperimentRequest, axes: Axes) -> dict[str, Any]:
    """The caller's, and a seed for all cells if there is none: they shall differ in nothing but the grid."""
    base = request.base.model_dump(mode="json", exclude_none=True)
    for name in axes:
        if name in base:
            raise InvalidInputError(f"{name} stands in grid and in base; give it in one of them", field=f"base.{name}")
    return base if "seed" in axes or "seed" in base else {**base, "seed": draw_seed()}


def _check_size(axes: Axes, images: int) -> None:
    most = services().settings.experiment_cells_max
    cells = images * count_points(axes)
    if cells > most:
        factors = " × ".join([f"{images} images", *(f"{len(values)} {name}" for name, values in axes.items())])
        raise InvalidInputError(f"an experiment may have at most {most} cells, got {factors} = {cells}", field="grid")


def _point(values: dict[str, Any], base: dict[str, Any], entry: ModelEntry) -> Point:
    try:
        params = resolve(GenerationOptions(**base, **values), entry)
    except (InvalidInputError, ValidationError) as error:
        cell = ", ".join(f"{name} {value}" for name, value in values.items())
        problem = str(error)
        if isinstance(error, ValidationError):
            problem = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise InvalidInputError(f"the cell of {cell} is not possible: {problem}", field="grid") from None
    return Point(params, off_distribution(params, entry))


def _warnings(request: ExperimentRequest, base: dict[str, Any], points: Sequence[Point]) -> list[str]:
    warnings = dict.fromkeys(warning for point in points for warning in point.warnings)
    if request.reuse and request.base.seed is None and "seed" in base:
        warnings["reuse finds nothing where the seed is drawn: give a seed"] = None
    return list(warnings)


def _take_images(sources: Sequence[ImageSource]) -> list[TakenImage]:
    """All of them, or none is left behind.

    Raises:
        InvalidInputError: they took too long together: a hundred slow hosts would hold a thread for half an hour.
    """
    taken: list[TakenImage] = []
    limit_s = services().settings.upload_timeout_s
    started = time.monotonic()
    try:
        for number, source in enumerate(sources):
            if taken and time.monotonic() - started > limit_s:
                raise InvalidInputError(
                    f"images must be there within {limit_s:g} s, {number} of {len(sources)} were; "
                    "upload them before, with POST /v1/inputs",
                    field="images",
                )
            taken.append(take_source(source, place=f"images.{number}."))
    except AnimaticError:
        discard_images(taken)
        raise
    return taken


def _find_known(key: str, fingerprint: bytes) -> ExperimentResource | None:
    with transaction() as session:
        known = find_by_idempotency_key(
            session, current_tenant(), key, fingerprint, ttl_s=services().settings.idempotency_ttl_s
        )
        return None if known is None else show_experiment(session, known)


def _fingerprint(request: ExperimentRequest, axes: Axes, sources: Sequence[ImageSource]) -> bytes:
    content = {"images": {"__all__": {"image_url", "input_id"}}}
    fields = request.model_dump(mode="json", exclude=content, exclude_unset=True)
    images = [source.digest() for source in sources]
    text = json.dumps({"experiment": fields, "axes": list(axes), "images": images}, sort_keys=True)
    return hashlib.sha256(text.encode()).digest()
