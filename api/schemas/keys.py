"""API keys, and links that sign a browser in as one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

from api.schemas.fields import Text
from api.schemas.lists import Page
from shared.params import TakesWholeNumbers
from shared.scopes import ALL_SCOPES, Scope

#: ten years.
MAX_KEY_LIFE_S = 10 * 365 * 86_400


class KeyRequest(TakesWholeNumbers):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text = Field(min_length=1, max_length=100, description="For people, to tell keys apart.")
    scopes: list[Annotated[Scope, Strict(False)]] = Field(
        default_factory=lambda: [Scope.JOBS_READ, Scope.JOBS_WRITE],
        min_length=1,
        max_length=len(ALL_SCOPES),
        description="What the key may do; `admin` can make keys of any scope, and so includes the others.",
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=MAX_KEY_LIFE_S, description="Seconds after which the key is refused; none: never."
    )


class KeyPath(BaseModel):
    key_id: str = Field(max_length=100)


class KeyResource(BaseModel):
    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    hint: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKeyResource(KeyResource):
    key: str = Field(description="The key itself. Shown this once.")


class KeyPage(Page[KeyResource]):
    """A page of API keys."""


class SignInLinkResource(BaseModel):
    object: Literal["sign_in_link"] = "sign_in_link"
    url: str = Field(description="Signs one browser in to the page, once.")
    expires_at: datetime
