import json

import pytest

from acl_sim import testing
from acl_sim._profile import FIGURES, load_profile, presets


def test_each_figure_of_each_preset_says_where_it_comes_from():
    assert presets() == ["310p", "none"]
    assert FIGURES, "a check that looks at nothing passes"
    for name in presets():
        profile = load_profile(name)
        assert profile.name == name
        told = set(profile.provenance)
        assert told == {figure for figure in FIGURES if getattr(profile, figure)} - (
            {"efficiency"} if name == "none" else set()
        )


def test_what_is_published_and_what_is_ours():
    profile = load_profile("310p")
    published = {figure for figure, origin in profile.provenance.items() if origin["kind"] == "published"}
    assert published == {"peak_tflops", "memory_gb_s"}
    assert (profile.peak_tflops, profile.memory_gb_s) == (70.0, 204.8)
    assert profile.copy_in_gb_s < 31.5, "what PCIe 4.0 x16 carries"
    assert profile.on_device_gb_s <= profile.memory_gb_s / 2


def test_the_ledger_names_the_profile(tmp_path):
    assert json.loads(testing.ledger().to_json())["profile"] == "310p"
    assert "(modelled by 310p)" in testing.ledger().to_text()
    (tmp_path / "mine.json").write_text("{}")
    for text, name in [("none", "none"), ("affine:1,2", "affine:1,2"), (str(tmp_path / "mine.json"), "mine.json")]:
        testing.reset(device_time=text)
        assert testing.ledger().to_dict()["profile"] == name


def test_a_users_file_has_the_shape_of_ours(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"launch_us": 3, "provenance": {"launch_us": {"kind": "assumption", "why": "a guess"}}}')
    assert load_profile(str(path)).launch_us == 3
    path.write_text('{"name": "given", "launch_us": 3}')
    assert load_profile(str(path)).name == "given"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"launch_us": "3"}', "launch_us: expected a number of 0 or more, got '3'"),
        ('{"launch_us": -1}', "launch_us: expected a number of 0 or more"),
        ('{"launch_us": NaN}', "launch_us: expected a number of 0 or more"),
        ('{"launch_us": true}', "launch_us: expected a number of 0 or more"),
        ('{"efficiency": 0}', "efficiency: expected more than 0"),
        ("[]", "a profile is a JSON object, not list"),
        ('{"provenance": {"speed": {"kind": "assumption", "why": "x"}}}', "provenance of 'speed'"),
        ('{"provenance": {"launch_us": {"kind": "rumour", "why": "x"}}}', "provenance of 'launch_us'"),
        ('{"provenance": {"launch_us": {"kind": "published", "why": "x"}}}', '"published" and a "source"'),
        ('{"provenance": {"launch_us": "a guess"}}', "got 'a guess'"),
        ('{"provenance": "a guess"}', "provenance: expected an object"),
        ("{", "Expecting"),
    ],
)
def test_what_is_no_profile(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_profile(str(path))


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match=r"'910b': expected one of \['310p', 'none'\], affine:US,US_PER_ROW or a JSON file"):
        load_profile("910b")
