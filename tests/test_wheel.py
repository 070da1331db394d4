"""What users install: the wheel does the demo away from the checkout; a store needs the core's dependencies alone."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from larstore.testing import make_store
from tests.installed_wheel import build_wheel, call, install
from train.demo import STATE

ROOT = Path(__file__).parents[1]
PACKAGES = {"larstore", "preprocess", "train"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_does_the_demo(tmp_path):
    wheel = build_wheel(tmp_path)
    names = ZipFile(wheel).namelist()
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.*") if path.is_file()}
    wanted = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert "preprocess/detector/protodune-sp.yaml" in wanted
    assert wanted <= set(names), f"not in the wheel: {wanted - set(names)}. Fix: package-data in pyproject.toml"
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    programs, work = install(wheel, tmp_path), tmp_path / "work"
    work.mkdir()
    where = call([programs / "python", "-c", "import train; print(train.__file__)"], work).stdout
    assert Path(where.strip()).is_relative_to(tmp_path / "environment")
    said = call([programs / "larstore", "--help"], work).stdout
    for command in ("verify", "preprocess", "train", "evaluate"):
        assert f" {command} " in said
    example = (ROOT / "configs" / "small" / "ghost3d.yaml").read_text(encoding="utf-8")
    assert call([programs / "larstore", "examples", "small/ghost3d"], work).stdout == example
    demo = [programs / "larstore", "demo", "--quick", "-o", "demo"]
    assert call(demo, work).stdout == "demo/report.html\n"
    folder = work / "demo"
    summary = json.loads((folder / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    report = (folder / "report.html").read_text(encoding="utf-8")
    for key in ("average_precision", "average_precision_no_cut", "average_precision_plane_agreement"):
        assert f"{summary[key]:.3f}" in report
    for stage in ("simulate", "preprocess", "train", "infer", "evaluate", "view"):
        assert f"larstore {stage} " in report
    assert (folder / "events" / "event.html").exists()
    state = (folder / STATE).read_text(encoding="utf-8")
    assert call(demo, work).stderr.count("(done before)") == 6
    assert (folder / STATE).read_text(encoding="utf-8") == state


def core_distributions() -> set[str]:
    """What `pip install larstore` brings: pyproject.toml's dependencies, and theirs, with the extras they ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    left, found, seen = [Requirement(text) for text in project["dependencies"]], set(), set()
    while left:
        requirement = left.pop()
        name, extras = canonicalize_name(requirement.name), ("", *sorted(requirement.extras))
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            below = map(Requirement, requires(name) or ())
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        left += [each for each in below if not each.marker or any(each.marker.evaluate({"extra": x}) for x in extras)]
    return found


ONLY_THE_CORE = """
import sys

sys.path += {path!r}
import larstore
import xarray

store = larstore.open({store!r})
part = store.select(tpcs=[1], query="voxel_count > 0")
image = part[0]
assert image.truth is not None and image.position().shape == image.coords.shape
assert len(part.to_pandas()) == int(part.column("voxel_count").sum())
assert part.to_xarray().sizes["image"] == len(part)
assert xarray.open_datatree({store!r}, engine="zarr")["voxels"].sizes["voxel"] > 0
assert larstore.verify({store!r}).ok
larstore.copy_images(store.select(), {store!r} + "-copy")
assert not larstore.diff({store!r}, {store!r} + "-copy")
print("images:", len(part))
for name in {heavy!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} can be imported here")
"""


def test_a_store_needs_the_core_alone(tmp_path):
    """In a Python that sees nothing but the standard library, the core's dependencies, and `larstore/`."""
    core, packages = core_distributions(), tmp_path / "packages"
    assert {"numpy", "zarr", "pandas", "xarray"} <= core
    packages.mkdir()
    for name in core:
        files = distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (packages / top).symlink_to(distribution(name).locate_file(top))
    (packages / "larstore").symlink_to(ROOT / "larstore")
    about = packages / "larstore-0.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: larstore\nVersion: 0\n")
    store = make_store(tmp_path / "run.zarr", n_files=2, n_voxels=50)
    heavy = ("torch", "numba", "dask", "h5py", "scipy", "plotly", "preprocess", "train")
    code = ONLY_THE_CORE.format(path=[str(packages)], store=str(store), heavy=heavy)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "images: 4\n"
