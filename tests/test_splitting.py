"""What each of several launches takes besides its execution: measured, kept, and minded by plans."""

from __future__ import annotations

import json

import pytest

import anybatch
from anybatch import AnyBatch, Calibration, CurveCosts, Gears, InputError, Planner
from anybatch.testing import FakeBackend
from anybatch.testing.models import AFFINE

COSTS = CurveCosts({1: 10.0, 16: 20.0, 32: 31.0}, splitting=2.0)


def test_a_plan_of_one_launch_is_spared_it():
    assert Planner(Gears((1, 16, 32)), COSTS).plan(16).cost == 20.0


def test_a_plan_of_several_pays_it_for_each():
    assert Planner(Gears((1, 16, 32)), COSTS).plan(48).cost == 20.0 + 31.0 + 2 * 2.0


def test_it_decides_where_the_launches_alone_would_be_cheaper():
    assert len(Planner(Gears((1, 16, 32)), COSTS).plan(17).launches) == 1
    cheaper = CurveCosts({**COSTS.points, 32: 33.0}, splitting=1.0)
    assert len(Planner(Gears((1, 16, 32)), cheaper).plan(17).launches) == 2
    assert len(Planner(Gears((1, 16, 32)), CurveCosts(cheaper.points, splitting=2.0)).plan(17).launches) == 1


def test_it_decides_where_any_size_can_be_launched():
    points = {1: 1.0, 4: 4.0, 8: 10.0}
    assert str(Planner(AnyBatch(), CurveCosts(points, splitting=0.9)).plan(8)) == "2 x 4"
    assert str(Planner(AnyBatch(), CurveCosts(points, splitting=1.1)).plan(8)) == "8"


def test_planning_with_a_size_pays_it_too():
    plan = Planner(Gears((1, 16, 32)), COSTS).plan_with(16, 32)
    assert plan is not None
    assert plan.cost == 20.0 + 20.0 + 2 * 2.0


def test_a_negative_figure_is_refused():
    with pytest.raises(InputError, match="expected splitting >= 0 and finite, got -1"):
        CurveCosts({1: 1.0}, splitting=-1)


def test_calibration_measures_it_and_keeps_it(tmp_path):
    path = tmp_path / "costs.json"
    with anybatch.open(AFFINE.onnx_bytes, backend=FakeBackend(), batch_sizes=[2, 4]) as runner:
        calibration = runner.calibrate(seconds=0.01, save=path)
    assert 0 < calibration.splitting_s < 1
    assert calibration.costs().splitting == calibration.splitting_s * 1e3
    assert Calibration.load(path) == calibration


@pytest.mark.parametrize("figure", [-1, "1"])
def test_a_file_with_an_impossible_figure_is_refused(tmp_path, figure):
    path = tmp_path / "costs.json"
    with anybatch.open(AFFINE.onnx_bytes, backend=FakeBackend(), batch_sizes=[2, 4]) as runner:
        runner.calibrate(seconds=0.01, save=path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splitting_s": figure}))
    with pytest.raises(InputError, match="expected splitting_s >= 0 and finite, got"):
        Calibration.load(path)
