"""Rules decide every parameter or say which one is left; parts name the nearest key."""

import pytest

from vfm import masking, parts, rules
from vfm.errors import UserError

TREE = {"encoder": {"blocks": {"kernel": 1, "bias": 2}}, "head": {"kernel": 3}}


def test_the_first_rule_that_matches_decides():
    values = rules.match([(r".*/bias", 0.0), (r"encoder/.*", 0.5), (".*", 1.0)], TREE)
    assert values == {"encoder": {"blocks": {"kernel": 0.5, "bias": 0.0}}, "head": {"kernel": 1.0}}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ([("encoder/.*", 1)], "no rule matches parameter 'head/kernel'"),
        ([(".*/kernal", 0), (".*", 1)], "'.*/kernal' decides no parameter"),
        ([(".*", 1), (".*/bias", 0)], "'.*/bias' decides no parameter"),
        ([("encoder/(", 1)], "not a regular expression"),
        (5, "rules=5: expected pairs"),
        ((".*", 1), "expected pairs"),
    ],
)
def test_rules_that_cannot_be_meant(wrong, message):
    with pytest.raises(UserError, match=message.replace(".*", r"\.\*")):
        rules.match(wrong, TREE)


def test_parts_are_found_by_short_name_or_by_module():
    for name in ("tube", "vfm.masking:tube"):
        assert parts.resolve(name, "vfm.masking") is masking.tube


@pytest.mark.parametrize(
    "part, message",
    [
        ({"name": "tub", "ratio": 0.9}, "did you mean 'tube'"),
        ({"name": "tube", "ration": 0.9}, "did you mean 'ratio'"),
        ({"name": "os:system"}, "live inside the package vfm"),
        ({"name": "vfmx.bad:thing"}, "live inside the package vfm"),
        ({"name": "vfm.nothing:thing"}, "no module 'vfm.nothing'"),
        ({"ratio": 0.9}, "needs a 'name'"),
    ],
)
def test_wrong_parts(part, message):
    with pytest.raises(UserError, match=message):
        parts.build(part, "vfm.masking")


def test_imported_names_are_no_parts():
    for home in ("vfm.masking", "vfm.targets", "vfm.losses", "vfm.models", "vfm.objectives"):
        with pytest.raises(UserError, match="has no 'Array'") as error:
            parts.resolve("Array", home)
        listed = str(error.value).split("it has: ")[1].split(", ")
        assert len(listed) > 1 and not {"Array", "Callable", "Float", "Any", "Mapping", "UserError"} & set(
            listed
        )
