"""Connected components of hand-drawn regions."""

from __future__ import annotations

import torch

from siglip_perception.grounding.components import split_components

GRID = (6, 12)


def draw(*rows: str) -> torch.Tensor:
    """A map [1, 72]: # is 0.9, + is 0.4, everything else 0."""
    values = {"#": 0.9, "+": 0.4}
    return torch.tensor([[values.get(c, 0.0) for row in rows for c in row]])


def show(maps: torch.Tensor) -> list[str]:
    return [
        "/".join("".join("#" if v > 0.5 else "." for v in row) for row in item.view(*GRID))
        for item in maps
    ]


def test_two_cups_are_two() -> None:
    maps = draw(
        "............",
        ".##+....+##.",
        ".##+....+##.",
        "............",
        "............",
        "............",
    )
    first, second = split_components(maps, GRID)
    assert show(torch.stack([first, second])) == [
        "............/.##........./.##........./............/............/............",
        "............/.........##./.........##./............/............/............",
    ]
    # The soft edge of the other one stays below one half and does no harm.
    assert float(first.max()) == float(second.max()) == float(maps.max())


def test_what_something_narrow_stands_before_is_one_and_specks_are_none() -> None:
    maps = draw(
        "...........#",
        ".##.##......",
        ".##.##......",
        "............",
        "............",
        "#...........",
    )
    (item,) = split_components(maps, GRID)
    assert show(item[None]) == [
        "............/.##.##....../.##.##....../............/............/............"
    ]


def test_regions_do_not_meet_each_other_nor_change_their_order() -> None:
    bottom = draw(*["............"] * 5, "##.......###")
    top = draw("##.......###", *["............"] * 5)
    assert show(split_components(torch.cat([bottom, top]), GRID)) == [
        "............/............/............/............/............/##..........",
        "............/............/............/............/............/.........###",
        "##........../............/............/............/............/............",
        ".........###/............/............/............/............/............",
    ]


def test_a_whole_region_and_none_at_all_stay_as_they_are() -> None:
    full = draw("............", "....###.....", *["............"] * 4)
    assert torch.equal(split_components(full, GRID), full)
    speck = draw("....#.......", *["............"] * 5)
    assert torch.equal(split_components(speck, GRID), speck)
    empty = torch.zeros(0, 72)
    assert split_components(empty, GRID).shape == (0, 72)
