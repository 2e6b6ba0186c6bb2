"""`create_app`: the one place where the API is wired. Nothing is created at import."""

from __future__ import annotations

from contextlib import ExitStack

from flask import Response, current_app, g, request
from flask_openapi3 import OpenAPI
from werkzeug.sansio.utils import host_is_trusted

from api import openapi
from api.auth import authenticate, authorize, needed_scope, require_rate, require_scopes
from api.decoding import ImageDecoder
from api.metrics import count_requests
from api.places import Places
from api.problems import Problem, register_error_handlers, validation_problem
from api.rate_limit import RateLimiter, Standing
from api.routes import (
    deliveries,
    experiments,
    files,
    health,
    inputs,
    jobs,
    keys,
    models,
    page,
    sign_in,
    static,
    usage,
    workers,
)
from api.services import Services, current_tenant, services
from api.streams import JobStreams
from shared.catalogue import Catalogue
from shared.database import make_engine, make_sessions
from shared.doorbell import Doorbell
from shared.errors import MalformedRequestError
from shared.objects import open_store
from shared.outbound import OutboundGuard
from shared.settings import Settings

_FORM_PARTS_MAX = 64
_CONNECTIONS = 8
#: threads of a process that streams, long polls and uploads leave to everything else.
_ANSWERING = 32
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})

#: images inline as data: are Swagger UI's icons, its styles are set from script.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


def create_app(settings: Settings) -> OpenAPI:
    """Build the WSGI application. Opens no connection: those come with the first request that needs one."""
    app = OpenAPI(
        "api",
        info=openapi.INFO,
        security_schemes=openapi.SECURITY_SCHEMES,
        doc_ui=False,
        validation_error_status=422,
        validation_error_model=Problem,
        validation_error_callback=validation_problem,
        static_folder=None,
    )
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body_bytes,
        MAX_FORM_MEMORY_SIZE=min(settings.max_body_bytes, 2**20),
        MAX_FORM_PARTS=_FORM_PARTS_MAX,
    )
    app.url_map.strict_slashes = False
    # A path has one spelling, and nothing redirects to the host that the caller named.
    app.url_map.merge_slashes = False
    # Streams hold no connection, so few are enough.
    engine = make_engine(settings, pool_size=_CONNECTIONS, application="animatic-api")
    app.extensions["animatic"] = Services(
        settings=settings,
        engine=engine,
        sessions=make_sessions(engine),
        readers=make_sessions(engine.execution_options(isolation_level="AUTOCOMMIT")),
        store=open_store(settings),
        doorbell=Doorbell(settings),
        catalogue=Catalogue.from_names(settings.models),
        outbound=OutboundGuard(allow=settings.outbound_allow, ports=settings.outbound_ports),
        decoder=ImageDecoder(settings),
        limiter=RateLimiter(settings),
        streams=JobStreams(engine),
        places=Places(settings.api_threads - min(_ANSWERING, settings.api_threads // 2)),
    )
    register_error_handlers(app)
    count_requests(app)
    app.before_request(_require_trusted_host)
    app.before_request(_require_key)
    app.after_request(_show_rate)
    app.after_request(_harden)
    app.teardown_request(_leave_place)
    app.register_blueprint(openapi.pages)
    app.register_blueprint(files.local)
    app.register_blueprint(sign_in.browser)
    app.register_blueprint(page.pages)
    app.register_blueprint(static.static)
    for module in (jobs, experiments, files, deliveries, inputs, keys, sign_in, models, workers, usage, health):
        app.register_api(module.api)
    require_scopes(app)
    return app


def _require_trusted_host() -> None:
    # Probes come by address.
    trusted = services().settings.trusted_hosts
    if trusted and request.path not in _PROBES and not host_is_trusted(request.host, trusted):
        raise MalformedRequestError(f"this service does not answer to the host {request.host[:80]!r}")


def _require_key() -> None:
    # Also where there is no such route: what is there is told to those with a key.
    if request.path.startswith("/v1/") or needed_scope(current_app, request.endpoint) is not None:
        authenticate()
        require_rate()
        authorize()
        _take_place()


def _take_place() -> None:
    """What has a body may take long: until it is there, and then to fetch and decode its image."""
    if request.content_length or "Transfer-Encoding" in request.headers:
        g.place = ExitStack()
        g.place.enter_context(services().places.take(current_tenant()))


def _leave_place(_error: BaseException | None) -> None:
    place: ExitStack | None = g.pop("place", None)
    if place is not None:
        place.close()


def _show_rate(response: Response) -> Response:
    standing: Standing | None = g.get("standing")
    if standing is not None:
        response.headers.update(standing.headers())
    return response


def _harden(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("X-Frame-Options", "DENY")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if request.path.startswith("/v1/"):
        # It belongs to one tenant.
        response.headers.setdefault("Cache-Control", "no-store")
    return response
