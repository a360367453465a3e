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
        value = choices[-1] if choices else {bool: not spec.default, int: 12, float: 3.5, str: "a b"}[kind]
        values[spec.name] = value
        if kind is bool:
            words.append(options.flag(spec.name) if value else "--no-" + options.flag(spec.name)[2:])
        else:
            words += [options.flag(spec.name), str(value)]
    expected = options.from_dict(verb, values)
    assert options.from_arguments(verb, parser.parse_args(words)) == expected
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
    ],
)
def test_wrong_values_are_named(verb, values, words):
    with pytest.raises(InputError, match="(?s)" + words):
        options.from_dict(verb, values)
