"""bench/cluster.py: costs between those of its file, the division of the work, and when shards start."""

import importlib.util
import json
import sys

import pytest

from forks import ROOT


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_cluster", ROOT / "bench" / "cluster.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def test_a_stage_waits_for_the_one_before(bench):
    """Two GPUs: features of 3 and 5 s, training of 4 and 1 s that waits for both, and another stage that does not."""
    features, other = bench.Stage([3.0, 5.0]), bench.Stage([1.0])
    train = bench.Stage([4.0, 1.0], [features])
    assert bench.makespan([features, other, train], 2) == 9.0
    assert (features.end, other.end, train.end) == (5.0, 4.0, 9.0)
    assert bench.makespan([features, other, train], 1) == 14.0


def test_costs_and_shards(bench, tmp_path):
    row = {"device": "cuda", "cost": "step", "of": "linear", "assumed": True, "source": ""}
    rows = [row | {"classes": classes, "seconds": seconds} for classes, seconds in ((10, 1.0), (20, 3.0))]
    (tmp_path / "costs.json").write_text(json.dumps(rows))
    costs = bench.Costs(tmp_path / "costs.json", "cuda")
    assert [costs.seconds("step", "linear", classes) for classes in (5, 10, 15, 20, 1000)] == [1, 1, 2, 3, 3]
    assert str(costs).count("* step") == 2
    units = [bench.Unit(2, 20.0), bench.Unit(1, 8.0), bench.Unit(1, 9.0)]
    assert bench.shards_of(units, 2, 0.5) == [20.5, 17.5]
    assert bench.shards_of(units, 4, 0.5) == [20.5, 8.5, 9.5, 0.5]


def test_each_number_is_of_both_devices_and_says_where_it_is_from(bench):
    for device in ("cpu", "cuda"):
        costs = bench.Costs(ROOT / "bench" / "costs.json", device)
        assert {row["of"] for row in costs.rows if row["cost"] == "step"} == {
            "linear", "adapter", "prompting", "RN50 image layers", "ViT-B-16 image layers", "RN50 text layers"
        }  # fmt: skip
        assert all(row["source"] for row in costs.rows)
        assert all(row["assumed"] for row in costs.rows) == (device == "cuda")
