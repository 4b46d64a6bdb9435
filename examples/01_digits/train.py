"""Train the demo's digit classifier and write the two files that the examples read.

The files, written to this script's own folder unless `--out` says otherwise:

- `digits.onnx`: two convolutions and a dense layer. Input `images`, float32 [batch, 1, 8, 8], grey levels 0 to 16 as in
  the data (the graph itself divides by 16); output `scores`, float32 [batch, 10], one logit per digit. The batch axis
  is free and no operator mixes rows, so any split or padding of a request is allowed.
- `test_set.npz`: the 600 rows held out from training. `images`, float32 [rows, 1, 8, 8], fits the model's input as it
  is; `labels`, int64 [rows], holds the digits.

Run it from anywhere, after `pip install -r requirements.txt`:

    python train.py             # write both files again
    python train.py --check     # train into a temporary folder and compare; exit code 1 on a difference

The data are the 1797 images that `sklearn.datasets.load_digits` carries, so nothing is downloaded. By scikit-learn's
own description they are a copy of the test set of the UCI data set "Optical Recognition of Handwritten Digits"
(E. Alpaydin, July 1998). That description states no licence; README.md says what else is known about it.
"""

import argparse
import sys
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import nn

HERE = Path(__file__).resolve().parent
MODEL_NAME = "digits.onnx"
TEST_SET_NAME = "test_set.npz"

DEFAULT_SEED = 20240229
TEST_ROWS = 600
EPOCHS = 30
TRAINING_BATCH = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2

BRIGHTEST = 16.0
"""The data's largest grey level: each pixel counts the inked cells of a 4x4 block."""

# Processors round differently, and training magnifies that. With torch held to one instruction set after another, the
# weights of one seed came out up to 0.006 apart in float32; in float64, rounded to float32 at the end, not at all.
TRAINING_DTYPE = torch.float64

# Opset 17 and IR 9: old enough for runtimes and vendor compilers of early 2024, and nothing here needs more.
OPSET = 17
IR_VERSION = 9

WEIGHT_RTOL = 1e-4
WEIGHT_ATOL = 1e-5

DOC = (
    "Handwritten digit classifier for the anybatch examples. Input: 8x8 images, grey levels 0 to 16. "
    "Output: ten logits, one per digit. Trained by examples/01_digits/train.py on the digits of scikit-learn."
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled images.

    Attributes:
        images: float32 [rows, 1, 8, 8], grey levels 0 to 16.
        labels: int64 [rows], the digits 0 to 9.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse images and labels that do not belong together."""
        expected = (len(self.labels), 1, 8, 8)
        if self.images.shape != expected:
            raise ValueError(f"images: expected shape {expected}, one per label, got {self.images.shape}")


def split_digits(seed: int) -> tuple[Rows, Rows]:
    """Load the digits and split them into rows to train on and TEST_ROWS to test on.

    Both parts have each digit in the same proportion. The split is by row: the data do not say who wrote which digit,
    so one person's handwriting may be on both sides.

    Args:
        seed: fixes which rows are held out, and their order.
    Returns:
        The training rows, then the test rows.
    """
    digits = load_digits()
    images = digits.images.astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_ROWS, stratify=labels, random_state=seed
    )
    return Rows(train_images, train_labels), Rows(test_images, test_labels)


def build_network() -> nn.Sequential:
    """Return the untrained network, for images already divided by BRIGHTEST.

    Its initial weights come from torch's global generator. The layers' names are those of the ONNX nodes.
    """
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 16, kernel_size=3, padding=1, dtype=TRAINING_DTYPE),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, kernel_size=3, padding=1, dtype=TRAINING_DTYPE),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(kernel_size=2),
            flatten=nn.Flatten(),
            dense=nn.Linear(32 * 4 * 4, 10, dtype=TRAINING_DTYPE),
        )
    )


def train_network(rows: Rows, seed: int) -> nn.Sequential:
    """Train a network on the given rows, printing one line per epoch.

    Sets torch's global state (one thread, deterministic algorithms, the seed), so the same seed gives the same weights.

    Args:
        rows: what to learn from.
        seed: fixes the initial weights and the order of the rows in each epoch.
    Returns:
        The trained network.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    network = build_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    loss_of = nn.CrossEntropyLoss()
    images = torch.from_numpy(rows.images).to(TRAINING_DTYPE) / BRIGHTEST
    labels = torch.from_numpy(rows.labels)

    for epoch in range(1, EPOCHS + 1):
        loss_sum, correct = 0.0, 0
        order = torch.randperm(len(labels))
        for start in range(0, len(order), TRAINING_BATCH):
            picked = order[start : start + TRAINING_BATCH]
            scores = network(images[picked])
            loss = loss_of(scores, labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(picked)
            correct += int((scores.argmax(dim=1) == labels[picked]).sum())
        schedule.step()
        print(
            f"epoch {epoch:2d}/{EPOCHS}  loss {loss_sum / len(labels):.4f}  accuracy {correct / len(labels):.4f}",
            flush=True,
        )
    return network


def build_model(network: nn.Sequential, seed: int) -> onnx.ModelProto:
    """Write the trained network down as an ONNX model.

    The graph is spelled out here rather than exported, so its names are ours and do not change with the exporter.

    Args:
        network: a trained network from `build_network`.
        seed: noted in the model's metadata.
    Returns:
        The model, weights in float32, accepted by the full ONNX checker.
    """
    weights = {name: tensor.to(torch.float32).numpy() for name, tensor in network.state_dict().items()}
    constants = {"brightest": np.array(BRIGHTEST, dtype=np.float32), **weights}
    window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Div", ["images", "brightest"], ["scaled"], name="scale"),
        helper.make_node("Conv", ["scaled", "conv1.weight", "conv1.bias"], ["conv1_out"], name="conv1", **window),
        helper.make_node("Relu", ["conv1_out"], ["relu1_out"], name="relu1"),
        helper.make_node("Conv", ["relu1_out", "conv2.weight", "conv2.bias"], ["conv2_out"], name="conv2", **window),
        helper.make_node("Relu", ["conv2_out"], ["relu2_out"], name="relu2"),
        helper.make_node("MaxPool", ["relu2_out"], ["pool_out"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        # Not Reshape: that one would carry a row count, or a -1 that hides where the rows went.
        helper.make_node("Flatten", ["pool_out"], ["flatten_out"], name="flatten", axis=1),
        helper.make_node("Gemm", ["flatten_out", "dense.weight", "dense.bias"], ["scores"], name="dense", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        inputs=[
            helper.make_tensor_value_info(
                "images", TensorProto.FLOAT, ["batch", 1, 8, 8], doc_string="Grey levels 0 (paper) to 16 (ink)."
            )
        ],
        outputs=[
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10], doc_string="One logit per digit, 0 to 9.")
        ],
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
        doc_string=DOC,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="anybatch examples/01_digits/train.py",
        doc_string=DOC,
    )
    helper.set_model_props(model, {"seed": str(seed), "data": "sklearn.datasets.load_digits"})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_artefacts(folder: Path, seed: int) -> None:
    """Train, then write MODEL_NAME and TEST_SET_NAME into a folder that exists, replacing older ones."""
    training, test = split_digits(seed)
    started = time.perf_counter()
    network = train_network(training, seed)
    print(f"trained on {len(training.labels)} rows in {time.perf_counter() - started:.1f} s")
    onnx.save(build_model(network, seed), folder / MODEL_NAME)
    np.savez_compressed(folder / TEST_SET_NAME, images=test.images, labels=test.labels)


def load_test_set(folder: Path) -> Rows:
    """Read TEST_SET_NAME from a folder."""
    with np.load(folder / TEST_SET_NAME) as arrays:
        return Rows(arrays["images"], arrays["labels"])


def count_correct(folder: Path) -> tuple[int, int]:
    """Run a folder's model on its test set, both as written to disk, on ONNX's own reference implementation.

    Returns:
        The number of rows classified correctly, and the number of rows.
    """
    test = load_test_set(folder)
    (scores,) = ReferenceEvaluator(str(folder / MODEL_NAME)).run(["scores"], {"images": test.images})
    return int((np.argmax(scores, axis=1) == test.labels).sum()), len(test.labels)


def find_test_set_differences(committed: Path, fresh: Path) -> list[str]:
    """Compare two folders' test sets byte by byte; return a sentence per array that differs."""
    old, new = load_test_set(committed), load_test_set(fresh)
    pairs: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {
        "images": (old.images, new.images),
        "labels": (old.labels, new.labels),
    }
    return [
        f"{TEST_SET_NAME}: {name!r} differs: committed {a.dtype} {list(a.shape)}, retrained {b.dtype} {list(b.shape)}"
        for name, (a, b) in pairs.items()
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes())
    ]


def find_model_differences(committed: Path, fresh: Path) -> list[str]:
    """Compare two folders' models: the graph exactly, the weights within WEIGHT_RTOL and WEIGHT_ATOL, the accuracy.

    Prints the largest difference between two weights.

    Returns:
        A sentence per difference.
    """
    old, new = onnx.load(committed / MODEL_NAME), onnx.load(fresh / MODEL_NAME)
    old_weights, new_weights = take_weights(old), take_weights(new)
    # What is left after take_weights is everything but the numbers.
    if old.SerializeToString(deterministic=True) != new.SerializeToString(deterministic=True):
        return [f"{MODEL_NAME}: the graph or its metadata differ"]
    old_shapes = {name: value.shape for name, value in old_weights.items()}
    new_shapes = {name: value.shape for name, value in new_weights.items()}
    if old_shapes != new_shapes:
        return [f"{MODEL_NAME}: the weights' shapes differ: committed {old_shapes}, retrained {new_shapes}"]

    gaps = {name: float(np.max(np.abs(value - new_weights[name]))) for name, value in old_weights.items()}
    print(f"largest difference between two weights: {max(gaps.values()):.2g}")
    differences = [
        f"{MODEL_NAME}: {name!r} differs by up to {gap:.2g}"
        for name, gap in gaps.items()
        if not np.allclose(old_weights[name], new_weights[name], rtol=WEIGHT_RTOL, atol=WEIGHT_ATOL)
    ]
    old_correct, new_correct = count_correct(committed), count_correct(fresh)
    if old_correct != new_correct:
        differences.append(f"{MODEL_NAME}: correct rows: committed {old_correct[0]}, retrained {new_correct[0]}")
    return differences


def take_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """Remove a model's constants from it and return them by name."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    return weights


def print_accuracy(folder: Path) -> None:
    """Print how many of a folder's test rows its model gets right."""
    correct, rows = count_correct(folder)
    print(f"test accuracy {correct / rows:.4f} ({correct} of {rows} rows)")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; exits with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        description=f"Train the demo's digit classifier; write {MODEL_NAME} and {TEST_SET_NAME}.",
        epilog="Exit code: 0 done or nothing differs, 1 --check found a difference, 2 wrong usage.",
    )
    parser.add_argument(
        "--out", type=Path, default=HERE, metavar="DIR", help="folder to write to, or to check (default: this script's)"
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="fixes the split and the training (default: %(default)s)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="retrain into a temporary folder and compare with DIR, changing nothing there",
    )
    options = parser.parse_args(arguments)
    if options.check:
        for name in (MODEL_NAME, TEST_SET_NAME):
            if not (options.out / name).is_file():
                parser.error(f"--check: {options.out} holds no {name} to compare with; run without --check first")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = parse_arguments(arguments)
    if not options.check:
        options.out.mkdir(parents=True, exist_ok=True)
        write_artefacts(options.out, options.seed)
        print_accuracy(options.out)
        return 0

    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        write_artefacts(fresh, options.seed)
        differences = [*find_test_set_differences(options.out, fresh), *find_model_differences(options.out, fresh)]
        print_accuracy(fresh)
    for difference in differences:
        print(difference, file=sys.stderr)
    print("check failed" if differences else "check passed: retraining made the same files")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
