"""The page about maintaining stores runs as it stands."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

import larstore
from larstore.cli import build_app
from larstore.testing import add_images, make_image, make_store

PAGE = Path(__file__).parents[2] / "docs" / "maintaining.md"


def test_the_examples_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_store("run.zarr", 0, 0, (1, 2))
    images = [
        make_image(f, e, t, 400 * (e + 1), input=f"{f}.npz") for f in (701, 702, 703) for e in (0, 1) for t in (1, 2)
    ]
    add_images(Path("run.zarr"), images)
    (commands,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    app = build_app()
    for line in commands.splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output)
    assert len(larstore.open("both.zarr")) == len(larstore.open("run.zarr")) == 10
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(example, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    bright, nothing = capsys.readouterr().out.splitlines()
    assert 0 < int(bright.split()[0]) <= 10
    assert nothing == "[] {} []"
