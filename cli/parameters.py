"""The generation parameters as command-line options, made from the model that the API validates with."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import click
from annotated_types import Ge, Le

from shared.params import GenerationOptions


def generation_options(
    command: Callable[..., Any], wrap: Callable[[click.ParamType[Any]], click.ParamType[Any]] = lambda kind: kind
) -> Callable[..., Any]:
    """One option per field of `GenerationOptions`, so that none is ever forgotten.

    Args:
        wrap: makes the option's type out of the type of one value.
    """
    for name, field in reversed(GenerationOptions.model_fields.items()):
        annotation = _without_none(field.annotation)
        constraints, description = [*field.metadata], field.description
        while typing.get_origin(annotation) is typing.Annotated:
            annotation, *extra = typing.get_args(annotation)
            for item in extra:
                constraints += getattr(item, "metadata", [item])
                description = description or getattr(item, "description", None)
        option = click.option(
            f"--{name.replace('_', '-')}", name, type=wrap(_option_type(annotation, constraints)), help=description
        )
        command = option(command)
    return command


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    return annotation


def _option_type(kind: Any, constraints: list[Any]) -> click.ParamType[Any]:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return click.Choice([member.value for member in kind])
    low = next((item.ge for item in constraints if isinstance(item, Ge)), None)
    high = next((item.le for item in constraints if isinstance(item, Le)), None)
    if kind is int:
        return click.IntRange(typing.cast("int | None", low), typing.cast("int | None", high))
    if kind is float:
        return click.FloatRange(typing.cast("float | None", low), typing.cast("float | None", high))
    raise TypeError(f"no command-line option for a parameter of type {kind}")
