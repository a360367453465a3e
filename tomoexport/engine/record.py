"""Values of records as plain types, nested: what a fingerprint is made of, so that no field can be forgotten."""

from dataclasses import fields, is_dataclass
from typing import Any, Dict

import numpy as np


def plain(value: Any) -> Any:
    """A value of plain types.

    Parameters
    ----------
    value : object
        Numbers, texts, arrays, sequences and dataclasses of these, None, or what has ``numbers()``.

    Returns
    -------
    object
        Of a dataclass every field that it is made from, by name.
    """
    if hasattr(value, "numbers"):
        return value.numbers()
    if is_dataclass(value):
        return fields_of(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def fields_of(record: Any) -> Dict[str, Any]:
    """The fields of a dataclass as plain values.

    Parameters
    ----------
    record : object

    Returns
    -------
    dict
        By the field's name; those that are derived are left out.
    """
    return {spec.name: plain(getattr(record, spec.name)) for spec in fields(record) if spec.init}
