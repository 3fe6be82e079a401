"""The engine cache: what is in it is whole and its owner's, whoever else builds, fails or dies."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.backends.base.cache import EngineCache
from siglip_perception.errors import BackendError, CacheError

FACTS = {"kind": "test", "weights": "f00d"}
# Announces itself in the middle of a build, and stays there.
HALF_WAY = """
import sys
from pathlib import Path
from siglip_perception.backends.base.cache import EngineCache

def make(folder):
    (folder / "engine").write_bytes(bytes(1000))
    print("half way", flush=True)
    sys.stdin.read()

EngineCache(Path(sys.argv[1])).build({"kind": "test", "weights": "f00d"}, make)
"""


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "siglip_perception" / "engines")


def write(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "engine").write_bytes(content)

    return make


def names(cache: EngineCache) -> list[str]:
    """Entries, whole or put aside; no locks."""
    return sorted(path.name for path in cache.folder.iterdir() if path.suffix != ".lock")


facts = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


@given(facts, facts)
def test_an_entry_is_that_of_its_facts_alone(item: dict[str, str], second: dict[str, str]) -> None:
    cache = EngineCache(Path("/cache"))
    assert (cache.path_of(item) == cache.path_of(second)) == (item == second)
    assert cache.path_of(dict(reversed(item.items()))) == cache.path_of(item)


def test_what_is_built_is_found_by_its_facts_and_is_its_owners_alone(cache: EngineCache) -> None:
    assert cache.get(FACTS) is None
    place = cache.build(FACTS, write(b"whole"))
    assert cache.get(FACTS) == place
    assert cache.get({**FACTS, "weights": "other"}) is None
    assert (place / "engine").read_bytes() == b"whole"
    for folder in (cache.folder, place):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_there_is_not_built_again(cache: EngineCache) -> None:
    first = cache.build(FACTS, write(b"first"))
    assert cache.build(FACTS, write(b"second")) == first
    assert (first / "engine").read_bytes() == b"first"


def truncate(place: Path) -> None:
    os.truncate(place / "engine", 3)


def change_a_byte(place: Path) -> None:
    data = (place / "engine").read_bytes()
    (place / "engine").write_bytes(bytes([data[0] ^ 1]) + data[1:])


def lose(place: Path) -> None:
    (place / "engine").unlink()


def lose_the_digests(place: Path) -> None:
    (place / "digests.json").unlink()


def break_the_digests(place: Path) -> None:
    (place / "digests.json").write_text("[")


def empty_the_digests(place: Path) -> None:
    (place / "digests.json").write_text("{}")


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        change_a_byte,
        lose,
        lose_the_digests,
        break_the_digests,
        empty_the_digests,
    ],
)
def test_what_is_broken_is_put_aside_and_built_anew(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    place = cache.build(FACTS, write(b"whole"))
    harm(place)
    assert cache.get(FACTS) is None
    assert "is put aside" in caplog.text
    assert names(cache) == [place.name + ".bad"]
    assert cache.build(FACTS, write(b"anew")) == place
    assert (place / "engine").read_bytes() == b"anew"
    assert cache.get(FACTS) == place


def test_a_second_broken_entry_takes_the_place_of_the_first(cache: EngineCache) -> None:
    for content in (b"first", b"second"):
        place = cache.build(FACTS, write(content))
        cache.quarantine(FACTS, "a test")
    assert names(cache) == [place.name + ".bad"]
    assert (place.with_name(place.name + ".bad") / "engine").read_bytes() == b"second"


def test_a_build_that_fails_leaves_nothing(cache: EngineCache) -> None:
    def make(folder: Path) -> None:
        (folder / "engine").write_bytes(b"half")
        raise BackendError("No engine.")

    with pytest.raises(BackendError, match=r"^No engine\.$"):
        cache.build(FACTS, make)
    assert names(cache) == []
    assert cache.get(FACTS) is None


def test_of_those_that_want_the_same_one_builds(cache: EngineCache) -> None:
    start, go_on = threading.Event(), threading.Event()
    builds: list[int] = []

    def make(folder: Path) -> None:
        builds.append(1)
        start.set()
        assert go_on.wait(60)
        write(b"whole")(folder)

    places: list[Path] = []
    # A lock is an open file's, so threads keep each other out as processes do.
    threads = [
        threading.Thread(target=lambda: places.append(cache.build(FACTS, make))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert start.wait(60)
    # Another entry is not held up.
    cache.build({"kind": "other"}, write(b"other"))
    assert not places
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert places == [cache.path_of(FACTS)] * 4
    assert builds == [1]


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_build_leaves_nothing_half_made(cache: EngineCache) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half way\n"
        assert cache.get(FACTS) is None
        places: list[Path] = []
        waiting = threading.Thread(
            target=lambda: places.append(cache.build(FACTS, write(b"whole")))
        )
        waiting.start()
        assert not places
        child.send_signal(signal.SIGKILL)
    # Its lock ends with it, and the next one clears away what it left.
    waiting.join(60)
    assert places == [cache.path_of(FACTS)]
    assert (places[0] / "engine").read_bytes() == b"whole"
    assert names(cache) == [places[0].name]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = EngineCache(tmp_path / "file" / "engines")
    assert cache.get(FACTS) is None
    with pytest.raises(BackendError, match=r"cannot be written \(Not a directory\): make room or"):
        cache.build(FACTS, write(b"whole"))


def test_a_read_only_folder_is_told(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(BackendError, match=r"\(Read-only file system\)") as messages:
        cache.build(FACTS, write(b"whole"))
    assert "\n" not in str(messages.value)
    with pytest.raises(BackendError, match=r"\(Read-only file system\)"), cache.scratch(FACTS):
        pass


def test_a_full_disk_is_told_and_leaves_nothing(cache: EngineCache) -> None:
    def make(folder: Path) -> None:
        write(b"whole")(folder)
        Path("/dev/full").write_bytes(b"more")

    with pytest.raises(BackendError, match=r"\(No space left on device\): make room"):
        cache.build(FACTS, make)
    assert names(cache) == []


def test_others_lose_their_right_to_read(cache: EngineCache) -> None:
    place = cache.build(FACTS, write(b"whole"))
    cache.folder.chmod(0o755)
    assert cache.get(FACTS) == place
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused_and_not_repaired(
    cache: EngineCache, mode: int
) -> None:
    cache.build(FACTS, write(b"whole"))
    cache.folder.chmod(mode)
    with pytest.raises(CacheError, match=f"may be written by others .mode {mode:o}"):
        cache.get(FACTS)
    with pytest.raises(CacheError, match=f"may be written by others .mode {mode:o}"):
        cache.build(FACTS, write(b"mine"))
    assert stat.S_IMODE(cache.folder.stat().st_mode) == mode


def test_a_folder_that_is_a_link_is_refused(cache: EngineCache, tmp_path: Path) -> None:
    cache.build(FACTS, write(b"whole"))
    (tmp_path / "link").symlink_to(cache.folder)
    with pytest.raises(CacheError, match="link is a link to"):
        EngineCache(tmp_path / "link").get(FACTS)


def test_a_lock_that_is_a_link_leaves_what_it_leads_to(cache: EngineCache, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("text")
    cache.folder.mkdir(parents=True, mode=0o700)
    (cache.folder / f".{cache.path_of(FACTS).name}.lock").symlink_to(precious)
    with pytest.raises(CacheError, match="cannot be written"):
        cache.build(FACTS, write(b"whole"))
    assert precious.read_text() == "text"


def add_a_file(place: Path) -> None:
    (place / "more").write_bytes(b"code")


def link_a_file(place: Path) -> None:
    outside = place.parent.parent / "outside"
    (place / "engine").rename(outside)
    (place / "engine").symlink_to(outside)


def open_a_file_to_others(place: Path) -> None:
    (place / "engine").chmod(0o666)


def open_the_entry_to_others(place: Path) -> None:
    place.chmod(0o777)


def put_a_pipe(place: Path) -> None:
    (place / "engine").unlink()
    os.mkfifo(place / "engine")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (add_a_file, "more was put there"),
        (link_a_file, "engine is neither a file nor a folder"),
        (put_a_pipe, "engine is neither a file nor a folder"),
        (open_a_file_to_others, "engine may be written by others"),
        (open_the_entry_to_others, "may be written by others"),
    ],
)
def test_an_entry_that_another_may_have_changed_is_put_aside(
    cache: EngineCache, harm: Callable[[Path], None], reason: str
) -> None:
    place = cache.build(FACTS, write(b"whole"))
    harm(place)
    assert cache.get(FACTS) is None
    assert reason in cache.warnings["engine_rebuilt"]
    assert cache.build(FACTS, write(b"anew")) == place
    assert cache.get(FACTS) == place


def test_an_entry_that_is_a_link_is_put_aside(cache: EngineCache, tmp_path: Path) -> None:
    place = cache.build(FACTS, write(b"whole"))
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert cache.get(FACTS) is None
    assert (tmp_path / "elsewhere" / "engine").exists()
    cache.build(FACTS, write(b"anew"))
    assert not place.is_symlink()


def test_without_a_usable_cache_the_process_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "siglip_perception").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = EngineCache.usable()
    assert "Not a directory" in cache.warnings["cache_off"]
    place = cache.build(FACTS, write(b"whole"))
    assert not place.is_relative_to(tmp_path)
    assert cache.get(FACTS) == place
    cache.discard(FACTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "good"))
    assert EngineCache.usable().warnings == {}


def test_nothing_is_taken_from_another_users_folder(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.build(FACTS, write(b"whole"))
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BackendError, match="belongs to another user"):
        cache.get(FACTS)
    with pytest.raises(BackendError, match="belongs to another user"):
        cache.build(FACTS, write(b"mine"))


def test_scratch_is_gone_afterwards_and_clears_what_a_kill_left(cache: EngineCache) -> None:
    with cache.scratch(FACTS) as work:
        name = work.name.rsplit(".", 1)[0]
        (work / "graph.onnx").write_bytes(b"graph")
    assert names(cache) == []
    first = cache.folder / f"{name}.left"
    first.mkdir()
    (first / "graph.onnx").write_bytes(b"half")
    with cache.scratch(FACTS):
        assert not first.exists()


def test_the_root_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert EngineCache().folder == Path("/some/where/siglip_perception/engines")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/robot")
    assert EngineCache().folder == Path("/home/robot/.cache/siglip_perception/engines")
