"""Drift: one gear of a simulated card slows threefold and recovers. ``python benchmarks/drift.py``.

Requests of 1 to 40 rows, one after another, on the Ascend simulator's device clock, which is deterministic: the figures are
modelled, the same in every run, and say nothing about hardware. Regret is time over what the best plans would have taken that
knew the true costs at every moment. Beside ours: the same calibration, never corrected; the costs corrected by an all-time mean, as
TensorFlow's batcher keeps them; and rounding up.

Goals: regret under 5 % over the whole run; plans are the best ones again within a stated number of launches after each change; a
single launch that takes 100 times as long changes no plan.
"""
