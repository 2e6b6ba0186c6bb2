"""Cursor pages, ordered by the database's time of creation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from api.schemas.lists import PageQuery
from shared.errors import NotFoundError
from shared.ids import Prefix, parse_id

Row = TypeVar("Row")


def fetch_page(
    session: Session, table: type[Row], condition: ColumnElement[bool], query: PageQuery, prefix: Prefix
) -> tuple[Sequence[Row], bool]:
    """Rows of one page, and whether there are more.

    Raises:
        NotFoundError: `after` names nothing in this list; what is another tenant's counts as nothing.
    """
    columns: Any = table
    key = tuple_(columns.created_at, columns.id)
    statement: Any = select(table).where(condition)
    if query.after is not None:
        cursor = session.execute(
            select(columns.created_at, columns.id).where(columns.id == parse_id(prefix, query.after), condition)
        ).one_or_none()
        if cursor is None:
            raise NotFoundError(f"after must be the last_id of a page, got {query.after!r}", field="after")
        statement = statement.where(key > tuple(cursor) if query.order == "asc" else key < tuple(cursor))
    direction: Callable[[Any], Any] = (lambda c: c.asc()) if query.order == "asc" else (lambda c: c.desc())
    rows: Sequence[Row] = session.scalars(
        statement.order_by(direction(columns.created_at), direction(columns.id)).limit(query.limit + 1)
    ).all()
    return rows[: query.limit], len(rows) > query.limit


def envelope(data: Sequence[Any], has_more: bool) -> dict[str, Any]:
    """The fields of `Page` around resources that have an `id`."""
    return {
        "data": data,
        "first_id": data[0].id if data else None,
        "last_id": data[-1].id if data else None,
        "has_more": has_more,
    }
