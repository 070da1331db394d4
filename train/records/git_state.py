"""In which state source code lies: the commit of a git repository, and what was changed since. git may be missing."""

import os
import subprocess
from pathlib import Path
from typing import Any

import larstore

SECONDS = 5.0  # on a slow network file system git may take its time; a training does not wait for it


def git_state(folder: str | Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Of the repository that ``folder`` lies in.

    Returns ``path``, ``commit``, ``branch`` (None: detached), ``dirty``, ``changed`` (tracked files that differ from
    the commit); or ``path`` and ``unknown``, the reason.
    """
    folder = Path(folder)
    try:
        root = Path(_git(folder, seconds, "rev-parse", "--show-toplevel"))
        commit = _git(folder, seconds, "rev-parse", "HEAD")
        branch = _git(folder, seconds, "rev-parse", "--abbrev-ref", "HEAD")
        changed = _git(folder, seconds, "status", "--porcelain", "--untracked-files=no").splitlines()
    except FileNotFoundError:
        reason = "git is not installed" if folder.is_dir() else "no such directory"
        return {"path": str(folder), "unknown": reason}
    except subprocess.TimeoutExpired:
        return {"path": str(folder), "unknown": f"git did not answer within {seconds:g} s"}
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"git ended with {error.returncode}"]
        return {"path": str(folder), "unknown": said[0][:200]}
    except OSError as error:
        return {"path": str(folder), "unknown": f"git cannot be run: {error.strerror}"}
    return {
        "path": str(root),
        "commit": commit,
        "branch": None if branch == "HEAD" else branch,
        "dirty": bool(changed),
        "changed": [line[3:] for line in changed],
    }


def git_states() -> dict[str, dict[str, Any]]:
    """Of the current directory, and of larstore's own source where that is a checkout."""
    states = {"current directory": git_state(Path.cwd())}
    source = Path(larstore.__file__).resolve().parents[1]
    if (source / ".git").exists():
        states["larstore"] = git_state(source)
    return states


def in_words(state: dict[str, Any]) -> str:
    """A state in one line."""
    if "unknown" in state:
        return f"{state['path']}: no commit known ({state['unknown']})"
    n = len(state["changed"])
    changed = f", {n} file{'s' if n > 1 else ''} changed since" if n else ", clean"
    return f"{state['path']}: commit {state['commit'][:12]} ({state['branch'] or 'no branch'}){changed}"


def _git(folder: Path, seconds: float, *arguments: str) -> str:
    # Nothing of the repository is executed (its configuration may name a monitor), nothing in it is written.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True, env=environment)
    return done.stdout.rstrip("\n")
