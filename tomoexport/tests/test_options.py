"""Options: one source for flags, job files and limits."""

import argparse
import json
from dataclasses import fields

import pytest

from tomoexport import options
from tomoexport.errors import InputError


@pytest.mark.parametrize("verb", sorted(options.VERBS))
def test_flags_and_job_files_give_the_same_options(verb):
    cls = options.VERBS[verb]
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, cls)
    words, values = [], {}
    for spec in fields(cls):
        choices, kind = spec.metadata["choices"], type(spec.default)
        value = choices[-1] if choices else {bool: not spec.default, int: 12, float: 3.5, str: "a b.star"}[kind]
        values[spec.name] = value
        if kind is bool:
            words.append(options.flag(spec.name) if value else "--no-" + options.flag(spec.name)[2:])
        else:
            words += [options.flag(spec.name), str(value)]
    expected = options.from_dict(verb, values)
    assert options.from_dict(verb, options.given(verb, parser.parse_args(words))) == expected
    assert options.from_dict(verb, json.loads(json.dumps(options.to_dict(expected)))) == expected
    assert expected != cls()


@pytest.mark.parametrize("verb", sorted(options.VERBS))
def test_every_option_explains_itself(verb):
    for spec in fields(options.VERBS[verb]):
        meta = spec.metadata
        assert len(meta["help"]) > 20 and meta["help"].endswith(".") and meta["label"], spec.name
        options.check(options.VERBS[verb]())


@pytest.mark.parametrize(
    "verb, values, words",
    [
        ("reconstruct", {"pixel_size": "ten"}, "--pixel-size.*not a number"),
        ("reconstruct", {"pixel_size": 0}, "--pixel-size.*out of range"),
        ("reconstruct", {"pixel_size": float("nan")}, "--pixel-size.*not a number"),
        ("reconstruct", {"size_z": 1.5}, "--size-z.*whole"),
        ("reconstruct", {"invert": "perhaps"}, "--invert.*true or false"),
        ("reconstruct", {"ctf": "some"}, "--ctf.*Choose one of phaseflip"),
        ("reconstruct", {"colour": 1}, "colour.*no such"),
        ("dance", {}, "dance.*does not exist"),
        ("subtomo", {"box": 33}, "--box.*odd.*34"),
        ("subtomo", {"box": -2}, "--box.*out of range"),
        ("subtomo", {"threads": True}, "--threads"),
        ("subtomo", {"hand": 2}, "--hand.*0, 1, -1"),
        ("subtomo", {"box": 1e400}, "--box.*inf is not a whole number"),
        ("subtomo", {"pixel_size": 10 ** 400}, r"--pixel-size: 1000.*\.\.\. is not a number"),
        ("subtomo", {"threads": 2 ** 100}, "--threads.*out of range"),
        ("subtomo", {"box": [64]}, "--box.*whole number"),
        ("subtomo", {"hand": None}, "--hand.*None is not a whole number"),
        ("subtomo", {"invert": ["a"]}, "--invert.*true or false"),
        ("subtomo", {"particles": None}, "--particles.*None is not a text"),
        ("subtomo", {"particles": 5}, "--particles.*5 is not a text"),
        ("subtomo", {"star": ["a"]}, r"--star.*\['a'\] is not a text"),
        ("subtomo", {"output": "a\0b"}, "--output.*file's name"),
        ("subtomo", {"output": "\ud800"}, "--output.*file's name"),
        ("subtomo", [1], r"options of subtomo.*\[1\].*names with values"),
        ("subtomo", "box", "options of subtomo"),
        (["a"], {}, "verb.*does not exist.*Use one of"),
        ({}, {}, "verb.*does not exist.*Use one of"),
        (None, {}, "verb.*does not exist.*Use one of"),
    ],
)
def test_wrong_values_are_named(verb, values, words):
    with pytest.raises(InputError, match="(?s)" + words):
        options.from_dict(verb, values)


@pytest.mark.parametrize("name", ["../p.star", "a/p.star", "/p.star", "p.txt", "p", "", ".star", "..", "p.star/"])
def test_output_table_is_a_bare_name(name):
    with pytest.raises(InputError, match="--star.*bare file name.*--output names the folder"):
        options.from_dict("subtomo", {"star": name})


def test_numbers_as_text_and_large_seeds():
    assert options.from_dict("subtomo", {"box": "32", "pixel_size": "7.5", "invert": "no"}).box == 32
    assert options.from_dict("simulate", {"seed": 10 ** 30}).seed == 10 ** 30
