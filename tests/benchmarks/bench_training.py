"""How well the network learns: simulate, preprocess, train, predict, and compare with what the research code reached.

python -m tests.benchmarks.bench_training [--work build/bench-training] [--docs docs] [--tiny] [--only STEP]

Run again, it goes on where it stopped: each step is done once, and a training resumes from its last checkpoint.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tests.benchmarks.training_settings import FULL, TINY
from tests.benchmarks.training_steps import Bench, StepError

WORK = Path("build/bench-training")


def main(arguments: list[str] | None = None) -> int:
    """Do what is missing; print the page, or write it to a folder. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help=f"directory for all it makes, about 5 GB [{WORK}]")
    parser.add_argument("--docs", type=Path, help="folder for network-quality.md and its figures")
    parser.add_argument("--tiny", action="store_true", help="few events and steps: does it run at all?")
    parser.add_argument("--only", help="steps whose names begin with this; no page")
    given = parser.parse_args(arguments)
    data = Path(os.environ["LARSTORE_TEST_DATA"]) if os.environ.get("LARSTORE_TEST_DATA") else None
    work = given.work or (WORK.with_name(f"{WORK.name}-tiny") if given.tiny else WORK)
    try:
        bench = Bench(work, TINY if given.tiny else FULL, data)
        bench.run(given.only)
    except StepError as error:
        print(f"bench_training: {error}", file=sys.stderr)
        return 1
    results = bench.results()
    (work / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if given.only is not None:
        return 0
    from tests.benchmarks.training_page import page, write_page

    if given.docs is None:
        print(page(results))
    else:
        write_page(results, given.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
