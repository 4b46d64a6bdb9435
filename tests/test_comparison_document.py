"""Comparisons as JSON: the schema describes every field, and every kind of comparison fits it."""

import dataclasses
import json
import math
import re
from dataclasses import replace

import jsonschema
import pytest

from anybatch import InputError
from anybatch._guard import RowSafety
from anybatch._planner import Launch, Plan
from anybatch.comparison import _results, as_document, as_json, check_save, save, schema
from anybatch.comparison._document import COMPUTED
from comparison_samples import SAMPLES, failing, hostile, passing

SCHEMA = schema()
# What the document calls otherwise, or nests.
AT_THE_TOP = {"entries": "backends", "speeds": "speed", "model_digest": "model", "data_rows": "data"}
VALUES = [
    value for value in vars(_results).values() if dataclasses.is_dataclass(value) and value.__module__ == _results.__name__
]


def objects(node):
    """Yield every object of the schema that has properties."""
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for each in node.values():
            yield from objects(each)
    elif isinstance(node, list):
        for each in node:
            yield from objects(each)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_fits_the_schema(name):
    comparison = SAMPLES[name]()
    document = as_document(comparison)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    assert document["verdict"] == comparison.verdict
    assert len(document["backends"]) == len(comparison.entries)
    assert len(document["accuracy"]) == len(comparison.accuracy)
    text = as_json(comparison)
    assert text.endswith("}\n")
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) == document


@pytest.mark.parametrize("value", [*VALUES, Plan, Launch, RowSafety], ids=lambda value: value.__name__)
def test_the_schema_names_the_fields_there_are(value):
    names = {field.name for field in dataclasses.fields(value)} | set(COMPUTED.get(value, ()))
    if value is _results.Comparison:
        expected = {AT_THE_TOP.get(name, name) for name in names} | {"schema"}
        assert set(SCHEMA["properties"]) == expected == set(SCHEMA["required"])
        return
    extra = {"provenance"} if value in (_results.SizeSpeed, _results.StreamSpeed) else set()
    fitting = [each for each in objects(SCHEMA) if set(each["properties"]) == names | extra]
    assert fitting, f"no object of the schema has the fields of {value.__name__}: {sorted(names | extra)}"
    assert all(set(each["required"]) == set(each["properties"]) and not each["additionalProperties"] for each in fitting)


def test_each_property_is_described():
    described = 0
    for each in objects(SCHEMA):
        for name, property_ in each["properties"].items():
            assert property_.get("description") or "$ref" in property_, name
            described += 1
    assert described > 80


def test_each_figure_has_its_unit_and_its_provenance():
    figures = [
        (name, property_)
        for each in objects(SCHEMA)
        for name, property_ in each["properties"].items()
        if "properties" not in property_ and re.search(r"'integer'|/number'|/interval'", str(property_))
    ]
    assert len(figures) > 50
    for name, property_ in figures:
        assert property_.keys() >= {"unit", "provenance"}, name


def test_a_document_that_lacks_a_field_does_not_fit():
    document = as_document(passing())
    for name in document:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({key: value for key, value in document.items() if key != name}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"verdict": "perhaps"}, SCHEMA)


def test_every_figure_of_speed_says_where_it_comes_from():
    document = as_document(passing())
    assert {speed["provenance"] for speed in document["speed"]} == {"measured", "modelled"}
    for speed in document["speed"]:
        assert speed["stream"]["provenance"] == speed["provenance"]
        assert {size["provenance"] for size in speed["sizes"]} == {speed["provenance"]}


def test_what_json_has_no_number_for_is_said_in_words():
    metrics = as_document(hostile())["accuracy"][0]["metrics"]
    assert (metrics["max_abs"], metrics["mean_abs"]) == ("Infinity", "NaN")
    worst = as_document(hostile())["accuracy"][0]["worst"]
    assert worst["got"] == "-Infinity"
    assert math.isnan(float(metrics["mean_abs"]))
    assert as_document(passing())["backends"][0]["compile_s"] is None


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".json", "{\n"), (".html", "<!doctype html>"), (".xml", "<?xml"), (".HTML", "<!")]
)
def test_files_are_what_their_suffix_says(tmp_path, suffix, begins):
    path = tmp_path / f"found{suffix}"
    path.write_text("what was there")
    save(failing(), path)
    assert path.read_text(encoding="utf-8").startswith(begins)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("found.pdf", "ends in .html or .json or .xml"),
        ("no/found.html", "there is no folder"),
        ("folder.html", "it is a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before(tmp_path, name, message):
    (tmp_path / "folder.html").mkdir()
    for refuse in (lambda path: check_save(path), lambda path: save(passing(), path)):
        with pytest.raises(InputError) as caught:
            refuse(tmp_path / name)
        assert message in str(caught.value)


def test_a_file_that_cannot_be_put_in_its_place_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(part, target):
        assert part.read_text(encoding="utf-8").startswith("{")
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(InputError, match=r"found\.json: cannot be written: Permission denied"):
        save(passing(), tmp_path / "found.json")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_rendered_leaves_what_was_there(tmp_path):
    path = tmp_path / "found.json"
    path.write_text("what was there")
    with pytest.raises(TypeError):
        save(replace(passing(), environment={"x": object()}), path)
    assert path.read_text() == "what was there"
    assert [each.name for each in tmp_path.iterdir()] == ["found.json"]
