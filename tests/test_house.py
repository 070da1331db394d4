"""Rules of the house that a machine can check: which package may import which, and how light the command line is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "larstore": {"larstore"},
    "preprocess": {"larstore", "preprocess"},
    "train": {"larstore", "train"},
}
HEAVY = ("torch", "numba", "dask", "distributed", "lightning", "plotly", "scipy", "h5py", "matplotlib", "pyarrow")


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_arrows_point_downwards(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        forbidden = imported_packages(path) & (set(MAY_IMPORT) - MAY_IMPORT[package])
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_store_package_needs_only_its_own_dependencies():
    for path in sorted((ROOT / "larstore").rglob("*.py")):
        assert not imported_packages(path) & set(HEAVY), path


def test_help_is_light():
    code = (
        "import sys\n"
        "sys.argv = ['larstore', '--help']\n"
        "from larstore.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for command in (
        "closure",
        "detector",
        "export",
        "import-xy",
        "import-points",
        "inspect",
        "preprocess",
        "redownsample",
        "join",
        "status",
        "simulate",
        "train",
        "config",
        "find-lr",
        "overfit",
        "infer",
        "evaluate",
        "solve",
        "calibrate",
        "dqdx",
        "view",
        "browse",
        "demo",
        "info",
        "verify",
        "diff",
        "examples",
    ):
        assert command in done.stdout


@pytest.mark.parametrize("arguments", [["no-such-command"], ["info"], ["info", "--no-such-option"]])
def test_wrong_usage_exits_2(arguments):
    done = subprocess.run([sys.executable, "-m", "larstore.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_store_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "larstore.cli", "info", str(tmp_path / "no.zarr")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no.zarr" in done.stderr
    assert "Fix:" in done.stderr
