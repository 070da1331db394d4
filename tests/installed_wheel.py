"""A wheel of this checkout in an environment of its own, that sees what it depends on but not the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("larstore", "preprocess", "train", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 280


def call(command: list[object], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, without the variables that lead to the checkout or to data; it must exit 0."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LARSTORE_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=plain | env, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done


def build_wheel(folder: Path) -> Path:
    """``python -m build --wheel`` of a copy of the sources: nothing is left in the checkout."""
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, copy / name)
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", copy], folder)
    shutil.rmtree(copy)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Its new environment's folder of programs. What pip would fetch is linked from that of the tests."""
    packages = folder / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(("larstore", "__editable__")) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    call([*pip, "--no-deps", "--no-index", "--disable-pip-version-check", wheel], folder)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{packages}\n")
    return environment / "bin"
