"""The type of arrays that live where the backend puts them."""

from typing import Any

Array = Any  # numpy.ndarray or cupy.ndarray, of the backend that the caller chose
