"""Which affine prior does least harm: its plans priced under other true costs. ``python benchmarks/prior.py``.

A launch truly costs t + rows. Each line is a prior, each column a true t; figures are the total cost of requests of 1 to 64
rows, relative to plans that know the truth. Deterministic.
"""

from __future__ import annotations

from anybatch import AffineCosts, Gears, Planner

GEARS = (1, 2, 4, 8, 16, 32)
TRUE = (0, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
PRIORS = (0, 0.5, 1, 1.5, 2, 3, 4, 8, 16)
REQUESTS = range(1, 65)


def main() -> None:
    print(f"gears {GEARS}; true t:" + "".join(f"{true:>8}" for true in TRUE) + "   worst to 8   worst")
    for prior in PRIORS:
        planner = Planner(Gears(GEARS), AffineCosts(prior))
        ratios = []
        for true in TRUE:
            costs = AffineCosts(true)
            truth = Planner(Gears(GEARS), costs)
            ours = sum(costs.of(launch.gear) for n in REQUESTS for launch in planner.plan(n).launches)
            ratios.append(ours / sum(truth.plan(n).cost for n in REQUESTS))
        to_8 = max(ratio for ratio, true in zip(ratios, TRUE, strict=True) if true <= 8)
        mark = "  <- the default" if prior == AffineCosts().overhead else ""
        figures = "".join(f"{ratio:8.3f}" for ratio in ratios)
        print(f"prior t = {prior:<4}{'':>25}{figures}   {to_8:10.3f}{max(ratios):8.3f}{mark}")


if __name__ == "__main__":
    main()
