"""Packed columns of text are lists of str to whoever reads them."""
import pickle
import random

import numpy as np
import pytest

from tomoexport.engine.texts import Texts

MANY = ["v%d" % i for i in range(20000)]


@pytest.mark.parametrize("values", [[], [""], ["", ""], ["a", "", "b c"], MANY, ["ü", "\udc80", "é" * 100],
                                    ["two\nlines", "one"], ["\n"]])
def test_values_come_back(values):
    texts = Texts(values)
    assert len(texts) == len(values) and list(texts) == values and texts == values and values == texts
    assert texts[:2] == values[:2] and texts[::-1] == values[::-1] and Texts(texts) == texts
    assert list(pickle.loads(pickle.dumps(texts))) == values
    for i in range(-len(values), len(values), max(1, len(values) // 7)):
        assert texts[i] == values[i] and values[i] in texts
    with pytest.raises(IndexError):
        texts[len(values)]
    assert texts != values + ["more"] and texts != "text"


def test_some_of_them_in_any_order():
    rng, texts = random.Random(0), Texts(MANY)
    for index in (sorted(rng.sample(range(20000), 50)), rng.sample(range(20000), 20000), [], range(8190, 8195)):
        assert texts.pick(index) == [MANY[i] for i in index] == texts.pick(np.array(list(index), int))


def test_rows_become_columns():
    rows = [("%d" % i, "x", "") for i in range(20001)]
    first, second, third = Texts.columns(iter(rows), 3)
    assert first[20000] == "20000" and second == ["x"] * 20001 and third == [""] * 20001
    assert [len(column) for column in Texts.columns([], 2)] == [0, 0]


def test_numbers():
    assert np.array(Texts(["1", "2.5"]), np.float64).tolist() == [1.0, 2.5]
    assert np.isin(Texts(["a", "b"]), ["b"]).tolist() == [False, True]
