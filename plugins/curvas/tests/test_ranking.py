from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twintrack_core.errors import RequestError
from twintrack_core.metrics import Evaluation, Row
from twintrack_curvas.cli import main
from twintrack_curvas.ranking import Reading, rank, read_evaluation

METRICS = {
    "official": ("tdsc", "dsc", "ece_official", "crps_official", "vi_official"),
    "exact": ("tdsc", "dsc", "ece_exact", "crps_exact", "vi_exact"),
}


def evaluation(*values: float | None, cases: int = 2, reading: str = "official", variant: str = "raw") -> Evaluation:
    """An evaluation of cases that all have the five values."""
    rows: list[Row] = []
    for case in range(cases):
        for metric, value in zip(METRICS[reading], values, strict=True):
            why = None if value is not None else "there are no vessels"
            rows.append(Row(f"c{case}", metric, variant, "roi" if "ece" in metric else "whole", value, why))
    # What is taken over another region is not ranked.
    rows.append(Row("c0", "tdsc", variant, "roi", -5.0, None))
    return Evaluation(tuple(rows), ())


GOOD = (0.9, 0.8, 0.1, 100.0, 5.0)
BAD = (0.5, 0.8, 0.2, 50.0, 10.0)


@pytest.mark.parametrize("reading", ["official", "exact"])
def test_ranks_and_ties(reading: Reading) -> None:
    submissions: dict[str, Any] = {
        "bad": evaluation(*BAD, reading=reading),
        "good": evaluation(*GOOD, reading=reading).to_dict(),
        "also good": evaluation(*GOOD, reading=reading),
    }
    ranking = rank(submissions, reading)
    assert [placing.name for placing in ranking.placings] == ["also good", "good", "bad"]
    good, bad = ranking.placings[1], ranking.placings[2]
    assert [standing.rank for standing in good.metrics.values()] == [1.5, 2, 1.5, 2.5, 1.5]
    assert [standing.rank for standing in bad.metrics.values()] == [3, 2, 3, 1, 3]
    assert tuple(good.metrics) == METRICS[reading]
    assert good.mean_rank == pytest.approx(9 / 5)
    assert bad.mean_rank == pytest.approx(12 / 5)
    assert (ranking.cases, ranking.notes) == (2, ())
    assert [standing.mean for standing in bad.metrics.values()] == list(BAD)
    assert good.metrics["dsc"].defined == 2


def test_means_over_fewer_cases_are_noted() -> None:
    found = evaluation(*GOOD).to_dict()
    rows = [
        {**row, "value": None} if (row["case"], row["metric"]) == ("c1", "crps_official") else row
        for row in found["rows"]
    ]
    ranking = rank({"a": evaluation(*BAD), "b": {"rows": rows}})
    assert ranking.notes == ("crps_official: the means are not over the same of the 2 cases: a 2, b 1.",)
    assert {placing.name: placing.metrics["crps_official"].defined for placing in ranking.placings} == {"a": 2, "b": 1}


def test_refusals() -> None:
    good = evaluation(*GOOD)
    with pytest.raises(RequestError, match="a and b are not of the same cases: 1 differ, 'c2'"):
        rank({"a": good, "b": evaluation(*GOOD, cases=3)})
    with pytest.raises(RequestError, match=r"a lacks ece_exact \(roi\) of 2 cases"):
        rank({"a": good}, "exact")
    with pytest.raises(RequestError, match=r"a has no variant 'calibrated'") as caught:
        rank({"a": good}, variant="calibrated")
    assert caught.value.allowed == "Allowed: raw."
    with pytest.raises(
        RequestError, match=r"a: vi_official is defined in none of 2 cases; in 'c0', there are no vessels"
    ):
        rank({"a": evaluation(*GOOD[:4], None)})
    with pytest.raises(RequestError, match="no reading"):
        rank({"a": good}, "both")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="nothing to rank"):
        rank({})
    row = good.to_dict()["rows"][0]
    unfit: list[Any] = ["1", True, float("nan"), 10**400, []]
    wrong: list[Any] = [{}, {"rows": 3}, {"rows": [3]}, {"rows": [{}]}]
    wrong += [{"rows": [{**row, "value": value}]} for value in unfit]
    wrong += [{"rows": [{**row, "case": 1}]}, {"rows": [{**row, "why": 1}]}]
    for thing in wrong:
        with pytest.raises(RequestError, match="a is no evaluation"):
            rank({"a": thing})


def write(path: Path, found: Evaluation) -> str:
    path.write_text(json.dumps(found.to_dict()))
    return str(path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.json", evaluation(*BAD)), write(tmp_path / "b.json", evaluation(*GOOD))
    assert main(["rank", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 cases, official reading, raw: mean over the cases (rank)"
    assert lines[1].split() == ["submission", "mean", "rank", *METRICS["official"]]
    assert lines[2].split() == ["b", "1.30", "0.9", "(1)", "0.8", "(1.5)", "0.1", "(1)", "100", "(2)", "5", "(1)"]
    assert lines[3].startswith("a ")
    assert len({len(line) for line in lines[1:4]}) == 1
    assert main(["rank", a, b, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == rank({"a": evaluation(*BAD), "b": evaluation(*GOOD)}).to_dict() | {
        "placings": document["placings"],
        "notes": [],
    }
    assert document["placings"][0]["metrics"]["dsc"] == {"mean": 0.8, "defined": 2, "rank": 1.5}


def test_command_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "a.json", evaluation(*GOOD))
    (tmp_path / "other").mkdir()
    twin = write(tmp_path / "other" / "a.json", evaluation(*GOOD))
    (tmp_path / "text.json").write_text("rows:")
    (tmp_path / "list.json").write_text("[]")
    for arguments, words in (
        ([good, str(tmp_path / "none.json")], "none.json: No such file"),
        ([str(tmp_path / "text.json")], "is not JSON"),
        ([str(tmp_path / "list.json")], "is no evaluation"),
        ([good, twin], "Two submissions are named 'a'"),
        ([good, "--reading", "exact"], "lacks ece_exact"),
    ):
        assert main(["rank", *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("twintrack-curvas: ")
        assert words in said.err
        assert 1 <= len(said.err.splitlines()) <= 3
    for arguments in ([], ["rank"], ["rank", good, "--reading", "both"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) <= 3


def test_read_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", evaluation(*GOOD))
    assert rank({"a": read_evaluation(path)}).placings[0].mean_rank == 1
