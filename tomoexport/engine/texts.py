"""Columns of text in little memory: a million values take what their letters take, and not an object each."""

from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

Chunk = Union[bytes, Tuple[str, ...]]
_CHUNK = 8192  # values that are packed together


class Texts(Sequence[str]):
    """N texts, packed in chunks; a value that is never changed.

    Parameters
    ----------
    values : iterable of str
    """

    __slots__ = ("_chunks", "_count", "_last")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._chunks: List[Chunk] = []
        self._count, self._last = 0, (-1, [""])  # type: int, Tuple[int, List[str]]
        if isinstance(values, Texts):
            self._chunks, self._count = values._chunks, values._count
            return
        if not isinstance(values, (list, tuple)):
            values = list(values)
        for i in range(0, len(values), _CHUNK):
            self._chunks.append(_packed(values[i:i + _CHUNK]))
        self._count = len(values)

    @classmethod
    def columns(cls, rows: Iterable[Sequence[str]], count: int) -> List["Texts"]:
        """Take rows apart into columns, without holding them all.

        Parameters
        ----------
        rows : iterable of sequence of str
            Of `count` values each.
        count : int
            Columns.

        Returns
        -------
        list of Texts
        """
        out = [cls() for _ in range(count)]
        part: List[Sequence[str]] = []

        def pack() -> None:
            for column, values in zip(out, zip(*part)):
                column._chunks.append(_packed(values))
                column._count += len(part)
            part.clear()

        for row in rows:
            part.append(row)
            if len(part) == _CHUNK:
                pack()
        if part:
            pack()
        return out

    def __len__(self) -> int:
        return self._count

    def _chunk(self, number: int) -> List[str]:
        last = self._last  # one read: threads may share it
        if last[0] != number:
            last = self._last = number, _unpacked(self._chunks[number])
        return last[1]

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from _unpacked(chunk)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Texts(self.pick(range(*index.indices(self._count))))
        index = int(index)
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError("value %d of %d" % (index, self._count))
        return self._chunk(index // _CHUNK)[index % _CHUNK]

    def pick(self, index: Union[Sequence[int], np.ndarray, range]) -> List[str]:
        """Some of the values; quick where they lie close together.

        Parameters
        ----------
        index : sequence of int
            From 0.

        Returns
        -------
        list of str
        """
        wanted = np.asarray(index, np.int64)
        jumps = np.count_nonzero(np.diff(wanted // _CHUNK))
        if jumps > 2 * len(self._chunks):  # from chunk to chunk: each is unpacked once
            values = list(self)
            return [values[i] for i in wanted.tolist()]
        return [self._chunk(i // _CHUNK)[i % _CHUNK] for i in wanted.tolist()]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Texts, list, tuple)):
            return NotImplemented
        if isinstance(other, Texts) and self._chunks == other._chunks:
            return True
        return len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        return np.array(list(self), dtype)

    def __repr__(self) -> str:
        return repr(list(self))


def _packed(values: Sequence[str]) -> Chunk:
    text = "\n".join(values)
    if text.count("\n") != len(values) - 1:  # no table has line ends in values; whoever writes one refuses them
        return tuple(values)
    return text.encode("utf-8", "surrogateescape")


def _unpacked(chunk: Chunk) -> List[str]:
    return chunk.decode("utf-8", "surrogateescape").split("\n") if isinstance(chunk, bytes) else list(chunk)
