"""A missing package is reported in one sentence, with a command, before any work."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from siglip_perception.commands import main
from siglip_perception.errors import BackendError, PerceptionError
from siglip_perception.util import requirements

ROOT = Path(__file__).resolve().parents[2]


def declare(monkeypatch: pytest.MonkeyPatch, *requires: str) -> None:
    """Fake the metadata of this package's installation."""
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(requires))


def test_the_command_has_the_bounds_and_the_smallest_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(
        monkeypatch,
        "torch>=2.6",
        'peft>=0.17; extra == "test"',
        'pytest>=7.4; extra == "test"',
        'types-x; extra == "test"',
        'peft>=0.17; extra == "train"',
        'tensorboard; extra == "train"',
        'timm>=1.0; extra == "timm"',
    )
    assert requirements.install_command("peft") == (
        "pip install 'peft>=0.17', or in a clone pip install '.[train]'"
    )
    assert requirements.install_command("timm") == "pip install --no-deps 'timm>=1.0'"
    assert requirements.install_command("torch") == "pip install 'torch>=2.6'"
    assert requirements.install_command("cv2") == "pip install opencv-python-headless"


def test_what_is_required_is_named_with_its_use() -> None:
    requirements.require("This", "json", "numpy")
    with pytest.raises(
        BackendError,
        match=r"^This needs no_a, no_b and no_c, not installed here: pip install no_a no_b no_c\.",
    ):
        requirements.require("This", "json", "no_a", "no_b", "no_c", kind=BackendError)


def test_a_mere_folder_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_msgs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not requirements.is_there("some_msgs")
    (tmp_path / "some_msgs" / "__init__.py").touch()
    assert requirements.is_there("some_msgs")


def test_missing_and_old_distributions_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(
        monkeypatch,
        "torch>=99",
        "numpy<1,>=0.1",
        "pillow>=1",
        "no-such-package>=2",
        'other; extra == "x"',
        'of-another-python; python_version < "3"',
    )
    monkeypatch.setattr(
        importlib.metadata, "version", {"torch": "2.6.0+cpu", "numpy": "1.26", "pillow": "9"}.get
    )
    monkeypatch.setattr(
        requirements, "installed", lambda name: (name, importlib.metadata.version(name))
    )
    assert dict(requirements.shortcomings()) == {
        "torch": "torch 99 or newer, for the main job (here: 2.6.0+cpu): pip install 'torch>=99'",
        "numpy": "numpy 0.1 or newer, below 1, for the main job (here: 1.26):"
        " pip install 'numpy>=0.1,<1'",
        "no-such-package": "no-such-package, for the main job: pip install 'no-such-package>=2'",
    }


def test_a_distribution_without_metadata_is_asked_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ubuntu's python3-opencv has cv2 but no metadata."""
    (tmp_path / "some_lib.py").write_text("__version__ = '4.6.0'\n")
    (tmp_path / "broken_lib.py").write_text("raise OSError\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert requirements.installed("some-lib") == ("some-lib", "4.6.0")
    assert requirements.installed("broken-lib") == ("broken-lib", None)
    assert requirements.installed("no-such-lib") == ("no-such-lib", None)


def test_a_command_without_a_needed_package_says_so_in_one_line() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from siglip_perception.commands import main;"
        "sys.exit(main.main(['ground', 'docs/images/demo.jpg', 'red cup']))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert process.stderr.startswith(
        "siglip-perception: This needs torch, not installed here: pip"
    )


def test_only_the_packages_own_needs_are_explained() -> None:
    """Any other failed import is a bug and keeps its traceback."""
    assert requirements.explain_import_error(ModuleNotFoundError("x", name="torch.nn")) is not None
    assert (
        requirements.explain_import_error(ModuleNotFoundError("x", name="siglip_perception.x"))
        is None
    )
    assert requirements.explain_import_error(ImportError("x", name="torch")) is None


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("matplotlib", "experiment matrix -o {new}"),
        ("peft", "train --data {here} -o {new} --tune lora"),
        ("tensorboard", "train --data {here} -o {new} --tensorboard"),
        ("tensorboard", "train -o {new} --tensorboard"),
        ("onnx", "export -o {new}"),
        ("onnxscript", "export -o {new}"),
        ("onnx", "export --backend openvino"),
        ("openvino", "export --backend openvino"),
        ("nncf", "export --backend openvino --precision int8 --calibrate {here}"),
        ("openvino", "tokens {image} -o {new} --backend openvino"),
        ("openvino", "ground {image} cup --precision int8"),
        ("timm", "parity --contract openvla-224"),
    ],
)
def test_a_missing_extra_is_said_before_any_work(
    module: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    def worked(*_: object, **__: object) -> None:
        raise AssertionError("weights were read or made")

    monkeypatch.setattr("siglip_perception.encoders.plan.ModelPlan.load", worked)
    monkeypatch.setattr("siglip_perception.parity.random_weights.write_random", worked)
    words = [
        word.format(here=tmp_path, image=image, new=tmp_path / "new") for word in command.split()
    ]
    assert main.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert module in output.err
    assert (
        requirements.install_command(module).partition(",")[0].removeprefix("pip install ")
        in output.err
    )
    assert "siglip_perception[" not in output.err
    assert not (tmp_path / "new").exists()


def test_a_package_that_this_python_is_too_old_for_is_told_with_the_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, 'no_a>=3; python_version >= "3.11" and extra == "robot"')
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "10", "4"))
    with pytest.raises(
        PerceptionError,
        match=r"^This needs no_a, which needs Python 3\.11 or newer, and this is 3\.10: ",
    ):
        requirements.require("This", "no_a")
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "11", "0"))
    with pytest.raises(PerceptionError, match=r"not installed here: pip install 'no_a>=3'"):
        requirements.require("This", "no_a")
