"""Instructions of the user's own: what the scene then has in it, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from siglip_perception.errors import PerceptionError
from siglip_perception.robot.episodes import sample_episode
from siglip_perception.robot.orders import read_order, read_orders


def test_the_scene_has_what_the_user_names(tmp_path: Path) -> None:
    path = tmp_path / "orders.txt"
    path.write_text(
        "# mine\n\nput the red cup on the blue plate\n노란 바나나를 책 위에 올려 놔\n",
        encoding="utf-8",
    )
    orders = read_orders(path)
    assert [order.language for order in orders] == ["en", "ko"]
    for number in range(8):
        episode = sample_episode(number, 1, orders)
        assert episode.expected == "act"
        assert episode.instruction == orders[number % 2].instruction
        items = [(item.color, item.kind) for item in episode.items]
        target = ("red", "cup") if number % 2 == 0 else ("yellow", "banana")
        assert items[1] == target
        assert items.count(target) == 1
        if number % 2 == 0:
            assert items[0] == ("blue", "plate")
        else:
            assert items[0][1] == "book"
        assert len({color for color, _ in items}) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pick up the red cup", 'names "red cup", and the simulated arm takes one block'),
        ("put the teapot on the plate", 'names "teapot", "plate"'),
        ("put the red cup on the table", "puts it on a plate or book"),
        ("hello", "write, for example"),
        ("put the red cup on the red plate", "two things of one color"),
    ],
)
def test_an_order_that_the_arm_cannot_follow_is_refused(text: str, words: str) -> None:
    with pytest.raises(PerceptionError, match=f"^--instruction: .*{words}"):
        read_order(text)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"# nothing\n", "has no instruction: write one a line"),
        (b"put the red cup on the plate\nsing\n", "orders.txt, line 2: "),
    ],
)
def test_a_file_of_orders_that_cannot_be_used_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "orders.txt"
    path.write_bytes(data)
    with pytest.raises(PerceptionError, match=words):
        read_orders(path)
