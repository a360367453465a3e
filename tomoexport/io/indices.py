"""Indices of particles in Python's pickles, read without running anything that a pickle may ask for.

A pickle can call any function. Here the few names that integer arrays and lists consist of stand for classes of this
module, which only note what they are given; every other name is refused.
"""

import io
import os
import pickle
import re

import numpy as np

from ..errors import InputError
from .plainfile import open_plain

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_REMEDY = "Give an index as tomoDRGN and cryoDRGN save it: a pickled array or list of whole numbers"


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, code, align=False, copy=False):
        self.code, self.order = code, "|"

    def __setstate__(self, state):
        self.order = state[1]

    def made(self):
        if not isinstance(self.code, str) or not re.match(r"[iu][1248]$", self.code):
            raise pickle.UnpicklingError("an array of kind %s, not of whole numbers" % self.code)
        return np.dtype((self.order if self.order in ("<", ">") else "") + self.code)


class _Array:
    """Stands for numpy.ndarray."""

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def made(self):
        if not isinstance(self.dtype, _Dtype) or not isinstance(self.raw, (bytes, bytearray)) or len(self.shape) != 1:
            raise pickle.UnpicklingError("an array that is no list of whole numbers")
        return np.frombuffer(self.raw, self.dtype.made(), *self.shape).tolist()


def _reconstruct(kind, shape, code):
    return _Array()


def _frombuffer(buffer, dtype, shape, order, axis_order=None):
    array = _Array()
    array.__setstate__((0, shape, dtype, False, buffer))
    return array


def _scalar(dtype, raw):
    array = _Array()
    array.__setstate__((0, (1,), dtype, False, raw))
    return array.made()[0]


def _encode(text, encoding):
    if encoding != "latin1":
        raise pickle.UnpicklingError("bytes in the encoding %s" % encoding)
    return text.encode("latin1")


class _Stand:
    """Stands for a function or a class: can be called, and cannot be changed."""

    __slots__ = ("_make",)

    def __init__(self, make):
        object.__setattr__(self, "_make", make)

    def __call__(self, *given):
        return self._make(*given)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("a change of what arrays are made with")

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a change of what arrays are made with")


# Python's own reader and not the faster one in C, which takes gigabytes for a few bytes that ask for them.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module, name):
        known = {"dtype": _Dtype, "ndarray": _Array, "_reconstruct": _reconstruct, "_frombuffer": _frombuffer,
                 "scalar": _scalar}
        if module in _MODULES and name in known:
            return _Stand(known[name])
        if (module, name) == ("_codecs", "encode"):  # how older protocols hold bytes
            return _Stand(_encode)
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):  # how they hold none
            return _Stand(lambda: b"")
        raise pickle.UnpicklingError("%s.%s, which has no place in an index" % (module, name))


def read_index(path):
    """Read an index of particles or images.

    Parameters
    ----------
    path : str
        A pickle of a one-dimensional integer array, or of a list or tuple of whole numbers.

    Returns
    -------
    list of int
        In its order.

    Raises
    ------
    InputError
        If it is missing, no pickle, holds anything else, is empty, or a number is negative or occurs twice.
    """
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    with open_plain(path) as handle:
        data = handle.read()
    try:
        found = _Unpickler(io.BytesIO(data)).load()
        values = found.made() if isinstance(found, _Array) else found
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(path, "it is no index: %s" % error, _REMEDY) from None
    if not isinstance(values, (list, tuple)) or not all(type(value) is int for value in values):
        raise InputError(path, "it is no index: it holds a %s" % type(found).__name__.strip("_"), _REMEDY)
    if not values:
        raise InputError(path, "the index is empty", "Select some particles")
    if min(values) < 0 or max(values) >= 1 << 63:
        raise InputError(path, "the index has numbers that are negative or beyond all tables", _REMEDY)
    if len(set(values)) < len(values):
        raise InputError(path, "%d numbers of the index occur more than once" % (len(values) - len(set(values))),
                         "Give every particle once")
    return list(values)
