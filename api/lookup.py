"""Finding what a request names by its id: the tenant's own only, and what was deleted is not there."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from sqlalchemy import ColumnElement, and_, select, true
from sqlalchemy.orm import Session

from api.services import current_tenant
from shared.errors import NotFoundError
from shared.ids import Prefix, parse_id
from shared.tables import Experiment, Input, Job, WebhookDelivery

Row = TypeVar("Row", Job, Input, Experiment, WebhookDelivery)


class _Kind(NamedTuple):
    prefix: Prefix
    #: for messages.
    word: str
    is_there: ColumnElement[bool]


_KINDS: dict[type[Job | Input | Experiment | WebhookDelivery], _Kind] = {
    Job: _Kind("job", "job", Job.delete_requested_at.is_(None)),
    Input: _Kind("inp", "input", Input.deleted_at.is_(None)),
    Experiment: _Kind("exp", "experiment", true()),
    WebhookDelivery: _Kind("evt", "delivery", true()),
}


def owned(table: type[Row], shown_id: str) -> ColumnElement[bool]:
    """Names a row by its id as shown, if it is this tenant's and not deleted.

    Raises:
        NotFoundError: the id is malformed.
    """
    kind = _KINDS[table]
    return and_(table.id == parse_id(kind.prefix, shown_id), table.tenant_id == current_tenant(), kind.is_there)


def find(session: Session, table: type[Row], shown_id: str, *, field: str | None = None) -> Row:
    """The tenant's row of this id.

    Args:
        field: where in the request the id stands, if not in its path.

    Raises:
        NotFoundError: there is none; another tenant's counts as none.
    """
    row = session.scalars(select(table).where(owned(table, shown_id))).one_or_none()
    if row is None:
        raise missing(table, shown_id, field=field)
    return row


def missing(table: type[Row], shown_id: str, *, field: str | None = None) -> NotFoundError:
    return NotFoundError(f"there is no {_KINDS[table].word} {shown_id}", field=field)
