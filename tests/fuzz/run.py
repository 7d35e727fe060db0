"""Fuzz the parsers for a while, guided by coverage: ``PYTHONPATH=tests python -m fuzz.run --seconds 60``.

Every target runs in a process of its own, starts from the files it should read and from those that are kept in
``tests/fuzz/corpus``, and leaves what it found in ``build/fuzz/TARGET``; inputs that crash it in
``build/fuzz/crashes/TARGET``. Move those into the corpus under a name that says what they are, and mend the parser.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
PAGE = ROOT / "SECURITY.md"
MARKS = "<!-- fuzz -->", "<!-- /fuzz -->"
MAX_CRASHES = 10


def fuzz(name: str, arguments: list[str]) -> None:
    """Run one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["twintrack_core"]):
        from fuzz.targets import Files, corpus_of

    with tempfile.TemporaryDirectory() as folder:
        target = Files(Path(folder)).targets[name]
        seeds = FOUND / "seeds" / name
        seeds.mkdir(parents=True, exist_ok=True)
        for seed, data in {**target.seeds, **corpus_of(name)}.items():
            (seeds / seed).write_bytes(data)

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            random = Random(seed)
            if random.random() < 0.3:
                return bytes(atheris.Mutate(data, max_size))
            return target.spoiled(data, random)[:max_size]

        def check(data: bytes) -> None:
            target.check(data)

        atheris.Setup([sys.argv[0], *arguments, str(seeds)], check, custom_mutator=mutate)
        atheris.Fuzz()


def run(name: str, seconds: int) -> dict[str, object]:
    """Run one target in another process, again after a crash, and count."""
    found, crashes = FOUND / name, FOUND / "crashes" / name
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    before = len(list(crashes.iterdir()))
    end = time.monotonic() + seconds
    executions = restarts = 0
    while (left := int(end - time.monotonic())) > 0 and restarts < MAX_CRASHES:
        options = [f"-max_total_time={left}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=16384"]
        options += [f"-artifact_prefix={crashes}/", "-print_final_stats=1", str(found)]
        command = [sys.executable, "-W", "error", "-m", "fuzz.run", "--one", name, "--", *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        (FOUND / f"{name}.log").write_text(done.stderr[-100_000:])
        numbers = re.findall(r"stat::number_of_executed_units: *([0-9]+)", done.stderr)
        executions += sum(map(int, numbers))
        if done.returncode == 0:
            break
        if not numbers:
            raise RuntimeError(f"{name} did not run:\n{done.stderr[-2000:]}")
        restarts += 1
        if len(list(crashes.iterdir())) < before + restarts:  # the same again: nothing else is reached
            break
    return {
        "target": name,
        "executions": executions,
        "crashes": len(list(crashes.iterdir())) - before,
        "kept": len(list((Path(__file__).parent / "corpus" / name).glob("*"))),
        "found": len(list(found.iterdir())),
    }


def table(rows: list[dict[str, object]], seconds: int) -> str:
    """Return the rows as Markdown."""
    total = sum(int(str(row["executions"])) for row in rows)
    lines = [
        f"{seconds} seconds a target, {total:,} executions. Kept: inputs in `tests/fuzz/corpus`. Found: inputs that",
        "reached code that no other did.",
        "",
        "| target | executions | crashes | kept | found |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['target']} | {row['executions']:,} | {row['crashes']} | {row['kept']} | {row['found']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Fuzz what was asked for, print a table, and fail if there were crashes."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers.")
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (default: 60)")
    parser.add_argument("--target", action="append", metavar="NAME", help="only these targets")
    parser.add_argument("--write", action="store_true", help="put the table into SECURITY.md")
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.one, arguments.options)
        return 0
    from fuzz.targets import Files

    with tempfile.TemporaryDirectory() as folder:
        names = list(Files(Path(folder)).targets)
    rows = []
    for name in arguments.target or names:
        rows.append(run(name, arguments.seconds))
        print(*(f"{key}: {value}" for key, value in rows[-1].items()), sep=", ", flush=True)
    text = table(rows, arguments.seconds)
    print(f"\n{text}")
    if arguments.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        tail = rest.partition(MARKS[1])[2]
        PAGE.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")
    return int(any(row["crashes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
