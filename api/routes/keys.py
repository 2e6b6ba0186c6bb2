"""/v1/keys and /v1/webhook-secret: the tenant's credentials."""

from __future__ import annotations

from datetime import timedelta

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from sqlalchemy import and_, select, update

from api.auth import create_key, needs
from api.intake import read_json
from api.pages import envelope, fetch_page
from api.responses import json_response, secured
from api.schemas.keys import KeyPage, KeyPath, KeyRequest, KeyResource, NewKeyResource
from api.schemas.lists import PageQuery
from api.schemas.webhooks import WebhookSecretResource
from api.services import current_tenant, services, transaction
from shared.database import db_now
from shared.errors import NotFoundError
from shared.ids import parse_id, show_id
from shared.scopes import Scope
from shared.tables import ApiKey, Tenant
from shared.webhooks import new_secret

api = APIBlueprint("keys", __name__, url_prefix="/v1", abp_tags=[Tag(name="keys")])


@api.post("/keys", summary="Create an API key", responses=secured(201, NewKeyResource, 413, 422))
@needs(Scope.ADMIN)
def post_key() -> Response:
    """The answer shows the key; it cannot be read again."""
    wanted = read_json(KeyRequest)
    with transaction() as session:
        row, key = create_key(
            session, current_tenant(), wanted.name, scopes=wanted.scopes, expires_in_s=wanted.expires_in_s
        )
    return json_response(NewKeyResource(**_resource(row).model_dump(), key=key), 201, {"Cache-Control": "no-store"})


@api.get("/keys", summary="List API keys", responses=secured(200, KeyPage, 404, 422))
@needs(Scope.ADMIN)
def list_keys(query: PageQuery) -> Response:
    """Without the keys themselves."""
    with transaction() as session:
        rows, has_more = fetch_page(session, ApiKey, ApiKey.tenant_id == current_tenant(), query, "key")
    return json_response(KeyPage(**envelope([_resource(row) for row in rows], has_more)))


@api.delete("/keys/<string:key_id>", summary="Revoke an API key", responses=secured(204, None, 404))
@needs(Scope.ADMIN)
def revoke_key(path: KeyPath) -> Response:
    """Takes effect at once. A key may revoke itself."""
    owned = and_(ApiKey.id == parse_id("key", path.key_id), ApiKey.tenant_id == current_tenant())
    with transaction() as session:
        if session.scalars(select(ApiKey.id).where(owned)).one_or_none() is None:
            raise NotFoundError(f"there is no key {path.key_id}")
        session.execute(update(ApiKey).where(owned, ApiKey.revoked_at.is_(None)).values(revoked_at=db_now()))
    return Response(status=204)


@api.get(
    "/webhook-secret",
    summary="Read the webhook secret",
    responses=secured(200, WebhookSecretResource),
)
@needs(Scope.ADMIN)
def read_webhook_secret() -> Response:
    """Verifies the `webhook-signature` of the tenant's webhooks."""
    with transaction() as session:
        return _secret_response(session.get_one(Tenant, current_tenant()))


@api.post(
    "/webhook-secret/rotate",
    summary="Rotate the webhook secret",
    responses=secured(200, WebhookSecretResource),
)
@needs(Scope.ADMIN)
def rotate_webhook_secret() -> Response:
    """Draws a new secret. For a day webhooks carry a signature by each, so that receivers can change over."""
    overlap = timedelta(seconds=services().settings.webhook_secret_overlap_s)
    with transaction() as session:
        tenant = session.get_one(Tenant, current_tenant(), with_for_update=True)
        session.execute(
            update(Tenant)
            .where(Tenant.id == tenant.id)
            .values(
                webhook_secret=new_secret(),
                previous_webhook_secret=Tenant.webhook_secret,
                previous_webhook_secret_until=db_now() + overlap,
            )
        )
        session.refresh(tenant)
        return _secret_response(tenant)


def _secret_response(tenant: Tenant) -> Response:
    return json_response(
        WebhookSecretResource(secret=tenant.webhook_secret, previous_secret_until=tenant.previous_webhook_secret_until),
        headers={"Cache-Control": "no-store"},
    )


def _resource(row: ApiKey) -> KeyResource:
    return KeyResource(
        id=show_id("key", row.id),
        name=row.name,
        hint=row.hint,
        scopes=[Scope(scope) for scope in row.scopes],
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
