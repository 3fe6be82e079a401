"""Read LIBERO's tasks, and what their pictures show, as samples; none of its files is ours.

Liu et al. 2023, https://arxiv.org/abs/2306.03310. A task is a BDDL file: the things in the scene
and the goal, such as (On akita_black_bowl_1 plate_1): what the sentence means. LIBERO's
own simulator draws the scene (libero_worker.py), in an environment of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, Union

import numpy as np

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.errors import DatasetError
from siglip_perception.evaluation.samples import Question, Sample, Truth
from siglip_perception.types import Box, UInt8Array
from siglip_perception.util.files import read_regular
from siglip_perception.util.progress import progress

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
"""LIBERO's own suites, 130 tasks; folders of other names are variants of these."""
SIZE = 480
"""Height and width of the pictures in pixels."""
_MAX_BYTES = 1 << 20
_MIN_AREA = 0.0012
"""Share of the picture below which a thing is not asked for, as in this project's own scenes."""
_FIXED = ("table", "floor", "kitchen_table", "living_room_table", "study_table", "coffee_table")
_PHRASES = {
    "akita_black_bowl": "black bowl",
    "basket": "basket",
    "black_book": "black book",
    "chefmate_8_frypan": "frying pan",
    "cookies": "cookie box",
    "cream_cheese": "cream cheese box",
    "desk_caddy": "caddy",
    "flat_stove": "stove",
    "glazed_rim_porcelain_ramekin": "ramekin",
    "new_salad_dressing": "salad dressing",
    "porcelain_mug": "white mug",
    "red_coffee_mug": "red mug",
    "white_yellow_mug": "yellow and white mug",
    "wooden_two_layer_shelf": "shelf",
}
"""Names in LIBERO's sentences of categories that are called after a product."""
_TOKEN = re.compile(r"[()]|[^\s()]+")
_COMMENT = re.compile(r";.*")
Expression: TypeAlias = Union[str, "list[Expression]"]


class LiberoError(DatasetError):
    """LIBERO's files, or its simulator, cannot be used."""


@dataclass(frozen=True)
class Task:
    """One task. things: its objects and fixtures by name ("plate_1") with their category.

    targets, places: names of the things that the goal moves or changes, and where it puts them.
    """

    path: Path
    sentence: str
    things: dict[str, str]
    targets: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its suite and file, as the drawn picture has it."""
        return f"{self.path.parent.name}--{self.path.stem}"


@dataclass(frozen=True)
class Scene:
    """A drawn task. image: RGB, upright. boxes: of the named things that are in view."""

    task: Task
    sample: Sample
    boxes: dict[str, Box]


def find_tasks(folder: Path, count: int) -> list[Task]:
    """Read `count` tasks, of each suite in turn, from LIBERO's folder or one that contains it.

    Raises LiberoError.
    """
    candidates = (folder, folder / "libero" / "libero", folder / "libero")
    root = next((path for path in candidates if (path / "bddl_files").is_dir()), None)
    if root is None:
        raise LiberoError(
            f"{folder} has no folder bddl_files: name LIBERO's, libero/libero in its clone or in"
            " its package."
        )
    suites = [deque(sorted((root / "bddl_files" / suite).glob("*.bddl"))) for suite in SUITES]
    if not any(suites):
        raise LiberoError(
            f"{root / 'bddl_files'} has none of LIBERO's suites: {SUITES[0]} and so on."
        )
    paths: list[Path] = []
    while len(paths) < count and any(suites):
        paths += [suite.popleft() for suite in suites if suite]
    return [read_task(path) for path in paths[:count]]


def read_task(path: Path) -> Task:
    """Read a BDDL file; raises LiberoError."""
    try:
        text = read_regular(path, _MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise LiberoError(f"{path} cannot be read ({error}).") from error
    return parse_task(text, path)


def parse_task(text: str, path: Path) -> Task:
    """Read a task's text; raises LiberoError."""
    sections: dict[str, list[Expression]] = {}
    for expression in _parse(text, path):
        for part in expression if isinstance(expression, list) else []:
            if isinstance(part, list) and part and isinstance(part[0], str):
                sections.setdefault(part[0], part[1:])
    things = {
        **_declared(sections.get(":fixtures", [])),
        **_declared(sections.get(":objects", [])),
    }
    predicates = list(_predicates(sections.get(":goal", [])))
    if not things or not predicates:
        raise LiberoError(f"{path} has no :objects or no :goal: it is no LIBERO task.")
    moves = [arguments for arguments in predicates if len(arguments) == 2] or predicates
    targets = _names([arguments[0] for arguments in moves], things)
    places = _names([arguments[1] for arguments in moves if len(arguments) == 2], things)
    return Task(path, sentence_of(path.stem), things, targets, places)


def sentence_of(stem: str) -> str:
    """Read the sentence in a file's name, which is what LIBERO gives to policies.

    The :language inside the file may differ ("Pick the akita black bowl ...").
    """
    return re.sub(r"^[A-Z_]*SCENE\d+_", "", stem).replace("_", " ")


def _parse(text: str, path: Path) -> list[Expression]:
    root: list[Expression] = []
    stack = [root]
    for token in _TOKEN.findall(_COMMENT.sub("", text)):
        if token == "(":
            inner: list[Expression] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token != ")":
            stack[-1].append(token)
        elif len(stack) > 1:
            stack.pop()
        else:
            raise LiberoError(f"{path} closes a parenthesis that it has not opened.")
    if len(stack) > 1:
        raise LiberoError(f"{path} ends within a parenthesis: it is cut off.")
    return root


def _declared(section: Sequence[Expression]) -> dict[str, str]:
    """Read declarations such as `plate_1 plate_2 - plate`."""
    things: dict[str, str] = {}
    names: list[str] = []
    words = iter([word for word in section if isinstance(word, str)])
    for word in words:
        if word == "-":
            category = next(words, "")
            things.update(dict.fromkeys(names, category))
            names = []
        else:
            names.append(word)
    return things


def _predicates(section: Sequence[Expression]) -> Iterator[list[str]]:
    """Yield the arguments of each predicate, however deep in And and the like."""
    for part in section:
        if not isinstance(part, list):
            continue
        words = [word for word in part if isinstance(word, str)]
        if len(words) == len(part) and len(words) > 1:
            yield words[1:]
        else:
            yield from _predicates(part)


def _names(arguments: Sequence[str], things: dict[str, str]) -> tuple[str, ...]:
    """Find the things of arguments, which may be a part of one: plate_1, stove_1_cook_region."""
    names = []
    for argument in arguments:
        fits = [name for name in things if argument == name or argument.startswith(f"{name}_")]
        if fits and things[max(fits, key=len)] not in _FIXED:
            names.append(max(fits, key=len))
    return tuple(dict.fromkeys(names))


def phrase_of(category: str) -> str:
    """Return a category's plain name, as LIBERO's sentences have it."""
    return _PHRASES.get(category, category.replace("_", " "))


def draw(
    tasks: Sequence[Task], folder: Path, python: Path, seed: int, report: SkipReport
) -> list[Scene]:
    """Have LIBERO's simulator draw what `folder` does not have yet, and read all of it.

    python: of the environment that has LIBERO. Raises LiberoError if it cannot draw at all; tasks
    that cannot be drawn are reported.
    """
    target = folder / f"seed-{seed}"
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LiberoError(f"Cannot write to {target} ({error.strerror}).") from error
    missing = [task for task in tasks if not (target / f"{task.name}.npz").is_file()]
    if missing:
        _run_worker(missing, target, python, seed, report)
    phrases = sorted(
        {
            phrase_of(category)
            for task in tasks
            for category in task.things.values()
            if category not in _FIXED
        }
    )
    scenes = []
    for number, task in enumerate(tasks):
        path = target / f"{task.name}.npz"
        if path.is_file():
            scenes.append(_read_scene(task, path, phrases, np.random.default_rng((seed, number))))
    if not scenes:
        raise LiberoError(f"None of {len(tasks)} tasks could be drawn: {report.first()}.")
    return scenes


def _run_worker(
    tasks: Sequence[Task], folder: Path, python: Path, seed: int, report: SkipReport
) -> None:
    worker = Path(__file__).with_name("libero_worker.py")
    by_path = {str(task.path.resolve()): task for task in tasks}
    variables = {"MUJOCO_GL": "egl", **os.environ}
    # The shared library of ROS and this package are not for the other environment.
    for name in ("PYTHONPATH", "PYTHONHOME"):
        variables.pop(name, None)
    command = [str(python), str(worker), str(folder.resolve()), str(SIZE), str(seed), *by_path]
    tell = progress(sys.stderr, "task")
    with (
        tempfile.TemporaryDirectory(prefix="libero-") as config,
        tempfile.TemporaryFile("w+") as log,
    ):
        _write_config(tasks[0].path.parents[2], Path(config), variables)
        try:
            process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        except OSError as error:
            raise LiberoError(
                f"{python} cannot be run ({error.strerror}): name a Python by --libero-python."
            ) from error
        try:
            for count, line in enumerate(process.stdout or (), 1):
                event = json.loads(line)
                if event["error"]:
                    report.skip("not drawn", by_path[event["task"]].name, event["error"])
                tell(count, len(tasks))
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    if code:
        raise LiberoError(
            f"{python} cannot draw LIBERO's scenes ({lines[-1] if lines else code}): name the"
            " Python of the environment that has LIBERO by --libero-python."
        )


def _write_config(root: Path, folder: Path, variables: dict[str, str]) -> None:
    """Tell LIBERO where its files are: without it, the first import asks on the terminal."""
    is_configured = "LIBERO_CONFIG_PATH" in variables or Path.home().joinpath(".libero").is_dir()
    if is_configured or not (root / "assets" / "scenes").is_dir():
        return
    paths = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": root / "assets",
    }
    lines = "".join(f"{name}: {json.dumps(str(path))}\n" for name, path in paths.items())
    (folder / "config.yaml").write_text(lines, encoding="utf-8")
    variables["LIBERO_CONFIG_PATH"] = str(folder)


def _read_scene(task: Task, path: Path, phrases: Sequence[str], rng: np.random.Generator) -> Scene:
    try:
        with np.load(path) as arrays:
            image: UInt8Array = arrays["image"]
            instances, names = arrays["instances"], [str(name) for name in arrays["names"]]
    except (OSError, ValueError, KeyError) as error:
        raise LiberoError(f"{path} cannot be read ({error}): delete it.") from error
    truths: dict[str, list[Truth]] = {}
    boxes: dict[str, Box] = {}
    unsure: set[str] = set()
    for index, name in enumerate(names):
        category = task.things.get(name)
        if category is None or category in _FIXED:
            continue  # the robot
        mask = (instances == index).astype(np.uint8)
        if mask.mean() < _MIN_AREA:
            unsure.add(phrase_of(category))
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        boxes[name] = Box(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
        truths.setdefault(phrase_of(category), []).append(Truth(boxes[name], mask, None))
    present = {phrase_of(category) for category in task.things.values()}
    absent = [phrase for phrase in phrases if phrase not in present]
    chosen = rng.permutation(len(absent))[: len(truths)]
    questions = [Question(phrase, "en", tuple(items)) for phrase, items in truths.items()]
    questions += [Question(absent[index], "en", ()) for index in chosen]
    sample = Sample(
        task.name, image, len(boxes), tuple(questions), unsure=frozenset(unsure - set(truths))
    )
    return Scene(task, sample, boxes)
