"""Real video of five people: kNN that may not look at clips of the same person."""

import csv

import pytest

from eval.__main__ import evaluate

ONE_HAND = {"bird", "eat", "hungry", "milk", "no", "please", "sorry", "thanks", "yes"}


@pytest.fixture
def signs(shared, tmp_path):
    """20 signs, each made once, so that the sign itself cannot be told from other people; one hand or two can."""
    with open(shared / "data" / "clips.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["file"].startswith("intel_asl/")]
    out = tmp_path / "asl.csv"
    lines = ["path,sign,hands,signer"]
    for row in rows:
        sign = row["label"].removeprefix("asl:")
        path = shared / "data" / row["file"]
        lines.append(f"{path},{sign},{0 if sign in ONE_HAND else 1},{row['group']}")
    out.write_text("\n".join(lines) + "\n")
    return out


def test_leave_one_signer_out(run, config, signs, tmp_path, capsys):
    config.protocol, config.data.train, config.data.group = "leave_one_group_out", str(signs), "signer"
    config.probes, config.labels, config.tasks = ("knn",), ("all",), ("hands", "sign")
    rows = evaluate(config, [str(run)], tmp_path / "out")
    found = {r["protocol"]: r for r in rows}
    hands = found["leave_one_group_out"]
    assert hands["task"] == "hands" and hands["n"] == 20 and hands["groups"] == 5
    assert hands["majority"] == pytest.approx(11 / 20)
    assert (hands["accuracy"] * 20) % 1 == pytest.approx(0, abs=1e-9)
    assert found["nearest_in_own_group"]["n"] == 20
    printed = capsys.readouterr().out
    assert "leave one signer out" in printed and "sign: no class occurs in two groups" in printed
