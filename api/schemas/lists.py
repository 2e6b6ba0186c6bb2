"""Lists: pages by cursor, and waiting for what is listed."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, pattern=r"^[a-z]{3,4}_[0-9a-f]{32}$", description="`last_id` of the page before.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = Field("desc", description="By the time of creation.")


class Page(BaseModel, Generic[Item]):
    """A page of a list, in the envelope that clients of OpenAI's format read."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WaitQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wait: float = Field(0, ge=0, le=60, description="Seconds to wait for the end, before answering anyway.")
