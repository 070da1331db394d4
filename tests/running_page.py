"""The page docs/running.md as its reader follows it: a new environment, a new folder, its blocks in their order."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "running.md"
COPIED = ("larstore", "preprocess", "train", "configs", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
SECONDS = 900  # of a block: only a test that fails takes so long


def sections(page: Path = PAGE) -> dict[str, list[tuple[str, str]]]:
    """Heading -> its blocks, as (language, text)."""
    found = {}
    for part in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        found[heading] = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


class Reader:
    """Follows the page in ``folder``, where a copy of the repository lies as a reader has it.

    What pip would fetch is taken from the environment of the tests, so that no network is needed; larstore itself is
    built and installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        repository, packages = folder / "larstore", folder / "packages"
        for path in (repository, packages, folder / "home"):
            path.mkdir(parents=True)
        for name in COPIED:
            place = ROOT / name
            if place.is_dir():
                shutil.copytree(place, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(place, repository / name)
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(("larstore", "__editable__")):
                (packages / path.name).symlink_to(path)
        self._env = os.environ | {
            "HOME": str(folder / "home"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of build isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def follow(self, *headings: str) -> str:
        """Run the blocks of some sections; what they printed."""
        return "".join(self.block(*block) for heading in headings for block in sections()[heading])

    def block(self, language: str, text: str) -> str:
        """Run a block of shell or Python; what it printed. Other blocks are for the eye."""
        if language not in ("bash", "python"):
            return ""
        ready = ". larenv/bin/activate\n" if (self.folder / "larenv").exists() else ""
        shell = ready + (text if language == "bash" else f"python - <<'END'\n{text}END\n")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", shell], cwd=self.folder, env=self._env, capture_output=True, text=True,
            timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout
