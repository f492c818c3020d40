"""Every bound: a default that holds, a unit, a reason, and its own bounds."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from tim_trio.limits import KIB, MIB, Limits

FIELDS = attrs.fields(Limits)
# Bounds that other bounds lean on: to move these alone, the others move along.
ROOMY: dict[str, Any] = {"max_frame_bytes": 4 * KIB, "max_init_bytes": KIB}


def limits(**values: Any) -> Limits:
    return Limits(**values)


def is_whole(field: attrs.Attribute[Any]) -> bool:
    return isinstance(field.default, int)


def test_units() -> None:
    assert (KIB, MIB) == (1024, 1024 * 1024)


def test_defaults_hold() -> None:
    assert limits() == Limits()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_bound_says_its_unit_and_reason(field: attrs.Attribute[Any]) -> None:
    assert field.metadata["unit"]
    assert field.metadata["why"]
    assert field.kw_only
    default = field.default
    assert isinstance(default, int | float)
    most = field.metadata["most"]
    assert field.metadata["least"] <= default <= (math.inf if most is None else most)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_bound_takes_its_least_and_nothing_below(field: attrs.Attribute[Any]) -> None:
    least = field.metadata["least"]
    assert getattr(limits(**ROOMY | {field.name: least}), field.name) == least
    below = least - 1 if is_whole(field) else math.nextafter(least, -math.inf)
    with pytest.raises(ValueError, match=field.name):
        limits(**ROOMY | {field.name: below})


@pytest.mark.parametrize(
    "field",
    [field for field in FIELDS if field.metadata["most"] is not None],
    ids=lambda field: field.name,
)
def test_a_bound_with_a_most_takes_it_and_nothing_above(field: attrs.Attribute[Any]) -> None:
    most = field.metadata["most"]
    room: dict[str, Any] = {"max_frame_bytes": 64 * MIB, "backlog_bytes": 64 * MIB}
    assert getattr(limits(**room | {field.name: most}), field.name) == most
    with pytest.raises(ValueError, match=field.name):
        limits(**room | {field.name: most + 1})


def test_nan_is_no_bound() -> None:
    with pytest.raises(ValueError, match="stall_timeout_s"):
        limits(stall_timeout_s=math.nan)


def test_a_frame_must_fit_into_an_empty_backlog() -> None:
    limits(max_frame_bytes=8 * KIB, backlog_bytes=8 * KIB, max_init_bytes=KIB)
    with pytest.raises(ValueError, match=r"max_frame_bytes \(8193\) .* backlog_bytes \(8192\)"):
        limits(max_frame_bytes=8 * KIB + 1, backlog_bytes=8 * KIB, max_init_bytes=KIB)


def test_an_init_must_fit_into_a_frame() -> None:
    limits(max_frame_bytes=8 * KIB, max_init_bytes=8 * KIB)
    with pytest.raises(ValueError, match=r"max_init_bytes \(8193\) .* max_frame_bytes \(8192\)"):
        limits(max_frame_bytes=8 * KIB, max_init_bytes=8 * KIB + 1)


def test_limits_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        limits().max_rooms = 5  # type: ignore[misc]
