"""Asynchronous execution: many requests in flight, one callback for every few launches.

The vendor's page has the program start a thread, subscribe it to a stream, queue a pool of buffers, launch a callback every
few executions, unsubscribe and join. All of that is behind the option ``callback_every``; ``runner.submit`` gives a
future per request, ``runner.map`` the results in order, never holding more than a few requests.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

import anybatch

BACKEND = "ascend-sim"  # on a card: "ascend"

DIGITS = Path(__file__).parents[1] / "01_digits"
REQUESTS = [1, 3, 7, 20, 13, 64, 2, 40, 5, 45, 17, 83]  # rows of each; 300 in all
OPTIONS = {"batch_sizes": [1, 2, 4, 8], "callback_every": 2}


def main() -> None:
    with np.load(DIGITS / "test_set.npz") as test_set:
        images, labels = test_set["images"], test_set["labels"]
    bounds = list(pairwise(accumulate(REQUESTS, initial=0)))
    print(f"on {BACKEND}{', a simulated card' * BACKEND.endswith('-sim')}\n")

    with anybatch.open(DIGITS / "digits.onnx", backend=BACKEND, **OPTIONS) as runner:
        print("submit: a future per request")
        futures = [runner.submit({"images": images[start:stop]}) for start, stop in bounds]
        for (start, stop), future in zip(bounds, futures, strict=True):
            right = (future.result()["scores"].argmax(axis=1) == labels[start:stop]).sum()
            print(f"  rows {start:3} to {stop - 1:3}: {right:2} of {stop - start:2} digits right")

        print("\nmap: results come in while later requests are queued")
        sent = 0

        def requests() -> Iterator[dict[str, np.ndarray]]:
            nonlocal sent
            for start, stop in bounds:
                sent += 1
                yield {"images": images[start:stop]}

        for place, outputs in enumerate(runner.map(requests(), in_flight=6)):
            if not np.array_equal(outputs["scores"], futures[place].result()["scores"]):
                raise SystemExit(f"request {place + 1}: expected the scores that submit gave")
            print(f"  result {place + 1:2} of {len(bounds)} came in with {sent:2} requests sent")
        launches = sum(runner.stats().launches.values())

    print(f"\n{launches} launches")
    if BACKEND == "ascend-sim":  # a card keeps no ledger
        from acl_sim.testing import ledger

        account = ledger()
        executions, callbacks = (account.calls[f"acl.{name}"] for name in ("mdl.execute_async", "rt.launch_callback"))
        print(f"the simulator counted {executions} executions and {callbacks} callbacks")
        print(f"left behind: {len(account.leaks)} handles or blocks of memory; rules violated: {len(account.violations)}")


if __name__ == "__main__":
    main()
