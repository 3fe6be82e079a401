"""Probing in a child process: whatever becomes of the child, a sentence comes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from siglip_perception.backends.tensorrt import probe as module
from siglip_perception.backends.tensorrt.probe import TensorRTStatus, probe, run_probe

FAKE = Path(__file__).parent / "fake_tensorrt"
HANG = (
    "import threading\n"
    'print(\'{"doing": "it looked for a GPU"}\', flush=True)\n'
    "threading.Event().wait()"
)


def run(script: str, seconds: float = 60.0) -> TensorRTStatus:
    return run_probe([sys.executable, "-c", script], seconds)


@pytest.fixture
def fresh() -> Iterator[None]:
    probe.cache_clear()
    yield
    probe.cache_clear()


def test_what_is_printed_is_what_was_found() -> None:
    actual = run(
        'print(\'{"doing": "it loaded tensorrt"}\')\n'
        "print('[TRT] talk of a library')\n"
        'print(\'{"module": "tensorrt", "version": "10.3.0", "builds": true, "other": 1}\')\n'
    )
    assert actual == TensorRTStatus(module="tensorrt", version="10.3.0", builds=True)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
        ("os.abort()", "was ended by SIGABRT"),
        ("sys.exit(3)", "failed with status 3"),
    ],
)
def test_a_crash_is_a_sentence_and_keeps_what_was_found(end: str, how: str) -> None:
    actual = run(
        "import os, resource, signal, sys\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        'print(\'{"module": "tensorrt", "version": "9"}\')\n'
        'print(\'{"doing": "it made a Runtime"}\', flush=True)\n'
        f"{end}"
    )
    assert (actual.module, actual.version, actual.runs) == ("tensorrt", "9", False)
    assert actual.trouble == (
        f"TensorRT cannot be used: the process that probes it {how} when it made a Runtime; the"
        " driver and TensorRT have to fit each other, or use backend: torch."
    )


def test_a_hang_is_a_sentence() -> None:
    actual = run(HANG, 2.0)
    assert "did not end in 2 s when it looked for a GPU" in actual.trouble


def test_a_python_that_is_gone_is_a_sentence() -> None:
    assert "cannot be probed (No such file" in run_probe(["/nowhere/python"], 5.0).trouble


@pytest.mark.usefixtures("fresh")
def test_without_tensorrt_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODULES", ("no_such_tensorrt",))
    monkeypatch.setattr(module, "run_probe", lambda *_: pytest.fail("a process was started"))
    assert probe().trouble.startswith("TensorRT is not installed: ")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("fault", "builds", "trouble"),
    [
        ("", True, "" if torch.cuda.is_available() else "PyTorch sees none: check nvidia-smi"),
        ("crash on load", False, "was ended by SIGSEGV when it loaded tensorrt"),
    ],
)
def test_the_real_probe_of_a_tensorrt(
    monkeypatch: pytest.MonkeyPatch, fault: str, builds: bool, trouble: str
) -> None:
    monkeypatch.syspath_prepend(str(FAKE))
    path = os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    monkeypatch.setenv("FAKE_TENSORRT", fault)
    actual = probe()
    assert (actual.module, actual.version, actual.builds) == ("tensorrt", "10.3.0", builds)
    assert trouble in actual.trouble
    assert probe() is actual


def test_the_driver_is_what_the_kernel_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\nGCC version:\n"
    )
    monkeypatch.setattr(module, "_DRIVER", file)
    assert module.driver() == "NVIDIA UNIX x86_64 Kernel Module 570.86.15 Thu"
    monkeypatch.setattr(module, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert module.driver() == ""
