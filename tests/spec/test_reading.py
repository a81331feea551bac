"""Bad documents: each is refused with the file and the place of what is wrong in it."""

import json
import os
import re

import pytest

from topograph.errors import SpecError
from topograph.spec import Policy, load_mutations
from topograph.topology import Topology
from topograph.topology.canonical import LARGEST_DOCUMENT, parse_json

POLICY = """{
  "format": "topograph.policy/1",
  "trigger": {"kind": "plateau", "patience": 3, "min_delta": 0.001},
  "candidates": [
    {"kind": "insert_layer",
     "where": {"kind": "after", "op": "relu"},
     "block": {"kind": "bottleneck", "units": 8}},
    {"kind": "add_branch", "source": "relu", "target": "fc", "gate": 0.5}
  ],
  "selection": {"k": 1},
  "step": {"kind": "fixed", "size": 0.25}
}"""
UNITS = r"candidates\.0\.insert_layer\.block\.bottleneck\.units: "
GATE = r"candidates\.1\.gate: "


@pytest.fixture
def write(tmp_path):
    """Write a document to policy.json and return its path."""

    def written(content: str | bytes):
        path = tmp_path / "policy.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return written


def spoilt(old: str, new: str) -> str:
    assert POLICY.count(old) == 1
    return POLICY.replace(old, new)


def test_the_document_that_the_others_spoil_is_valid(write):
    policy = Policy.load(write(POLICY))
    assert policy.candidates[0].block.units == 8
    assert Policy.parse(policy.dump()) == policy


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"gate": 0.5', '"gate": NaN', GATE + "NaN is not a JSON number"),
        ('"gate": 0.5', '"gate": Infinity', GATE + "Infinity is not a JSON number"),
        ('"gate": 0.5', '"gate": -Infinity', GATE + "-Infinity is not a JSON number"),
        ('"gate": 0.5', '"gate": 1e999', GATE + "1e999 is too large for a number"),
        ('"gate": 0.5', '"gate": -1E999', GATE + "-1E999 is too large for a number"),
        ('"gate": 0.5', '"gate": 1e7', r"candidates\.1\.add_branch\.gate: .*1000000"),
        ('"gate": 0.5', '"gate": nan', r"not valid JSON at line 8, column 70"),
        ('"units": 8', '"units": true', UNITS + "Input should be a valid integer; got True"),
        ('"units": 8', '"units": "8"', UNITS + "Input should be a valid integer; got '8'"),
        ('"units": 8', '"units": 8.5', UNITS + r"Input should be a valid integer; got 8\.5"),
        ('"units": 8', '"units": null', UNITS + "Input should be a valid integer; got None"),
        ('"units": 8', '"units": 0', UNITS + "Input should be greater than or equal to 1; got 0"),
        ('"units": 8', '"units": 1e12', UNITS + r"Input should be a valid integer; got 10+\.0"),
        (
            '"units": 8',
            '"units": 1000000000000',
            UNITS + "Input should be less than or equal to 65536; got 1000000000000",
        ),
        (
            '"units": 8',
            '"units": ' + "9" * 5000,
            r"candidates\.0\.block\.units: 9{20}\.\.\. is too large; give at most 20",
        ),
        (
            '"units": 8',
            '"unit": 8',
            UNITS + r"Field required; .*\n.*policy\.json: .*\.bottleneck\.unit: Extra inputs",
        ),
        ('"selection"', '"Selection"', r"Selection: Extra inputs are not permitted"),
        ('"k": 1', '"k": 1, "k": 1', r"selection: key 'k' is given twice"),
        ('"units": 8', '"units": 8, "units": 8', r"candidates\.0\.block: key 'units'"),
        ('"step": {', '"step": {}, "step": {', r"the document: key 'step' is given"),
        ('"step": {', '"step": NaN, "step": {', r"the document: key 'step' is given"),
        ('"op": "relu"', r'"op": "\ud800"', r"the document: Invalid JSON: .*hex escape"),
        ('"op": "relu"', '"op": "relu; import os"', r".*after\.op: String should match"),
        ("topograph.policy/1", "topograph.policy/2", r"format: Input should be 'topo"),
        ('"kind": "plateau", ', "", r"trigger: Unable to extract tag"),
        ("plateau", "plateaux", r"trigger: Input tag 'plateaux' found using 'kind'"),
        ('"size": 0.25}\n', '"size": 0.25},\n', r"not valid JSON at line 1[12], column \d+"),
        ("\n}", "\n}}", r"not valid JSON at line 12, column 2: Extra data"),
        ('{\n  "format"', '\ufeff{\n  "format"', r"not valid JSON at line 1, column 1"),
    ],
)  # fmt: skip
def test_refusal_names_the_file_and_the_place(write, old, new, message):
    with pytest.raises(SpecError, match=r"policy\.json: " + message):
        Policy.load(write(spoilt(old, new)))


@pytest.mark.parametrize("content", ["", " \n\t"])
def test_empty_file(write, content):
    with pytest.raises(SpecError, match=r"policy\.json: the document is empty"):
        Policy.load(write(content))


@pytest.mark.parametrize("content", ["[]", "null", "3", '"policy"'])
def test_file_that_is_not_an_object(write, content):
    with pytest.raises(SpecError, match=r"policy\.json: the document: Input should be an object"):
        Policy.load(write(content))


@pytest.mark.parametrize("cut", range(0, len(POLICY), 7))
def test_file_cut_short(write, cut):
    place = r"not valid JSON at line \d+, column \d+" if cut else "the document is empty"
    with pytest.raises(SpecError, match=rf"policy\.json: {place}"):
        Policy.load(write(POLICY[:cut]))


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        "[" * 65 + "1" + "]" * 65,
    ],
    ids=["open", "lists", "objects", "just"],
)
def test_deep_nesting(write, content):
    with pytest.raises(SpecError, match=r"policy\.json: nested too deeply; at most 64 levels"):
        Policy.load(write(content))


def test_nesting_at_the_limit_is_read():
    text = "[" * 64 + "1" + "]" * 64
    assert parse_json(text, "x.json") == json.loads(text)


def test_file_that_is_not_utf8(write):
    with pytest.raises(SpecError, match=r"policy\.json: not UTF-8 text \(byte 12\)"):
        Policy.load(write(b'{"format": "\xff"}'))


def test_missing_file(tmp_path):
    with pytest.raises(SpecError, match=r"absent\.json: no such file; check the path"):
        Policy.load(tmp_path / "absent.json")


def test_directory_as_a_file(tmp_path):
    with pytest.raises(SpecError, match=re.escape(f"{tmp_path}: cannot be read")):
        Policy.load(tmp_path)


def test_file_that_is_too_large(write):
    path = write(POLICY)
    os.truncate(path, LARGEST_DOCUMENT + 1)  # sparse: takes no room on the disk
    with pytest.raises(SpecError, match=r"policy\.json: larger than 256 MiB; not read"):
        Policy.load(path)


def test_object_of_many_keys_is_read_in_linear_time():
    text = json.dumps({str(number): number for number in range(200_000)})
    assert len(parse_json(text, "x.json")) == 200_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": "remove_layer", "where": {"kind": "at", "node": 3}}', r"0\.remove_layer\.where"),
        ('[{"kind": "remove_layer"}]', r"0\.remove_layer\.where: Field required"),
        ('{"mutations": [{"kind": "grow"}]}', r"0: no mutation is called 'grow'; there are"),
        ('{"mutations": [{"kind": "add_branch", "gate": NaN}]}', r"mutations\.0\.gate: NaN is not"),
        ("[]", r"the document: List should have at least 1 item"),
        ("[", r"not valid JSON at line 1"),
    ],
)  # fmt: skip
def test_mutations_are_read_as_strictly(write, content, message):
    with pytest.raises(SpecError, match=r"policy\.json: " + message):
        load_mutations(str(write(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"name": "A", "nodes": [{"name": "x"}]}', r"nodes\.0\.kind: Field required"),
        ('{"name": "A", "applied": ["XYZ"]}', r"applied\.0: String should match pattern"),
        ('{"name": "A", "parameters": 3}', r"parameters: Input should be a valid array"),
    ],
)
def test_topologies_are_read_as_strictly(write, content, message):
    with pytest.raises(SpecError, match=r"policy\.json: " + message):
        Topology.load(write(content))
