"""What fields of several requests may hold."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

_LABEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"


LabelName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_LABEL_NAME)]


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError(f"text must not hold a NUL character, got {value[:80]!r}")
    return value


def _check_label(value: str) -> str:
    if value.startswith("=") or "=" not in value:
        raise ValueError(f"label must be NAME=VALUE, got {value[:80]!r}")
    return value


#: what Postgres can store.
Text = Annotated[str, AfterValidator(_check_text), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]


#: what most file systems allow.
IMAGE_NAME_MAX = 255
ImageName = Annotated[Text, StringConstraints(min_length=1, max_length=IMAGE_NAME_MAX)]


LabelFilter = Annotated[
    str,
    AfterValidator(_check_text),
    AfterValidator(_check_label),
    StringConstraints(max_length=320),
    Field(json_schema_extra={"pattern": r"^[^=\u0000]+=[^\u0000]*$"}),
]


LabelValue = Annotated[Text, StringConstraints(max_length=255)]


def _close_labels(schema: dict[str, Any]) -> None:
    # pydantic's own says what names that match are worth, and nothing of those that do not.
    schema["additionalProperties"] = schema.pop("patternProperties")[_LABEL_NAME]
    schema["propertyNames"]["pattern"] = _LABEL_NAME


Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=16, json_schema_extra=_close_labels)]
Priority = Annotated[int, Field(ge=-100, le=100, description="Higher goes first.")]


def _check_day(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError(f"a day must be YYYY-MM-DD, got {value[:80]!r}")
    return value


Day = Annotated[date, BeforeValidator(_check_day)]
