"""What an experiment showed, as text: which parameter moved what."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cli.experiments.effects import Effect, chance_of_agreement
from cli.output import print_table


def print_effects(effects: Sequence[Effect]) -> None:
    """A table for each swept parameter, and what can be said about it."""
    for parameter in dict.fromkeys(effect.parameter for effect in effects):
        moved = [effect for effect in effects if effect.parameter == parameter]
        values = list(dict.fromkeys(value for effect in moved for value in effect.means))
        click.echo(f"\n{parameter}: the mean of each measure")
        print_table(
            ("MEASURE", *map(str, values), "RANGE", "RANK CORRELATION"),
            (
                (
                    effect.measure,
                    *(show_number(effect.means.get(value)) for value in values),
                    show_number(effect.range),
                    _show_correlation(effect),
                )
                for effect in moved
            ),
        )
        click.echo(describe(parameter, moved))


def describe(parameter: str, effects: Sequence[Effect]) -> str:
    """The measures that followed a parameter everywhere, and how much that is worth."""
    series = max((len(effect.correlations) for effect in effects), default=0)
    if not series:
        return f"{parameter} has too few values, or no order, for a direction: see RANGE."
    if series == 1:
        return "One image: what moved may be that image's own."
    scope = f"in {'both' if series == 2 else f'all {series}'} series (one image, all else equal)"
    agreed = [effect for effect in effects if effect.direction]
    peaks = "".join(f"\n{effect.measure} was highest at {effect.peak} {scope}." for effect in effects if effect.peak)
    if not agreed:
        return f"No measure followed {parameter} {scope}.{peaks}"
    moved = ", ".join(
        f"{'more' if effect.direction > 0 else 'less'} {effect.measure} ({_first_and_last(effect)})"
        for effect in agreed
    )
    chance = chance_of_agreement(agreed[0])
    return (
        f"More {parameter} gave {moved} {scope}; by chance alone they would agree with a probability of {chance:.0%}."
        f"{peaks}"
    )


def show_number(value: float | None) -> str | None:
    """Three digits are more than such means are worth already."""
    return None if value is None else f"{value:.3g}"


def _first_and_last(effect: Effect) -> str:
    return f"{show_number(effect.means[min(effect.means)])} → {show_number(effect.means[max(effect.means)])}"


def _show_correlation(effect: Effect) -> str | None:
    if effect.correlation is None:
        return None
    rising = sum(one > 0 for one in effect.correlations)
    return f"{effect.correlation:+.2f}, rises in {rising} of {len(effect.correlations)}"
