"""Request and answer models of /v1/experiments."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.schemas.fields import Labels, Priority, Text
from api.schemas.lists import Page, PageQuery
from shared.experiments.grid import GenerationGrid
from shared.experiments.resource import CellResource, ExperimentResource
from shared.params import GenerationOptions, TakesWholeNumbers
from shared.states import JobStatus

Name = Annotated[Text, StringConstraints(min_length=1, max_length=100)]
#: as Weights & Biases allows them in its URLs.
WandbName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ExperimentImage(BaseModel):
    """One of the images, given as in a job's JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_url: str | None = Field(
        None, max_length=64 * 2**20, description="http(s) URL that the API fetches, or a `data:image/…;base64,` URI."
    )
    input_id: str | None = Field(None, description="An image uploaded before with `POST /v1/inputs`.")
    name: Name | None = Field(None, description="Default: `image_0`, `image_1`, … by its place.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.image_url is None) == (self.input_id is None):
            got = "none" if self.image_url is None else "both"
            raise ValueError(f"an image is given by just one of image_url and input_id, got {got}")
        return self


class WandbRequest(BaseModel):
    """Where in Weights & Biases the experiment is logged; what is left out comes from the service's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: WandbName | None = None
    entity: WandbName | None = None


class ExperimentRequest(TakesWholeNumbers):
    """Images, and a grid of parameter values: every value of each with every other, for each image, is a cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    model: str | None = Field(None, max_length=100, description="Catalogue name; default: the first of /v1/models.")
    images: list[ExperimentImage] = Field(min_length=1, max_length=100)
    grid: GenerationGrid
    base: GenerationOptions = Field(
        default_factory=GenerationOptions,
        description="Parameters that all cells share, none of which is in the grid. Without a seed anywhere, one is "
        "drawn for all cells.",
    )
    labels: Labels = Field(default_factory=dict, description="Your own names and values, also those of each job.")
    priority: Priority = 0
    webhook_url: str | None = Field(
        None, max_length=2048, description="Gets a signed POST (Standard Webhooks) when all cells have ended."
    )
    reuse: bool = Field(
        False, description="Let a result that is there already stand for a cell that would come out the same."
    )
    wandb: WandbRequest | None = Field(None, description="Log to Weights & Biases.")


class ExperimentPath(BaseModel):
    experiment_id: str = Field(max_length=100)


class ExperimentPage(Page[ExperimentResource]):
    """A page of experiments."""


class CellsQuery(PageQuery):
    limit: int = Field(100, ge=1, le=1000)
    order: Literal["asc", "desc"] = Field("asc", description="By index.")
    status: JobStatus | None = None


class CellPage(Page[CellResource]):
    """A page of an experiment's cells."""
