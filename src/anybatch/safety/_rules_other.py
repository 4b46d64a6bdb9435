"""Operators that join rows by their nature, random ones, and those of classical machine learning."""

from __future__ import annotations

from typing import Final

from anybatch.safety._call import Call, CoupledError, Rule, StoppedError, forbid
from anybatch.safety._domain import Value
from anybatch.safety._sizes import Size


def random(_: Call) -> Value:
    """Random numbers."""
    raise CoupledError("draws random numbers, which are others at each run and position")


def suppression(call: Call) -> Value:
    """The boxes that are left, of all images in one list."""
    if call[0].rows is not None or call[1].rows is not None:
        raise CoupledError("lists the boxes of all rows together: how many there are depends on their content")
    return Value((call.fresh("boxes"), Size(3)))


def normalised_strings(call: Call) -> Value:
    """Texts without some of them."""
    if call[0].rows is not None:
        raise CoupledError("drops texts by their content: those behind move up")
    return Value(tuple(call.fresh_shape(len(call.shape(0)))))


def split_strings(call: Call) -> list[Value]:
    """Texts in pieces, as many as the longest has."""
    if call[0].rows is not None:
        raise CoupledError("makes as many pieces as the longest text of all rows has")
    return [Value((*call.shape(0), call.fresh("pieces"))), Value(call[0].shape)]


def counted_words(call: Call) -> Value:
    """How often words appear in each line."""
    shape = call.shape(0)
    forbid(call[0].rows, [len(shape) - 1], "counts along")
    return Value((*shape[:-1], call.fresh("words")), call[0].rows)


# ---------------------------------------------------------------------------------------------------------- ai.onnx.ml


def _features(call: Call) -> None:
    shape = call.shape(0)
    forbid(call[0].rows, [len(shape) - 1] if len(shape) < 2 else range(1, len(shape)), "takes features from")


def classifier(call: Call) -> list[Value]:
    """A label and scores for each line of features."""
    _features(call)
    lines, rows = call.shape(0)[:-1], call[0].rows
    return [Value(lines or (Size(1),), rows), Value((*lines, call.fresh("classes")), rows)]


def regressor(call: Call) -> Value:
    """Targets for each line of features."""
    _features(call)
    return Value((*call.shape(0)[:-1], call.fresh("targets")), call[0].rows)


def by_feature(call: Call) -> Value:
    """Entry by entry, with parameters for each feature."""
    shape, names = call.shape(0), ("offset", "scale", "imputed_value_floats", "imputed_value_int64s")
    if any(len(call.attr(name, [])) > 1 for name in names):
        forbid(call[0].rows, [len(shape) - 1], "has parameters of their own for every entry along")
    return Value(shape, call[0].rows)


def entry_by_entry(call: Call) -> Value:
    """Every entry on its own."""
    return Value(call[0].shape, call[0].rows)


def normalised(call: Call) -> Value:
    """Divides each line of features by its norm."""
    _features(call)
    return Value(call[0].shape, call[0].rows)


def extracted(call: Call) -> Value:
    """Some features."""
    shape = call.shape(0)
    forbid(call[0].rows, [len(shape) - 1], "picks by position along")
    if len(shape) < 2:
        raise StoppedError("picks features of a tensor that does not stand in lines")
    return Value((*shape[:-1], call.fresh("features")), call[0].rows)


def one_hot_encoded(call: Call) -> Value:
    """One more axis, one where the category stands."""
    categories = call.attr("cats_int64s") or call.attr("cats_strings") or []
    return Value((*call.shape(0), Size(len(categories))), call[0].rows)


def vectorised(call: Call) -> Value:
    """Features of several tensors side by side."""
    from anybatch.safety._rules_place import joined

    values = [value for value in call.inputs if value is not None]
    shapes = [call.shape(index) for index in range(len(values))]
    if any(len(shape) != 2 for shape in shapes):
        raise StoppedError("puts features side by side that do not stand in lines")
    return joined(values, shapes, 1)


RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(
        ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"], random
    ),
    "NonMaxSuppression": suppression,
    "StringNormalizer": normalised_strings,
    "StringSplit": split_strings,
    "TfIdfVectorizer": counted_words,
}

ML_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(["Binarizer", "CategoryMapper", "LabelEncoder"], entry_by_entry),
    **dict.fromkeys(["Imputer", "Scaler"], by_feature),
    **dict.fromkeys(["LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"], classifier),
    **dict.fromkeys(["LinearRegressor", "SVMRegressor", "TreeEnsemble", "TreeEnsembleRegressor"], regressor),
    "ArrayFeatureExtractor": extracted,
    "FeatureVectorizer": vectorised,
    "Normalizer": normalised,
    "OneHotEncoder": one_hot_encoded,
}
