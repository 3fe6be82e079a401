"""Make the Python environment in which everything runs; `make env` calls this.

It builds on a ROS 2 that is already sourced; otherwise ROS 2 comes as wheels from PyPI. Only steps
whose inputs changed run again. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)
# The newest Python for which ROS 2 is on PyPI. A sourced ROS 2 brings its own.
NEWEST_OF_WHEELS = (3, 13)
PACKAGE = "siglip_perception"
MESSAGES = "siglip_perception_msgs"
PROGRAMS = ("perception_node", "example_policy")
HEARTBEAT_S = 20.0


class SetupError(Exception):
    """Something that the user must fix; the text is one sentence that says how."""


@dataclass(frozen=True)
class Place:
    """Folder of the environment, and the ROS 2 that it builds on.

    sourced: prefixes of the ROS 2 sourced in this shell; empty for wheels.
    """

    venv: Path
    sourced: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.venv / "lib" / version / "site-packages"

    @property
    def ros(self) -> str:
        if not self.sourced:
            return "ROS 2 Jazzy from PyPI"
        return f"the sourced ROS 2 {os.environ.get('ROS_DISTRO', '')}".rstrip()


def say(text: str) -> None:
    print(text, flush=True)


def leave(venv: Path) -> None:
    """Go on in the Python below the environment if this is the environment's own.

    A shell in which it is active runs that one as python3, and it would delete itself.
    """
    if Path(sys.prefix).resolve() == venv.resolve():
        base = str(Path(sys.executable).resolve())
        os.execv(base, [base, *sys.argv])


def find_ros() -> tuple[str, ...]:
    """List the prefixes of the ROS 2 sourced in this shell; empty if there is none."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # An environment of `make env`, this clone's or another's, is no ROS 2 to build on.
    sourced = tuple(p for p in prefixes if not Path(p, "pyvenv.cfg").is_file())
    if not sourced:
        return ()
    if _fails("import rclpy.node"):
        raise SetupError(
            f"A ROS 2 is sourced ({sourced[0]}), but {sys.executable} cannot import its rclpy:"
            " name the Python of that ROS 2, as in `make PYTHON=/usr/bin/python3`, or use a shell"
            " in which no ROS 2 is sourced."
        )
    if _fails("import rclpy.node; rclpy.node.Node.add_post_set_parameters_callback"):
        raise SetupError(
            f"The ROS 2 that is sourced ({sourced[0]}) is older than Jazzy, and lacks what the"
            " node needs: source a newer one, or use a shell in which no ROS 2 is sourced."
        )
    return sourced


def _fails(code: str) -> bool:
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


def check_machine(place: Place) -> None:
    version = sys.version_info[:2]
    if version < OLDEST:
        raise SetupError(
            f"Python {platform.python_version()} is too old: name one of 3.10 or newer, as in"
            " `make PYTHON=python3.12`."
        )
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        raise SetupError(
            f"{sys.executable} has no venv module, in which all is installed: install it, as in"
            f" `sudo apt install python{version[0]}.{version[1]}-venv`."
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++")):
        raise SetupError(
            "There is no C++ compiler, which the ROS 2 messages need: install one, as in"
            " `sudo apt install g++`."
        )
    if place.sourced:
        if shutil.which("cmake") is None:
            raise SetupError(
                "There is no cmake, which the ROS 2 messages need: install it, as in"
                " `sudo apt install cmake`."
            )
        return
    if version > NEWEST_OF_WHEELS:
        raise SetupError(
            f"ROS 2 is on PyPI for Python 3.10 to 3.13, and this is {platform.python_version()}:"
            " name one of these, as in `make PYTHON=python3.12`, or source a ROS 2 of your"
            " distribution and run make again."
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            "ROS 2 comes from PyPI for x86-64 Linux only, and this is"
            f" {platform.system()} on {platform.machine()}: install ROS 2, source its setup.bash"
            " and run make again."
        )


def child_environment(place: Place) -> dict[str, str]:
    environment = dict(os.environ)
    # Set by the ROS wheels of another environment; inherited, it hides the libraries of this one.
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    environment["PATH"] = f"{place.venv / 'bin'}{os.pathsep}{environment['PATH']}"
    if not place.sourced:
        environment["AMENT_PREFIX_PATH"] = str(place.venv)
        environment["CMAKE_PREFIX_PATH"] = str(place.venv)
        environment.pop("PYTHONPATH", None)
    return environment


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return next((line.strip()[:70] for line in reversed(lines) if line.strip()), "")


def run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run a command with its output in a log; report now and then that it still runs."""
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as sink:
        sink.write(f"$ {shlex.join(command)}\n")
        sink.flush()
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    say(f"      {time.monotonic() - start:4.0f} s  {last_line(log)}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        say(f"{tail}\n")
        raise SetupError(f"That step failed (exit code {code}); the whole log is in {log}.")


def make_venv(place: Place, log: Path) -> None:
    command = [sys.executable, "-m", "venv", "--clear"]
    if place.sourced:
        # apt's Python packages, which the message generators of a sourced ROS 2 import.
        command.append("--system-site-packages")
    run([*command, str(place.venv)], log, child_environment(place))


def constraints(place: Place) -> str:
    """Return the pins to use. On a sourced ROS 2, packages that its Python has stay unchanged.

    Its compiled messages fit only the numpy that they were built with, and OpenCV must fit numpy.
    """
    text = (ROOT / "constraints.txt").read_text()
    if not place.sourced:
        return text
    query = (
        "import importlib.metadata as m, json, numpy;"
        "print(json.dumps([numpy.__version__, [d.metadata['Name'] for d in m.distributions()]]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", query], capture_output=True, text=True, check=True
    )
    numpy_version, names = json.loads(answer.stdout)
    present = {re.sub(r"[-_.]+", "-", name).lower() for name in names if name}
    present |= {"numpy", "opencv-python-headless"}
    pins = [line for line in text.splitlines() if line.partition("==")[0] not in present]
    return "\n".join([*pins, f"numpy=={numpy_version}", ""])


def install(place: Place, log: Path, pip_arguments: Sequence[str]) -> None:
    pins = place.venv / "constraints.txt"
    pins.write_text(constraints(place))
    extras = "test,openvino,experiments,robot,features,view,docs" + (
        "" if place.sourced else ",ros"
    )
    if not place.sourced or shutil.which("colcon") is None:
        extras += ",colcon"
    command = [str(place.python), "-m", "pip", "install", "--progress-bar=off"]
    command += ["--disable-pip-version-check", f"--constraint={pins}", *pip_arguments]
    environment = child_environment(place)
    run([*command, "setuptools>=70.1,<80"], log, environment)
    run([*command, "--no-build-isolation", "--editable", f".[{extras}]"], log, environment)
    # The tests compare with these. They require torchvision, which may not exist for this
    # PyTorch, and which the tests do not need.
    run([*command, "--no-deps", "open_clip_torch", "timm"], log, environment)


def build_messages(place: Place, log: Path) -> None:
    build = place.venv / "build" / MESSAGES
    shutil.rmtree(build, ignore_errors=True)
    environment = child_environment(place)
    configure = ["cmake", "-S", MESSAGES, "-B", str(build)]
    if shutil.which("ninja", path=environment["PATH"]):
        configure += ["-G", "Ninja"]
    configure += [
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_INSTALL_PREFIX={place.venv}",
        "-DBUILD_TESTING=OFF",
        f"-DPython3_EXECUTABLE={place.python}",
        f"-DPYTHON_INSTALL_DIR={place.site_packages.relative_to(place.venv)}",
        f"-DCMAKE_PROJECT_INCLUDE={ROOT / 'cmake' / 'wheelfix.cmake'}",
    ]
    run(configure, log, environment)
    run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count())], log, environment)
    run(["cmake", "--install", str(build)], log, environment)
    shutil.rmtree(build)


def link_package(place: Place) -> None:
    """Link programs and launch files to where `ros2 run` and `ros2 launch` look for them.

    An editable install omits them; links follow the sources.
    """
    prefix = place.venv
    links = {prefix / "lib" / PACKAGE / name: prefix / "bin" / name for name in PROGRAMS}
    for name in ("launch", "config", "package.xml"):
        links[prefix / "share" / PACKAGE / name] = ROOT / name
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    links[index / PACKAGE] = ROOT / "resource" / PACKAGE
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def write_ros_script(place: Place) -> None:
    """Write the script that a shell sources before running anything with ROS 2 from here."""
    lines = ["unset _ROS_WHEELS_BOOTSTRAP_COMPLETE", f"export AMENT_PREFIX_PATH={place.venv}"]
    if place.sourced:
        variables = {
            "AMENT_PREFIX_PATH": f"{place.venv}",
            "LD_LIBRARY_PATH": f"{place.venv}/lib",
            "PYTHONPATH": f"{ROOT}:{place.site_packages}",
        }
        lines = [f'export {n}="{value}${{{n}:+:${n}}}"' for n, value in variables.items()]
    (place.venv / "ros.sh").write_text("\n".join(lines) + "\n")


def digest(texts: Iterable[str], files: Iterable[Path] = ()) -> str:
    sha = hashlib.sha256()
    for text in texts:
        sha.update(text.encode() + b"\0")
    for path in sorted(files):
        sha.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def step_digests(place: Place, pip_arguments: Sequence[str]) -> dict[str, str]:
    """Compute a digest of each step's inputs; a step whose digest is on disk is done."""
    # By whatever name or environment the interpreter was called.
    executable = Path(sys.executable).resolve()
    python = digest([str(ROOT), sys.version, str(executable), str(bool(place.sourced))])
    packages = digest(
        [python, *pip_arguments],
        [Path(__file__).resolve()]
        + [ROOT / name for name in ("setup.py", "setup.cfg", "constraints.txt")],
    )
    sources = [*(ROOT / MESSAGES).rglob("*"), ROOT / "cmake" / "wheelfix.cmake"]
    messages = digest([packages, *place.sourced], filter(Path.is_file, sources))
    return {"python": python, "packages": packages, "messages": messages}


def prepare(venv: Path, pip_arguments: Sequence[str]) -> None:
    """Bring the environment up to date.

    Raises SetupError, one sentence, if the user must do something first.
    """
    place = Place(venv, find_ros())
    check_machine(place)
    stamps = venv / "stamps"
    digests = step_digests(place, pip_arguments)

    def is_due(step: str) -> bool:
        stamp = stamps / step
        return not stamp.is_file() or stamp.read_text() != digests[step]

    if not any(is_due(step) for step in digests):
        return
    log = ROOT / "log" / "environment.log"
    log.unlink(missing_ok=True)
    if is_due("python"):
        say(f"[1/3] A Python {platform.python_version()} environment, on {place.ros}")
        make_venv(place, log)
        stamps.mkdir()
        (stamps / "python").write_text(digests["python"])
    if is_due("packages"):
        say("[2/3] Packages from PyPI; the first time this takes minutes, as PyTorch is large")
        install(place, log, pip_arguments)
        link_package(place)
        write_ros_script(place)
        (stamps / "packages").write_text(digests["packages"])
    if is_due("messages"):
        say("[3/3] The ROS 2 messages")
        build_messages(place, log)
        (stamps / "messages").write_text(digests["messages"])
    say(f"The environment is ready; the log is {log.relative_to(ROOT)}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--pip-args", default="", help="further arguments for pip install")
    arguments = parser.parse_args()
    leave(arguments.venv)
    try:
        prepare(arguments.venv.absolute(), shlex.split(arguments.pip_args))
    except SetupError as error:
        print(f"make env: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make env: interrupted; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
