"""All operators: their rules, and what each input is to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from anybatch.safety import (
    _rules_axis,
    _rules_collection,
    _rules_control,
    _rules_entry,
    _rules_layout,
    _rules_other,
    _rules_place,
    _rules_product,
    _rules_quantised,
    _rules_sequence,
    _rules_window,
)
from anybatch.safety._call import Rule
from anybatch.safety._rules_other import ML_RULES

RULES: Final[Mapping[str, Rule]] = {
    **_rules_axis.RULES,
    **_rules_collection.RULES,
    **_rules_control.RULES,
    **_rules_entry.RULES,
    **_rules_layout.RULES,
    **_rules_other.RULES,
    **_rules_place.RULES,
    **_rules_product.RULES,
    **_rules_quantised.RULES,
    **_rules_sequence.RULES,
    **_rules_window.RULES,
}

# Operators without a rule, by domain and name, and why.
NOT_ANALYSED: Final[Mapping[tuple[str, str], str]] = {
    ("", "ImageDecoder"): "decodes an image, whose size depends on its content",
    ("ai.onnx.ml", "CastMap"): "reads a map, and only tensors are followed",
    ("ai.onnx.ml", "DictVectorizer"): "reads a map, and only tensors are followed",
    ("ai.onnx.ml", "ZipMap"): "makes a map, and only tensors are followed",
    ("ai.onnx.preview", "FlexAttention"): "is a preview, whose definition may change",
    **{
        ("ai.onnx.preview.training", name): "trains, and only inference is followed"
        for name in ("Adagrad", "Adam", "Gradient", "Momentum")
    },
}

# Inputs that say where or how much. What such an input holds decides the shape or the place of everything.
PLACES: Final[Mapping[str, Collection[int]]] = {
    **dict.fromkeys(_rules_axis.REDUCTIONS, (1,)),
    **dict.fromkeys(["BlackmanWindow", "HammingWindow", "HannWindow"], (0,)),
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "SequenceAt": (1,),
    "SequenceErase": (1,),
    "SequenceInsert": (2,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}

# Inputs whose rows a rule follows, where these are not the first alone; rows in any other would enter into all rows.
_EVERY: Final = range(2**31)
FOLLOWED: Final[Mapping[str, Collection[int]]] = {
    **dict.fromkeys(_rules_entry.BROADCAST, _EVERY),
    **dict.fromkeys(_rules_product.RULES, _EVERY),
    **dict.fromkeys(_rules_quantised.RULES, _EVERY),
    **dict.fromkeys(_rules_sequence.RULES, _EVERY),
    **dict.fromkeys(_rules_collection.RULES, _EVERY),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "Concat", "FeatureVectorizer"], _EVERY),
    **dict.fromkeys(["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"], (0, 1)),
    **dict.fromkeys(["Gather", "GatherElements", "GatherND"], (0, 1)),
    **dict.fromkeys(["Scatter", "ScatterElements", "ScatterND", "TensorScatter"], (0, 1, 2)),
    **dict.fromkeys(["MaxRoiPool", "NonMaxSuppression", "RoiAlign"], (0, 1, 2)),
    "CausalConvWithState": (0, 3),
    "Compress": (0, 1),
    "DeformConv": (0, 2, 4),
    "GridSample": (0, 1),
    "MaxUnpool": (0, 1),
    "ReverseSequence": (0, 1),
}

# Inputs of which only the shape or the type is read.
UNREAD: Final[Mapping[str, Collection[int]]] = {"CastLike": (1,), "EyeLike": (0,), "Shape": (0,), "Size": {0}}

# Operators that may turn a number of rows into an axis of rows.
MAKES_ROWS: Final = frozenset({"ConstantOfShape", "Expand", "Range", "Reshape", "Tile"})

# Operators that check for themselves what they are handed: rows may pass by them, in the names that a body captures.
BODIES: Final = frozenset({"If", "Loop", "Scan", "SequenceMap"})

SEQUENCES: Final = frozenset(_rules_collection.RULES) | BODIES | {"Identity"}

__all__ = ["BODIES", "FOLLOWED", "MAKES_ROWS", "ML_RULES", "NOT_ANALYSED", "PLACES", "RULES", "SEQUENCES", "UNREAD"]
