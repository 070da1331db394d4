"""Makes docs/faults.md from the `fault` marks of tests, without importing them: python -m tests.fault_table"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"
HEADINGS = {
    "tests/slurm/test_slurm_runs.py": "Jobs, nodes and schedulers",
    "tests/preprocess/test_run_workers.py": "Workers and units",
    "tests/preprocess/test_run_retries.py": "File systems, and trying again",
    "tests/preprocess/test_run_interrupts.py": "Stopping",
    "tests/preprocess/test_run_kills.py": "Kills",
    "tests/preprocess/test_run_full_disk.py": "Disks",
}
HEAD = """# Faults

What happens to a run of `larstore preprocess` when something goes wrong. Each row is a test, in the file that is named
below its heading; this page is made from them (`python -m tests.fault_table`). What is done about jobs on the way is
told in [Clusters](clusters.md#what-happens-when).
"""
NOTES = {
    "tests/slurm/test_slurm_runs.py": (
        "On a real Slurm of two virtual nodes. After each of these the store equals that of an undisturbed run on one\n"
        "machine, bit by bit (`larstore diff`), `larstore verify` finds nothing, and no job is left in the queue."
    ),
}


@dataclass(frozen=True)
class Fault:
    """A row: what goes wrong, what then happens, and the test that shows it."""

    what: str
    then: str
    file: str
    test: str


def faults() -> Iterator[Fault]:
    """All rows, by file in the order of the headings, then as they stand there."""
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.fault(" in path.read_text(encoding="utf-8")
    }
    assert marked == set(HEADINGS), f"headings and files with marks differ: {marked ^ set(HEADINGS)}"
    for file in HEADINGS:
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    what, then = (ast.literal_eval(argument) for argument in mark.args)
                    yield Fault(what, then, file, node.name)


def page() -> str:
    """The whole page."""
    rows = list(faults())
    parts = [HEAD]
    for file, heading in HEADINGS.items():
        note = f"{NOTES[file]}\n\n" if file in NOTES else ""
        table = "".join(f"| {row.what} | {row.then} |\n" for row in rows if row.file == file)
        parts.append(f"## {heading}\n\n{note}`{file}`:\n\n| what | then |\n|---|---|\n{table}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
