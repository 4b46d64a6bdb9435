"""Where two backends part: faults planted at known nodes of models, and whether just those are named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from anybatch import Gears, InputError, ModelError, registry
from anybatch.comparison._cuts import Graph, cut_model
from anybatch.comparison._divergence import Bisection, _GivenUpError, find_divergence
from anybatch.comparison._entries import Entry
from anybatch.comparison._results import Case, Metrics, Tolerance

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
RANDOM = np.random.default_rng(5)


def judge(expected, got, rtol=1e-3):
    """Stand in for the metrics: what matters here is how many elements are outside."""
    expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    finite = expected[np.isfinite(expected)]
    scale = math.sqrt(np.mean(finite**2)) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        gap = np.abs(expected - got)
        close = gap <= rtol * np.maximum(np.abs(expected), scale)
    outside = int((~(close | (expected == got) | (np.isnan(expected) & np.isnan(got)))).sum())
    worst = float(np.max(gap, initial=0.0, where=np.isfinite(gap)))
    metrics = Metrics(expected.size, outside, outside, 0, 0, worst, 0.0, None, None, 0, 0, None, None, None, None, ())
    return metrics, Tolerance(rtol, 0.0, "test")


def build(nodes, inputs, outputs, weights=None, *, types=None, functions=(), opsets=()):
    types = types or {}
    sides = [[helper.make_tensor_value_info(n, types.get(n, FLOAT), d) for n, d in each.items()] for each in (inputs, outputs)]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", *sides, initializers)
    opsets = [helper.make_opsetid("", 17), *opsets]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    onnx.checker.check_model(model)
    return model


def chain(length, rows="rows"):
    """Return a model of so many Sin nodes, n0 to the last, with tensors t0 and so on."""
    nodes = [node("Sin", ["x" if i == 0 else f"t{i - 1}"], [f"t{i}"], f"n{i}") for i in range(length)]
    return build(nodes, {"x": [rows, 3]}, {f"t{length - 1}": [rows, 3]})


class Planted:
    """ONNX Runtime with a fault in it.

    Args:
        plant: changes a copy of each model that is opened, whole or cut.
        refuses: returns why a model cannot be opened.
        garble: changes the answers of a launch of so many rows.
        knows: options that it has beside ONNX Runtime's own, and does not have.
    """

    name = "planted"
    suffixes = frozenset()

    def __init__(self, plant=lambda model: None, *, refuses=lambda model: "", garble=None, pads=False, lacks=()):
        self.plant, self.refuses, self.garble, self.pads, self.lacks = plant, refuses, garble, pads, lacks
        self.models = []
        self.options = []
        self.alive = 0

    def check_usable(self):
        return "a test's"

    def open(self, model, *, device, batch_sizes, options):
        for name in options:
            if name in (*self.lacks, "cache_dir"):
                raise InputError(f"backend 'planted' has no option {name!r}, only others")
        copy = onnx.ModelProto()
        copy.CopyFrom(onnx.load(model) if isinstance(model, Path) else model)
        self.models.append(copy)
        self.options.append(dict(options))
        if reason := self.refuses(copy):
            raise ModelError(reason)
        self.plant(copy)
        session = registry().get("onnxruntime").open(copy, device=device, batch_sizes=batch_sizes, options=options)
        self.alive += 1
        return Session(session, self)


class Session:
    def __init__(self, session, backend):
        self._session, self._backend = session, backend
        self.spec, self.concurrency = session.spec, 1
        sizes = getattr(session.batching, "sizes", None)
        self.batching = Gears(sizes, pads=True) if backend.pads and sizes else session.batching

    def execute(self, inputs, gear, out=None):
        rows = next(len(inputs[t.name]) for t in self.spec.inputs if t.batch_axis == 0)
        if self.batching.pads and rows < gear:  # the reference's rows, since nothing is padded below
            short = {t.name: np.resize(inputs[t.name], (gear, *inputs[t.name].shape[1:])) for t in self.spec.inputs}
            whole = self._session.execute(short, gear)
            answers = {t.name: t.rows_of(whole[t.name], 0, rows).copy() for t in self.spec.outputs}
        else:
            answers = dict(self._session.execute(inputs, gear))
        return self._backend.garble(answers, rows, gear) if self._backend.garble else answers

    def close(self):
        self._backend.alive -= 1
        self._session.close()


def off(tensor, by=0.05, *, unless_shown=(), body=""):
    """Return a plant that adds something to a tensor, unless certain tensors are outputs."""

    def plant(model):
        if {value.name for value in model.graph.output} & set(unless_shown):
            return
        for index, each in enumerate(model.graph.node):
            if tensor in each.output:
                each.output[list(each.output).index(tensor)] = f"{tensor}/right"
                constant = numpy_helper.from_array(by if isinstance(by, np.floating) else np.float32(by))
                model.graph.node.insert(index + 1, node("Constant", [], [f"{tensor}/by"], value=constant))
                model.graph.node.insert(index + 2, node("Add", [f"{tensor}/right", f"{tensor}/by"], [tensor]))
                return

    return plant


def both(*plants):
    return lambda model: [plant(model) for plant in plants]


def search(model, backend, *, rows=4, inputs=None, output=None, sizes=None, requests=None, reference=None, seed=0, **more):
    random = np.random.default_rng(seed)
    requests = requests or (rows,)
    if inputs is None:
        inputs = {}
        for value in model.graph.input:
            dims = [d.dim_value if d.HasField("dim_value") else sum(requests) for d in value.type.tensor_type.shape.dim]
            inputs[value.name] = random.standard_normal(dims).astype(np.float32)
    found = find_divergence(
        model,
        reference or Entry("onnxruntime", "right"),
        Entry(backend, "wrong", batch_sizes=sizes, options=more.pop("options", {})),
        inputs,
        output=output or model.graph.output[0].name,
        case=Case("test", tuple(requests)),
        **{"judge": judge, **more},
    )
    assert backend.alive == 0, "something stays open"
    return found


def most_opens(nodes):
    """Return how many cut models may be opened: each look leaves less than a fifth, on both sides, and one look confirms."""
    return 2 * (math.ceil(math.log(max(nodes, 2), 5)) + 1)


# ------------------------------------------------------------------------------------------------------- the node is found


@pytest.mark.parametrize("at", [0, 1, 9, 18, 19])
def test_a_fault_in_a_chain_is_found_wherever_it_is(at):
    backend = Planted(off(f"t{at}"))
    found = search(chain(20), backend)
    assert (found.node, found.operator, found.tensor) == (f"n{at}", "Sin", f"t{at}")
    assert found.metrics.outside == 12
    assert found.metrics.max_abs == pytest.approx(0.05, rel=1e-3)
    assert found.tolerance == Tolerance(1e-3, 0.0, "test")
    assert (found.entry, found.output) == ("wrong", "t19")
    assert found.reason == f"the inputs of 'n{at}' (Sin) agree, its output 't{at}' does not"
    assert found.opened == 2 * (len(backend.models) - 1) <= most_opens(20)


def test_a_node_without_a_name_goes_by_its_output():
    model = chain(3)
    model.graph.node[1].name = ""
    assert search(model, Planted(off("t1"))).node == "t1"


def test_a_model_of_one_node():
    found = search(chain(1), Planted(off("t0")))
    assert (found.node, found.opened) == ("n0", 2)


def branches(hide="Relu"):
    """Return a model of two branches from n0: a0 to a3 past `hide`, b0 to b3; they are joined, and a tail follows."""
    nodes = [node("Sin", ["x"], ["t0"], "n0")]
    for name, operator in (("a", "Sin"), ("b", "Atan")):
        nodes += [node(operator, [f"{name}{i - 1}" if i else "t0"], [f"{name}{i}"], f"n{name}{i}") for i in range(4)]
    nodes += [
        node(hide, ["a3"], ["hidden"], "hide"),
        node("Add", ["hidden", "b3"], ["joined"], "join"),
        node("Sin", ["joined"], ["y"], "tail"),
    ]
    return build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]})


@pytest.mark.parametrize("at", ["t0", "a0", "a2", "b0", "b1", "b3", "joined", "y"])
def test_a_fault_in_a_branch(at):
    model = branches(hide="Neg")
    culprit = next(each.name for each in model.graph.node if at in each.output)
    assert search(model, Planted(off(at))).node == culprit


@pytest.mark.parametrize(("first", "second"), [("a1", "b2"), ("a1", "joined"), ("b0", "y"), ("t0", "b3"), ("a0", "a3")])
def test_of_two_faults_the_first_is_named(first, second):
    assert search(branches(hide="Neg"), Planted(both(off(first), off(second)))).tensor == first


def test_what_is_no_ancestor_of_the_output_is_not_looked_at():
    model = build(
        [node("Sin", ["x"], ["t"], "n"), node("Cos", ["x"], ["z"], "other"), node("Sin", ["t"], ["y"], "m")],
        {"x": ["rows", 3], "unused": ["rows"]},
        {"y": ["rows", 3], "z": ["rows", 3]},
    )
    backend = Planted(both(off("z"), off("y")))
    assert search(model, backend, output="y").node == "m"
    for cut in backend.models[1:]:
        assert [value.name for value in cut.graph.input] in (["x"], ["x", "unused"])  # the copy of an input needs it
        assert "z" not in {name for each in cut.graph.node for name in each.output}


# --------------------------------------------------------------------------------------------------- what hides differences


@pytest.mark.parametrize("hide", ["Relu", "Sign"])
def test_a_fault_that_one_branch_hides_and_another_shows(hide):
    """The fault at t0 is gone behind `hide` (all is negative there), and comes to the output through b."""
    nodes = [
        node("Sin", ["x"], ["t0"], "n0"),
        node("Abs", ["t0"], ["t1"], "n1"),
        node("Neg", ["t1"], ["a"], "na"),
        node(hide, ["a"], ["hidden"], "hide"),
        *(node("Sin", [f"h{i - 1}" if i else "hidden"], [f"h{i}"], f"nh{i}") for i in range(9)),
        node("Add", ["h8", "t1"], ["y"], "join"),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]})
    inputs = {"x": np.linspace(0.5, 1.0, 12, dtype=np.float32).reshape(4, 3)}
    assert search(model, Planted(off("t0", 0.01)), inputs=inputs).node == "n0"


def test_a_fault_that_is_gone_again_is_not_what_the_output_suffers_from():
    nodes = [
        *(node("Sin", [f"t{i - 1}" if i else "x"], [f"t{i}"], f"n{i}") for i in range(8)),
        node("ArgMax", ["t7"], ["index"], "argmax", axis=1),
        node("Cast", ["index"], ["c0"], "cast", to=FLOAT),
        *(node("Sin", [f"c{i}"], [f"c{i + 1}"], f"m{i}") for i in range(8)),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"c8": ["rows", 1]})
    found = search(model, Planted(both(off("t3"), off("c4"))))
    assert found.node == "m3"
    assert (
        search(model, Planted(off("t3", 0.0)), rows=8).reason == "opened again and sent the same requests, 'c8' does not differ"
    )


def test_a_fault_that_is_seen_only_where_an_index_flips():
    """Of the model's answers only a few tell, through ArgMax; inner tensors tell in all rows."""
    nodes = [
        *(node("Sin", [f"t{i - 1}" if i else "x"], [f"t{i}"], f"n{i}") for i in range(9)),
        node("ArgMax", ["t8"], ["y"], "argmax", axis=1),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 1]}, types={"y": INT64})

    def turned(proto):  # the rows of t4 are shuffled along the classes
        for each in proto.graph.node:
            if "t4" in each.output:
                each.op_type = "Cos"

    assert search(model, Planted(turned), rows=16).node == "n4"


# ---------------------------------------------------------------------------------------------- what is not looked into


def test_a_fault_in_the_body_of_an_if_is_the_ifs():
    then, other = (
        helper.make_graph([node(op, ["t1"], [f"{op}_out"])], op, [], [helper.make_tensor_value_info(f"{op}_out", FLOAT, None)])
        for op in ("Sin", "Cos")
    )
    nodes = [
        node("Sin", ["x"], ["t0"], "n0"),
        node("Sin", ["t0"], ["t1"], "n1"),
        node("If", ["yes"], ["t2"], "choice", then_branch=then, else_branch=other),
        node("Sin", ["t2"], ["y"], "n3"),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]}, {"yes": np.array(True)})

    def plant(proto):
        for each in proto.graph.node:
            for attribute in each.attribute:
                if attribute.name == "then_branch":
                    attribute.g.node[0].op_type = "Cos"

    found = search(model, Planted(plant))
    assert (found.node, found.operator) == ("choice", "If")
    assert search(model, Planted(off("t1"))).node == "n1"  # which only the bodies read


def sequences():
    nodes = [
        node("Sin", ["x"], ["t0"], "n0"),
        node("SplitToSequence", ["t0"], ["parts"], "split", axis=1, keepdims=1),
        node("SequenceAt", ["parts", "one"], ["t1"], "at"),
        node("Sin", ["t1"], ["t2"], "n2"),
        node("Sin", ["t2"], ["y"], "n3"),
    ]
    return build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 1]}, {"one": np.array(1, np.int64)})


def test_sequences_are_not_exposed():
    def plant(proto):  # another part of the sequence
        for each in proto.graph.initializer:
            each.CopyFrom(numpy_helper.from_array(np.array(2, np.int64), each.name))

    found = search(sequences(), Planted(plant))
    assert (found.node, found.tensor) == (None, "t1")
    assert found.reason == (
        "what passes between nodes cannot be looked at: the fault is in one of 'split' (SplitToSequence), 'at' (SequenceAt), "
        "the inputs of which agree"
    )
    for at, culprit in (("t0", "n0"), ("t2", "n2"), ("y", "n3")):
        assert search(sequences(), Planted(off(at))).node == culprit


def test_a_function_is_one_node():
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("Sin", ["a"], ["m"]), node("Sin", ["m"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        node("Sin", ["x"], ["t0"], "n0"),
        node("Twice", ["t0"], ["t1"], "called", domain="own"),
        node("Sin", ["t1"], ["y"], "n2"),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]}, functions=[twice], opsets=[helper.make_opsetid("own", 1)])

    def plant(proto):
        for each in proto.functions:
            each.node[0].op_type = "Cos"

    found = search(model, Planted(plant))
    assert (found.node, found.operator) == ("called", "Twice")


def test_what_depends_on_no_input_is_looked_at_where_it_is_read():
    weights = {f"w{i}": np.full((3, 3), 0.3 + i, np.float32) for i in range(6)}
    nodes = [node("Sin", [f"w{i}"], [f"s{i}"], f"prepare{i}") for i in range(6)]
    nodes += [node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.float32(0.1)))]
    nodes += [node("MatMul", [f"t{i - 1}" if i else "x", f"s{i}"], [f"t{i}"], f"n{i}") for i in range(6)]
    nodes += [node("Add", ["t5", "c"], ["y"], "last")]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]}, weights)
    for at, culprit in (("s3", "prepare3"), ("t3", "n3"), ("s0", "prepare0"), ("y", "last")):
        assert search(model, Planted(off(at))).node == culprit
    order = [each.name for each in Graph(model, "y", {"x": (4, 3)}).nodes]
    assert order == [name for i in range(6) for name in (f"prepare{i}", f"n{i}")] + ["last"]


# ------------------------------------------------------------------------------------------------------ where looking harms


def test_a_fault_of_nodes_that_are_fused_is_not_pinned_on_one():
    """It exists only as long as t9, between n9 and n10, is no output."""
    found = search(chain(20), Planted(off("t10", unless_shown=["t9"])))
    assert (found.node, found.tensor) == (None, "t10")
    assert found.reason == (
        "the difference vanishes where inner tensors are looked at, as if it came of nodes that are compiled as one: "
        "the fault is in one of 'n9' (Sin), 'n10' (Sin), the inputs of which agree"
    )


def test_a_fault_that_vanishes_whatever_is_looked_at():
    model = chain(20)
    found = search(model, Planted(off("t10", unless_shown=[f"t{i}" for i in range(19)])))
    assert (found.node, found.tensor, found.metrics) == (None, None, None)
    assert found.reason.startswith("the difference vanishes where inner tensors are looked at")
    assert found.reason.endswith("; the fault is in one of 20 nodes")
    assert found.opened == 10  # eight places at once, four single ones


def test_a_backend_that_refuses_cuts_with_inner_tensors():
    backend = Planted(off("t10"), refuses=lambda model: "no, never" if len(model.graph.output) > 1 else "")
    found = search(chain(20), backend)
    assert found.node is None
    assert found.reason == "cut models are refused: wrong: ModelError: no, never; the fault is in one of 20 nodes"


def test_a_place_that_is_refused_is_left_out():
    def refuses(model):
        return "not this one" if "t8" in {value.name for value in model.graph.output} else ""

    assert search(chain(20), Planted(off("t10"), refuses=refuses)).node == "n10"
    found = search(chain(20), Planted(off("t9"), refuses=refuses))
    assert found.node is None
    assert found.reason == (
        "cut models are refused: wrong: ModelError: not this one: the fault is in one of 'n8' (Sin), 'n9' (Sin), "
        "the inputs of which agree"
    )


def test_a_backend_that_refuses_copies_of_its_inputs():
    def refuses(model):
        return "nothing computes that" if any(each.op_type == "Identity" for each in model.graph.node) else ""

    assert search(chain(20), Planted(off("t10"), refuses=refuses)).node == "n10"


def test_a_backend_without_options_for_axes():
    backend = Planted(off("t10"), lacks=("batch_axis", "rows_per_row"))
    assert search(chain(20), backend).node == "n10"
    assert backend.options[-1] == {}


# ---------------------------------------------------------------------------------------------------------------- the rows


def swapped(answers, rows, gear):
    return {name: array[::-1].copy() if array.ndim and len(array) == rows else array for name, array in answers.items()}


def test_rows_that_go_astray_are_no_nodes_fault():
    found = search(chain(20), Planted(garble=swapped), sizes=(1, 4))
    assert (found.node, found.tensor) == (None, "x")
    assert found.reason == (
        "a copy of the input 'x' comes back with other values: rows go astray on their way in or out, not in a node"
    )


def test_a_fault_in_padded_launches_only():
    def garble(answers, rows, gear):
        return swapped(answers, rows, gear) if rows < gear else answers

    found = search(chain(20), Planted(garble=garble, pads=True), sizes=(4,), requests=(4, 3))
    assert found.node is None
    assert found.reason == (
        "with exact launches nothing differs: the fault is in padding or splitting, not in a node; of 3 rows, run as "
        "4 (3 rows), a copy of the input 'x' comes back with other values: rows go astray on their way in or out, not in a node"
    )


def heads():
    """Return a model with inner tensors whose rows are on axis 0, in two entries each; on axis 1; and nowhere."""
    nodes = [
        node("Reshape", ["x", "split"], ["h"], "to_heads"),
        node("Sin", ["h"], ["hs"], "sin_heads"),
        node("Reshape", ["hs", "join"], ["j"], "join_heads"),
        node("Transpose", ["j"], ["k"], "turn", perm=[1, 0]),
        node("Sin", ["k"], ["ks"], "sin_turned"),
        node("Transpose", ["ks"], ["b"], "turn_back", perm=[1, 0]),
        node("Sin", ["bias"], ["sb"], "sin_bias"),
        node("Add", ["b", "sb"], ["y"], "add"),
    ]
    weights = {"split": np.array([-1, 2]), "join": np.array([-1, 4]), "bias": np.ones(4, np.float32)}
    return build(nodes, {"x": ["rows", 4]}, {"y": ["rows", 4]}, weights)


@pytest.mark.parametrize("at", ["h", "hs", "j", "k", "ks", "b", "sb", "y"])
@pytest.mark.parametrize("sizes", [None, (1, 4)])
def test_inner_tensors_with_rows_on_any_axis(at, sizes):
    assert search(heads(), Planted(off(at)), sizes=sizes, rows=4).tensor == at


def test_in_padded_launches_the_axes_of_inner_tensors_are_proven():
    """What is wrong only in short launches shows first at ks, whose rows are on axis 1."""

    def garble(answers, rows, gear):
        late = {"ks", "b", "y"}
        return {name: array + np.float32(rows < gear and name in late) for name, array in answers.items()}

    found = search(heads(), Planted(garble=garble, pads=True), sizes=(4,), rows=3)
    assert (found.node, found.operator, found.tensor) == (None, "Sin", "ks")
    assert found.reason == (
        "with exact launches nothing differs: the fault is in padding or splitting, not in a node; of 3 rows, run as "
        "4 (3 rows), it shows first where the inputs of 'sin_turned' (Sin) agree, its output 'ks' does not"
    )


def test_padding_that_a_coupled_model_shows():
    """A softmax over the rows: padding enters into it, and no proof says that this is no node's doing."""
    nodes = [
        node("Sin", ["x"], ["t0"], "n0"),
        node("Sin", ["t0"], ["t1"], "n1"),
        node("Softmax", ["t1"], ["t2"], "over_rows", axis=0),
        node("Sin", ["t2"], ["y"], "n3"),
    ]
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]})
    found = search(model, Planted(), sizes=(4,), rows=3, options={"safety": "off"})
    assert (found.node, found.operator, found.tensor) == ("over_rows", "Softmax", "t2")
    assert found.reason == (
        "with exact launches nothing differs: padding or splitting shows it; of 3 rows, run as 4 (3 rows), "
        "the inputs of 'over_rows' (Softmax) agree, its output 't2' does not"
    )


def test_tensors_that_a_session_answers_with_nothing_are_left_out():
    """It takes free dimensions for 0 where it does not know them as that of the rows, as behind a Reshape that mixes rows."""
    nodes = [
        node("Sin", ["x"], ["a"], "na"),
        node("Reshape", ["a", "mixed"], ["b"], "nb"),
        node("Sin", ["b"], ["c"], "nc"),
        node("Reshape", ["c", "again"], ["y"], "ny"),
    ]
    weights = {"mixed": np.array([3, -1]), "again": np.array([-1, 3])}
    model = build(nodes, {"x": ["rows", 3]}, {"y": ["rows", 3]}, weights)

    def garble(answers, rows, gear):
        return {name: array[:, :0] if name in "bc" else array for name, array in answers.items()}

    assert search(model, Planted(off("c"))).node == "nc"
    assert search(model, Planted(off("a"), garble=garble)).node == "na"
    found = search(model, Planted(off("c"), garble=garble))
    assert (found.node, found.tensor, found.opened) == (None, "y", 4)
    assert found.reason == (
        "what passes between nodes cannot be looked at: the fault is in one of 'nb' (Reshape), 'nc' (Sin), 'ny' (Reshape), "
        "the inputs of which agree"
    )


def test_a_reference_without_that_gear_is_opened_for_it():
    reference = Entry("onnxruntime", "right", batch_sizes=(3, 16))
    assert search(heads(), Planted(off("hs")), sizes=(1, 4), rows=4, reference=reference).tensor == "hs"


def test_rows_that_differ_are_chosen():
    """One row of twenty is wrong, and only there: at the seventh x is large."""
    model = build(
        [
            node("Sin", ["x"], ["t0"], "n0"),
            node("Mul", ["t0", "x"], ["t1"], "n1"),
            node("Clip", ["t1", "", "top"], ["t2"], "n2"),
            node("Sin", ["t2"], ["y"], "n3"),
        ],
        {"x": ["rows", 1]},
        {"y": ["rows", 1]},
        {"top": np.float32(50)},
    )

    def plant(proto):
        for tensor in proto.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(np.float32(5), tensor.name))

    x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    x[7] = 8.0
    found = search(model, Planted(plant), inputs={"x": x}, requests=(2, 0, 18), sizes=(1, 2))
    assert found.node == "n2"
    assert found.metrics.elements == 1


# ------------------------------------------------------------------------------------------------------- a fixed batch size


@pytest.mark.parametrize("sizes", [None, (4,), (1, 2, 4)])
@pytest.mark.parametrize("at", ["t0", "t6", "t9"])
def test_a_model_with_a_fixed_batch_size(sizes, at):
    inputs = {"x": RANDOM.standard_normal((8, 3)).astype(np.float32)}
    assert search(chain(10, rows=4), Planted(off(at)), inputs=inputs, sizes=sizes, rows=8).tensor == at


# ---------------------------------------------------------------------------------------------------------- forms of models


def test_external_data_is_there_for_cut_models(tmp_path):
    nodes = [node("MatMul", [f"t{i - 1}" if i else "x", f"w{i}"], [f"t{i}"], f"n{i}") for i in range(6)]
    weights = {f"w{i}": np.random.default_rng(i).standard_normal((3, 3)).astype(np.float32) for i in range(6)}
    model = build(nodes, {"x": ["rows", 3]}, {"t5": ["rows", 3]}, weights)
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.ModelProto.FromString(model.SerializeToString()),
        path,
        save_as_external_data=True,
        size_threshold=0,
        location="w.bin",
    )
    found = find_divergence(
        path,
        Entry("onnxruntime", "right"),
        Entry(Planted(off("t3")), "wrong"),
        {"x": np.ones((4, 3), np.float32)},
        output="t5",
        case=Case("4 rows", (4,)),
        judge=judge,
    )
    assert found.node == "n3"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "w.bin"]


def test_an_entry_with_a_model_of_its_own_is_cut_by_its_own_graph():
    model, other = chain(20), chain(20)
    other.graph.node[7].op_type = "Cos"
    other.graph.node[12].output[0] = other.graph.node[13].input[0] = "another name"
    inputs = {"x": np.ones((4, 3), np.float32)}

    def same_dtype(expected, got):
        assert expected.dtype == got.dtype
        return judge(expected, got)

    cast = chain(20)
    cast.graph.node.insert(7, node("Cast", ["t6"], ["wide"], "cast", to=TensorProto.DOUBLE))
    cast.graph.node[8].CopyFrom(node("Tanh", ["wide"], ["t7"], "n7"))
    cast.graph.node[9].CopyFrom(node("Cast", ["t7"], ["narrow"], "cast back", to=FLOAT))
    cast.graph.node.insert(10, node("Sin", ["narrow"], ["t8"], "n8"))
    for left, right in ((None, other), (other, None), (None, cast)):
        found = find_divergence(
            model,
            Entry("onnxruntime", "right", model=left),
            Entry("onnxruntime", "wrong", model=right),
            inputs,
            output="t19",
            case=Case("4 rows", (4,)),
            judge=same_dtype,
        )
        # Where the candidate casts before n7, there is no tensor of the reference's to hold against what it casts to.
        assert (found.node, found.tensor) == (None if right is cast else "n7", "t7")


def test_a_model_without_a_graph(tmp_path):
    path = tmp_path / "model.om"
    path.write_bytes(b"IMOD\x00 compiled")
    backend = Planted()
    found = find_divergence(
        chain(3),
        Entry("onnxruntime"),
        Entry(backend, "wrong", model=path),
        {},
        output="t2",
        case=Case("1 row", (1,)),
        judge=judge,
    )
    assert (found.node, found.opened) == (None, 0)
    assert found.reason.startswith("the model of 'wrong' has no graph that could be cut")


# ---------------------------------------------------------------------------------------------------------------- the time


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_time_runs_out():
    clock = Clock()

    def slow(model):
        clock.now += 10
        return ""

    lines = []
    backend = Planted(off("t100"), refuses=slow)
    found = search(chain(200), backend, seconds=35, wall=clock, progress=lines.append)
    assert (found.node, found.opened) == (None, 4)
    assert found.reason.startswith("ran out of time after 30 s: the fault is in ")
    assert found.metrics.outside == 12
    assert len(lines) == 4
    assert lines[:3] == [
        "right: opening the whole model",
        "wrong: opening the whole model",
        "200 of 200 nodes left: opening a model cut at 8",
    ]
    clock.now = 0
    found = search(chain(200), backend, seconds=5, wall=clock)
    assert found.reason == "ran out of time after 10 s; the fault is in one of 200 nodes"


# --------------------------------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit_is_refused():
    model, inputs = chain(3), {"x": np.ones((4, 3), np.float32)}
    right, wrong = Entry("onnxruntime", "right"), Entry(Planted(), "wrong")
    with pytest.raises(InputError, match=r"expected an output of the model of 'right', \['t2'\], got 'y'"):
        find_divergence(model, right, wrong, inputs, output="y", case=Case("4 rows", (4,)), judge=judge)
    with pytest.raises(InputError, match=r"'x': expected the 5 rows of case '5 rows', float32 \[rows, 3\], got \[4, 3\]"):
        find_divergence(model, right, wrong, inputs, output="t2", case=Case("5 rows", (5,)), judge=judge)
    with pytest.raises(InputError, match="expected an array for each input of the model, got none for 'x'"):
        find_divergence(model, right, wrong, {}, output="t2", case=Case("4 rows", (4,)), judge=judge)


def test_errors_of_a_backend_are_reasons():
    found = search(chain(3), Planted(refuses=lambda model: "no"))
    assert found.reason == "wrong: could not be opened: ModelError: no"

    def breaks(answers, rows, gear):
        raise RuntimeError("melted")

    assert search(chain(3), Planted(garble=breaks)).reason == "wrong: failed: RuntimeError: melted"


# ------------------------------------------------------------------------------------------------------- any node is found


def random_graph(random, count):
    """Return a model of random branches that all lead to the output; nothing hides and nothing cancels a difference."""
    nodes, ends = [], ["x"]
    for index in range(count):
        left = count - index
        first = ends.pop(random.integers(len(ends)))
        if ends and (len(ends) + 1 >= left or random.random() < 0.3):
            nodes.append(node("Add", [first, ends.pop(random.integers(len(ends)))], [f"t{index}"], f"n{index}"))
        else:
            nodes.append(node("Mul", [first, f"w{index % 7}"], [f"t{index}"], f"n{index}"))
            if random.random() < 0.4 and len(ends) + 2 < left:
                ends.append(first)  # which has another reader, then
        ends.append(f"t{index}")
    weights = {f"w{i}": random.uniform(0.5, 0.9, 3) for i in range(7)}
    shapes = {"x": ["rows", 3]}, {f"t{count - 1}": ["rows", 3]}
    return build(nodes, *shapes, weights, types=dict.fromkeys(["x", f"t{count - 1}"], TensorProto.DOUBLE))


@pytest.mark.parametrize("seed", range(12))
def test_any_node_of_a_random_graph_is_found(seed):
    random = np.random.default_rng(seed)
    model = random_graph(random, 200)
    graph = Graph(model, "t199", {"x": (4, 3)})
    assert len(graph.nodes) == 200
    culprit = graph.nodes[random.integers(200)]
    backend = Planted(off(culprit.output[0], np.float64(1.5)))
    found = search(
        model,
        backend,
        inputs={"x": random.uniform(1, 2, (4, 3))},
        judge=lambda expected, got: judge(expected, got, 1e-13),
    )
    assert found.node == culprit.name
    assert found.opened == 2 * (len(backend.models) - 1) <= most_opens(200)


@pytest.mark.parametrize("seed", range(30))
def test_places_alone(seed):
    """Without models: any transition is found with few looks, places being wide or narrow."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 3000))
    first = int(random.integers(count))
    bisection = Bisection([int(random.integers(1, 6)) for _ in range(count)])
    looks = 0
    while (places := bisection.next()) or not bisection.settled:
        looks += 1
        assert bisection.low < min(places, default=count) <= max(places, default=-1) < bisection.high or not places
        assert bisection.learn({place: place >= first for place in (bisection.low, *places, bisection.high)})
    assert (bisection.low, bisection.high) == (first - 1, first)
    assert looks <= most_opens(count) / 2


def test_one_look_answers_few_tensors():
    assert len(Bisection([1] * 100).next()) == 8
    bisection = Bisection([10] * 100)
    assert len(bisection.next()) == 3
    assert len(Bisection([50] * 100).next()) == 1


def test_after_a_failure_fewer_places_are_looked_at_and_more_again_later():
    bisection = Bisection([1] * 1000)
    assert bisection.fail(bisection.next(), "refused")
    for _ in range(3):
        places = bisection.next()
        assert len(places) == 1
        assert bisection.fail(places, "refused")
        assert places[0] in bisection.left_out
    for count in (1, 2, 4):
        places = bisection.next()
        assert len(places) == count
        assert bisection.learn(dict.fromkeys(places, True) | {-1: False, bisection.high: True})
    bisection = Bisection([1] * 1000)
    bisection.fail(bisection.next(), "refused")
    assert [bisection.fail(bisection.next(), "refused") for _ in range(4)] == [True, True, True, False]
    bisection.learn({-1: False, 999: True})
    assert bisection.fail([500], "refused"), "what succeeds in between forgives"


def test_places_that_contradict_themselves():
    bisection = Bisection([1] * 100)
    for _ in range(3):
        assert bisection.learn({-1: False, 50: False, 99: True})
        assert bisection.learn({50: True, 99: True})
        assert (bisection.low, bisection.high, bisection.settled) == (-1, 50, False)
    with pytest.raises(_GivenUpError, match="what agreed with one cut differs with the next, time and again"):
        bisection.learn({50: True, 99: True})


# ------------------------------------------------------------------------------------------------------------ the cut itself


def test_a_cut_holds_what_it_needs_and_no_more():
    model = heads()
    model.metadata_props.add(key="author", value="us")
    graph = Graph(model, "y", {"x": (4, 4)})
    cut = cut_model(model, {"hs": graph.tensors["hs"]}, copies=["x"])
    onnx.checker.check_model(cut, full_check=True)
    assert [each.name for each in cut.graph.node] == ["to_heads", "sin_heads", "x/as_it_came"]
    assert [each.name for each in cut.graph.initializer] == ["split"]
    assert [each.name for each in cut.graph.output] == ["hs", "x/as_it_came"]
    assert cut.metadata_props == model.metadata_props
    assert [value.name for value in model.graph.input] == ["x"], "the model itself is as before"
