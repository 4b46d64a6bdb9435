"""Model execution: compile a model to an .om file, load it in the vendor's four ways, and take the top five classes.

The vendor's page has the program make a description, datasets and buffers, copy in, execute, copy out and free it all.
All of that is in ``anybatch.open`` and ``runner.run``.
"""

import tempfile
from pathlib import Path

import numpy as np

import anybatch

BACKEND = "ascend-sim"  # on a card: "ascend"

DIGITS = Path(__file__).parents[1] / "01_digits"
IMAGES = [56, 113, 161, 168, 222]  # some that the model finds hard
LOADS = {
    "file": "from the file, in memory of the runtime",
    "mem": "from bytes, in memory of the runtime",
    "file_with_mem": "from the file, in memory of the plugin",
    "mem_with_mem": "from bytes, in memory of the plugin",
}


def main() -> None:
    with np.load(DIGITS / "test_set.npz") as test_set:
        images, labels = test_set["images"][IMAGES], test_set["labels"][IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        om = Path(folder, "digits.om")
        anybatch.compile(DIGITS / "digits.onnx", backend=BACKEND, batch_sizes=[1, 2, 4, 8], output=om)
        print(f"compiled for {BACKEND}{', a simulated card' * BACKEND.endswith('-sim')}: {om.name}\n")

        answers = {}
        for load, meaning in LOADS.items():
            # An .om has no graph to prove that images do not influence one another; of the .onnx, it is proven.
            with anybatch.open(om, backend=BACKEND, load=load, independent=["scores"]) as runner:
                answers[load] = runner.run({"images": images})["scores"]
            same = np.array_equal(answers[load], answers["file"])
            print(f"load={load:15} {meaning:42} {'same scores' if same else 'OTHER SCORES'}")
            if not same:
                raise SystemExit(f"load={load}: expected the scores that load=file gave")

    scores = answers["file"]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    print("\nimage  is  the five likeliest digits")
    for row, (image, label) in enumerate(zip(IMAGES, labels, strict=True)):
        top = np.argsort(-shares[row])[:5]
        print(f"{image:5}  {label:2}  " + "  ".join(f"{digit}: {shares[row, digit]:.4f}" for digit in top))


if __name__ == "__main__":
    main()
