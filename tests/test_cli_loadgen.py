"""``anybatch loadgen``: arguments to one test of MLPerf's load generator, its verdict to text and exit code."""

import json

import numpy as np
import onnx.parser
import pytest

from anybatch._cli import app

pytest.importorskip("mlperf_loadgen", reason="there are no wheels of it for this kind of machine")

SERVER = ("--scenario", "Server", "--qps", "2000", "--seconds", "0.05")


@pytest.fixture
def scale(tmp_path):
    """One input, one output: y = 2 x."""
    graph = "scale (float[rows, 3] x) => (float[rows, 3] y) <float two = {2}> { y = Mul(x, two) }"
    path = tmp_path / "scale.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {graph}'), path)
    return path


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit_:
            app([str(argument) for argument in ("loadgen", *arguments)], prog_name="anybatch")
        return exit_.value.code, *capsys.readouterr()

    return call


def test_a_valid_run_for_people(cli, scale, tmp_path):
    code, out, err = cli(scale, *SERVER, "--latency-ms", "60000")
    assert (code, err) == (0, ""), out
    lines = out.splitlines()
    assert lines[0].startswith(f"{scale} on onnxruntime (onnxruntime ")
    assert lines[1].startswith("VALID  completed samples per second ")
    assert lines[2].startswith("Server, ")
    assert "; latency in " in lines[2]
    assert lines[3] == f"logs in {tmp_path / 'loadgen-logs'}"
    assert "Result is : VALID" in (tmp_path / "loadgen-logs" / "mlperf_log_summary.txt").read_text()


def test_an_invalid_run_is_exit_code_1(cli, scale, tmp_path):
    code, out, err = cli(scale, *SERVER, "--latency-ms", "0.000001", "--logs", tmp_path / "mine")
    assert (code, err) == (1, "")
    assert "\nINVALID  " in out
    assert "\n  the latency constraint was not met\n" in out
    assert "\n  Reduce target QPS to improve latency." in out
    assert (tmp_path / "mine" / "mlperf_log_detail.txt").is_file()


def test_an_invalid_run_as_json(cli, scale):
    code, out, err = cli(scale, *SERVER, "--latency-ms", "0.000001", "--json")
    document = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (code, err) == (1, "")
    assert (document["verdict"], document["simulated"], document["scenario"]) == ("INVALID", False, "Server")
    assert document["recommendation"].startswith("Reduce target QPS to improve latency.")
    assert "the latency constraint was not met" in document["reasons"]
    assert list(document["latency_s"]) == ["p50", "p90", "p95", "p97", "p99", "p99.9"]
    assert (document["metric"], document["unit"]) == ("completed samples per second", "1/s")
    assert len(document["logs"]) == 4


def test_rows_of_a_file_and_of_a_query(cli, scale, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 3), np.float32))
    arguments = ("--scenario", "MultiStream", "--samples-per-query", "3", "--seconds", "0.05", "--input", "x.npy", "--json")
    document = json.loads(cli(scale, *arguments)[1])
    assert document["samples"] == 3 * document["queries"]
    detail = (tmp_path / "loadgen-logs" / "mlperf_log_detail.txt").read_text()
    assert '"qsl_reported_total_count", "value": 5,' in detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenario", "Serving"), "InputError: expected a scenario of "),
        (("--scenario", "Server"), "InputError: expected target_qps and target_latency_s for Server"),
        (("--input", "none.npy"), "InputError: none.npy: there is no such file"),
        (("--seconds", "0"), "InputError: expected min_duration_s to be a number above 0, got 0.0"),
    ],
)
def test_arguments_that_do_not_fit(cli, scale, arguments, message):
    code, out, err = cli(scale, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"anybatch: {message}")


def test_a_simulator_is_named(cli, scale):
    code, out, _ = cli(scale, "--backend", "ascend-sim", "--batch-sizes", "1,4", "--seconds", "0.05")
    assert code in (0, 1), "how fast the simulator's program is, is not asserted"
    assert "\nSIMULATED: times are those of the simulator's program on this machine, no hardware was measured\n" in out
