"""/v1/usage: what the tenant has, and what it may have."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response
from flask_openapi3 import APIBlueprint, Tag

from api.auth import needs
from api.responses import json_response, secured
from api.schemas.service import UsageResource
from api.services import own_usage, transaction
from shared.scopes import Scope

api = APIBlueprint("usage", __name__, url_prefix="/v1/usage", abp_tags=[Tag(name="usage")])


@api.get("", summary="Read usage and quotas", responses=secured(200, UsageResource))
@needs(Scope.JOBS_READ)
def read_own_usage() -> Response:
    """Queued jobs, stored bytes, and the highest priority."""
    with transaction() as session:
        usage = own_usage(session)
    return json_response(UsageResource(**asdict(usage)))
