"""Comparisons made by hand, of every kind that a report has to show. Figures are made up; plans are real."""

import math
from dataclasses import replace

from anybatch import AnyBatch, Gears, Planner, TableCosts
from anybatch._guard import RowSafety
from anybatch._planner import Plan
from anybatch.comparison._results import (
    Accuracy,
    Case,
    Comparison,
    Divergence,
    EntryResult,
    Failure,
    Interval,
    Metrics,
    SizeSpeed,
    Speed,
    StreamSpeed,
    Tolerance,
    Worst,
)

GEARS = (1, 2, 4, 8)
SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 17)
STREAM = (3, 7, 1, 12, 5, 8, 2)
CASES = (*(Case(f"{n} row{'s' * (n != 1)}", (n,)) for n in SIZES), Case("ragged stream", STREAM))
TOLERANCE = Tolerance(1e-5, 1e-7, "float32: 84 units in the last place, for sums in another order")
HALF = Tolerance(2e-3, 1e-4, "float16: two units in the last place per layer, 12 layers")
HOSTILE = '<script>alert("x")</script>&amp;\'</title><img src=http://evil.example/x.png onerror=alert(1)>'


def plan_of(rows, gears=GEARS):
    """Return the least-cost plan of a request, or one launch where any number of rows is possible."""
    if gears is None:
        return Planner(AnyBatch()).plan(rows)
    return Planner(Gears(gears), TableCosts({gear: 1.0 + 0.4 * gear for gear in gears}, unit="ms")).plan(rows)


def interval(value, spread=0.04):
    return Interval(value, value * (1 - spread), value * (1 + spread))


def size_speed(rows, base_s, row_s, gears):
    plan: Plan = plan_of(rows, gears)
    latency = 2e-6 + sum(base_s + row_s * launch.gear for launch in plan.launches)
    executed = sum(launch.gear for launch in plan.launches)
    return SizeSpeed(
        plan=plan,
        calls=300,
        p50=interval(latency),
        p90=interval(latency * 1.12),
        p99=interval(latency * 1.9, 0.15),
        mean=interval(latency * 1.05),
        rows_per_s=interval(rows / latency),
        padding_s=latency * plan.padded_rows / max(executed, 1),
    )


def speed(entry, provenance="measured", base_s=1e-3, row_s=2e-4, gears=GEARS, sizes=SIZES):
    plans = [plan_of(rows, gears) for rows in STREAM]
    launches = [launch.gear for plan in plans for launch in plan.launches]
    return Speed(
        entry=entry,
        provenance=provenance,
        clock="the wall clock (time.perf_counter)" if provenance == "measured" else "the simulator's device clock",
        sizes=tuple(size_speed(rows, base_s, row_s, gears) for rows in sizes),
        stream=StreamSpeed(
            requests=STREAM,
            passes=20,
            rows_per_s=interval(sum(STREAM) / (len(launches) * base_s + sum(launches) * row_s)),
            launches={gear: launches.count(gear) for gear in sorted(set(launches))},
            padded_rows=sum(plan.padded_rows for plan in plans),
        ),
    )


def metrics(rows, features=10, share=0.02, scale=1.0):
    """Return figures of an output whose worst element is at `share` of what is tolerated, 1e-5 times `scale`."""
    elements = rows * features
    differing = elements // 3
    outside = elements // 20 + 1 if share > 1 and elements else 0
    bins = [elements - differing, 0, 0, 0, 0, 0, 0, 0]
    bins[1 if share <= 1e-3 else min(4 + math.ceil(math.log10(share)), 7)] += outside or min(differing, 1)
    bins[2] += differing - sum(bins[1:])
    off = share * 1e-5 * scale
    return Metrics(
        elements=elements,
        differing=differing,
        outside=outside,
        nan_mismatches=0,
        inf_mismatches=0,
        max_abs=off if differing else 0.0,
        mean_abs=off / 7 if differing else 0.0,
        max_rel=off / scale if differing else None,
        mean_rel=off / 9 if differing else None,
        zeros_missed=0,
        max_ulp=round(off * 8e6),
        cosine=1.0 - off**2 if elements else None,
        snr_db=120 - 20 * math.log10(1 + off * 1e6) if differing else None,
        top1=1.0 if elements else None,
        top5=0.998 if elements else None,
        histogram=tuple(bins),
    )


def accuracy(entry, case, output="probabilities", share=0.02, faults=(), tolerance=TOLERANCE):
    found = metrics(case.rows, share=share)
    worst = None
    if found.differing:
        worst = Worst(min(2, case.rows - 1), (min(2, case.rows - 1), 4), 0.1234567, 0.1234567 + share * 1e-5, 1e-5)
    return Accuracy(
        entry=entry,
        case=case,
        output=output,
        verdict="fail" if found.outside or faults else "pass",
        metrics=found,
        tolerance=tolerance,
        scale=0.316,
        worst=worst,
        faults=tuple(faults) or ((f"{found.outside} of {found.elements} elements are outside",) if found.outside else ()),
    )


def entry(name, backend="onnxruntime", *, gears=GEARS, simulated=False, **changes):
    proven = RowSafety("probabilities", "independent", "proof", None, "every operator keeps rows apart")
    result = EntryResult(
        name=name,
        backend=backend,
        runtime="onnxruntime 1.27.0, CPUExecutionProvider" if not simulated else f"{backend} 1.0, simulated device clock",
        simulated=simulated,
        device=0,
        model="examples/01_digits/digits.onnx",
        precision="float32",
        batching="any number of rows" if gears is None else f"exactly one of {', '.join(map(str, gears))} rows",
        batch_sizes=gears or (),
        options={},
        verdict="pass",
        compile_s=1.84 if simulated else None,
        compile_cached=False,
        open_s=0.0123,
        memory_bytes=None if not simulated else 18_874_368,
        plans=tuple(plan_of(rows, gears) for rows in SIZES),
        safety=(proven, replace(proven, name="embedding")),
        failures=(),
    )
    return replace(result, **changes)


def passing():
    """Four entries that agree: two measured, two modelled."""
    entries = (
        entry("onnxruntime", gears=None),
        entry("cpu-gears", options={"policy": "'round_up'"}),
        entry("ascend-sim", "ascend-sim", simulated=True, precision="float16"),
        entry("ipu-sim", "ipu-sim", simulated=True, gears=(8,), compile_cached=True, compile_s=0.02),
    )
    shares = {"cpu-gears": 0.0004, "ascend-sim": 0.31, "ipu-sim": 0.004}
    return Comparison(
        verdict="pass",
        reasons=(),
        model="examples/01_digits/digits.onnx",
        model_digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        data="360 held-out digits, examples/01_digits/digits.npz",
        data_rows=360,
        reference="onnxruntime",
        entries=entries,
        accuracy=tuple(
            accuracy(name, case, output, share * (1 + place % 3), tolerance=HALF if name == "ascend-sim" else TOLERANCE)
            for name, share in shares.items()
            for place, case in enumerate(CASES)
            for output in ("probabilities", "embedding")
        ),
        speeds=(
            speed("onnxruntime", base_s=2.2e-4, row_s=3.1e-5, gears=None),
            speed("cpu-gears", base_s=2.4e-4, row_s=3.0e-5),
            speed("ascend-sim", "modelled", base_s=4.1e-4, row_s=6e-6),
            speed("ipu-sim", "modelled", base_s=9e-5, row_s=1.1e-5, gears=(8,)),
        ),
        divergences=(),
        environment={
            "anybatch": "0.1.0",
            "python": "3.11.7",
            "numpy": "2.3.1",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "processor": "2 cores of an unnamed CPU",
        },
        created="2025-11-22T18:04:18Z",
        seconds=41.3,
    )


def failing():
    """A swapped row, an overflow to Inf, a backend that fails in the middle and one that does not open; it was looked into."""
    good = passing()
    swapped = "row 5 of cpu-gears equals row 4 of onnxruntime: rows are swapped"
    overflowed = "17 elements are inf where finite values were expected: float16 ends at 65,504"
    found = []
    for each in good.accuracy:
        if each.entry == "cpu-gears" and each.case.rows >= 7 and each.output == "probabilities":
            found.append(accuracy("cpu-gears", each.case, each.output, 4_200.0, (swapped,)))
        elif each.entry == "ascend-sim" and each.case.name == "17 rows" and each.output == "embedding":
            found.append(
                replace(
                    accuracy("ascend-sim", each.case, each.output, 38.0, (overflowed,), HALF),
                    metrics=replace(metrics(17, share=38.0), inf_mismatches=17, nan_mismatches=2),
                    worst=Worst(11, (11, 3), 70123.5, math.inf, 140.2),
                )
            )
        elif each.entry == "ipu-sim" and each.case.rows >= 8:
            if each.output == "embedding":  # the case failed as a whole
                found.append(Accuracy("ipu-sim", each.case, "", "fail", faults=("the request failed: DeviceError",)))
        else:
            found.append(each)
    device_error = "poprt: session run: device lost (status 507899)\nfirst launch of 8 rows\x1b[0m"
    coupled = RowSafety("embedding", "coupled", "proof", "/norm/ReduceMean", "ReduceMean takes the mean over the rows")
    onnxruntime, gears, ascend, ipu = good.entries
    return replace(
        good,
        verdict="fail",
        reasons=(
            f"cpu-gears: probabilities differs in 5 cases: {swapped}",
            f"ascend-sim: embedding differs at 17 rows: {overflowed}",
            "ipu-sim: DeviceError at 8 rows: poprt: session run: device lost (status 507899)",
            "ascend: cannot be opened: BackendUnavailableError: no module named 'acl'",
        ),
        entries=(
            onnxruntime,
            replace(gears, verdict="fail", safety=(gears.safety[0], coupled)),
            replace(ascend, verdict="fail"),
            replace(ipu, verdict="fail", failures=(Failure("accuracy", "DeviceError", device_error, "8 rows"),)),
            entry(
                "ascend",
                "ascend",
                verdict="fail",
                runtime="",
                batching="",
                batch_sizes=(),
                open_s=None,
                plans=(),
                safety=(),
                failures=(Failure("open", "BackendUnavailableError", "no module named 'acl': install CANN's toolkit, and …"),),
            ),
        ),
        accuracy=tuple(found),
        speeds=good.speeds[:3],
        divergences=(
            Divergence(
                entry="ascend-sim",
                output="embedding",
                node="/encoder/layers.3/attention/Softmax",
                operator="Softmax",
                tensor="/encoder/layers.3/attention/Softmax_output_0",
                metrics=metrics(17, share=38.0),
                tolerance=HALF,
                opened=9,
                reason="its inputs agree within the tolerance, and its output does not.",
            ),
            Divergence("cpu-gears", "probabilities", None, None, None, None, None, 0, "this backend cannot run cut models."),
        ),
    )


def nothing_compared():
    """One entry, the reference, and nothing else."""
    good = passing()
    return replace(
        good,
        verdict="fail",
        reasons=("nothing was compared: there is no entry beside the reference",),
        entries=good.entries[:1],
        accuracy=(),
        speeds=(),
        environment={},
        created="",
        data_rows=0,
    )


def hostile():
    """Names and messages that are markup, much too long, or no text at all; figures that are no numbers."""
    bad, long = HOSTILE, "x" * 400
    surrogate = "\udc80 and \x00\x08 and ]]> "
    nan = math.nan
    case = Case(bad, (3,))
    odd = replace(metrics(3, share=9.0), max_abs=math.inf, mean_abs=nan, cosine=nan, nan_mismatches=3)
    plain = speed(bad)
    first = plain.sizes[3]
    never = Interval(nan, nan, math.inf)
    return replace(
        failing(),
        reasons=(bad, long, surrogate),
        model=bad,
        data=long,
        reference=bad,
        entries=(
            entry(bad, bad, options={bad: bad}, runtime=surrogate, precision=bad, batching=bad),
            entry(long, "ascend-sim", simulated=True, verdict="fail", failures=(Failure("speed", bad, surrogate * 20, bad),)),
        ),
        accuracy=(
            Accuracy(
                long, case, bad, "fail", odd, replace(HALF, reason=bad), 1.0, Worst(1, (1, 2), nan, -math.inf, 0.0), (bad,)
            ),
        ),
        speeds=(replace(plain, clock=bad, sizes=(replace(first, p50=never, p99=never), *plain.sizes)), speed(long, "modelled")),
        divergences=(Divergence(long, bad, bad, bad, bad, odd, HALF, 3, surrogate),),
        environment={bad: long, long: bad},
        created=bad,
    )


def many(count=30):
    """Thirty entries, more than one chart can tell apart, a third of which differ."""
    good = passing()
    names = [f"gears-{place:03d}" for place in range(count)]
    return replace(
        good,
        verdict="fail",
        reasons=tuple(f"{name}: probabilities differs" for name in names[2::3]),
        entries=(
            good.entries[0],
            *(entry(name, verdict="fail" if place % 3 == 2 else "pass") for place, name in enumerate(names)),
        ),
        accuracy=tuple(
            accuracy(name, case, share=30.0 if place % 3 == 2 else 0.01) for place, name in enumerate(names) for case in CASES
        ),
        speeds=tuple(speed(name, base_s=1e-4 * (1 + place % 7), sizes=(1, 4, 8)) for place, name in enumerate(names)),
    )


SAMPLES = {
    "passing": passing,
    "failing": failing,
    "nothing": nothing_compared,
    "hostile": hostile,
    "many": many,
}
