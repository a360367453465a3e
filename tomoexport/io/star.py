"""STAR files: every value is text until a number is asked for.

emtable parses and writes the tables. Alone it drops duplicate columns, reads a table up to its first blank line or
comment, decides from the first row whether values may be quoted, takes a value that begins with ``data_`` for the
next table, and writes values with spaces unquoted. So each block passes a check first that counts lines and values,
and lines that emtable would misread reach it masked.
"""

import os
import re
from array import array
from itertools import chain, count

import emtable
import numpy as np

from ..engine.texts import Texts
from ..errors import InputError
from .atomic import staged
from .plainfile import open_plain

_VALUE = re.compile(r"""\s*(?:"(.*?)"(?=\s|$)|'(.*?)'(?=\s|$)|(\S+))""")
_QUOTED = re.compile(r"""\s|^["'#_$]|^data_|^loop_|^save_|^global_|^stop_|^$""", re.IGNORECASE)
NO_VALUE = ("", "None", "<NA>")
_ENCODING = dict(encoding="utf-8", errors="surrogateescape")


class Table:
    """One block of a STAR file.

    Attributes
    ----------
    name : str
        Of the block, without ``data_``.
    columns : list of str
        Labels, without the leading underscore.
    rows : list of list of str
        Values as text, one list per row, made anew at every look: a large table is held by column, packed. A block
        without loop has one row.
    is_list : bool
        Whether it is a block without loop.
    """

    def __init__(self, name, columns, rows, is_list=False, path="", lines=()):
        self.name, self.columns, self.is_list = name, list(columns), is_list
        packed = rows and isinstance(rows[0], Texts)
        self._values = rows if packed else Texts.columns(rows, len(self.columns))
        self._path, self._lines = path, lines

    @property
    def rows(self):
        return [list(row) for row in self.iter_rows()]

    def iter_rows(self):
        """The rows one by one.

        Yields
        ------
        tuple of str
        """
        return zip(*self._values)

    @classmethod
    def from_columns(cls, name, columns, is_list=False):
        """Make a table of columns.

        Parameters
        ----------
        name : str
        columns : dict of str to sequence
            Labels, and N values each: numbers, bool or str.
        is_list : bool
            One row, written without ``loop_``.

        Returns
        -------
        Table

        Raises
        ------
        ValueError
            If lengths differ.
        """
        texts = [[as_text(v) for v in (values.tolist() if isinstance(values, np.ndarray) else values)]
                 for values in columns.values()]
        if len({len(values) for values in texts}) > 1:
            raise ValueError("columns of different length: %s" % {k: len(v) for k, v in columns.items()})
        return cls(name, list(columns), list(map(Texts, texts)), is_list)

    def __len__(self):
        return len(self._values[0]) if self._values else 0

    def select(self, rows):
        """The table with some of its rows.

        Parameters
        ----------
        rows : sequence of int

        Returns
        -------
        Table
        """
        return Table(self.name, self.columns, [Texts(values.pick(rows)) for values in self._values], self.is_list,
                     self._path, array("Q", (self._lines[i] for i in rows)) if len(self._lines) else ())

    def extended(self, columns, rows):
        """The table with more columns.

        Parameters
        ----------
        columns : list of str
            Their labels.
        rows : iterable of sequence of str
            Their N rows.

        Returns
        -------
        Table
        """
        return Table(self.name, self.columns + columns, self._values + Texts.columns(rows, len(columns)), self.is_list,
                     self._path, self._lines)

    def followed_by(self, rows):
        """The table with more rows.

        Parameters
        ----------
        rows : iterable of sequence of str
            A value per column each.

        Returns
        -------
        Table
        """
        more = Texts.columns(rows, len(self.columns))
        return Table(self.name, self.columns, [Texts(chain(a, b)) for a, b in zip(self._values, more)], self.is_list)

    def has(self, *columns):
        """Tell whether all these columns are there.

        Parameters
        ----------
        *columns : str

        Returns
        -------
        bool
        """
        return all(column in self.columns for column in columns)

    def where(self, row=None):
        """Name the table, or one row of it, for a message.

        Parameters
        ----------
        row : int, optional
            Counted from 0.

        Returns
        -------
        str
        """
        if row is not None and len(self._lines):
            return "%s:%d" % (self._path, self._lines[row])
        place = "%s, data_%s" % (self._path, self.name) if self._path else "data_%s" % self.name
        return place if row is None or self.is_list else "%s, row %d" % (place, row + 1)

    def text(self, column, default=None):
        """A column as text.

        Parameters
        ----------
        column : str
        default : str, optional
            Value of all rows if there is no such column.

        Returns
        -------
        list of str

        Raises
        ------
        InputError
            If there is no such column and no default.
        """
        if default is not None and column not in self.columns:
            return [default] * len(self)
        return list(self.packed(column))

    def packed(self, column):
        """A column as text, in little memory.

        Parameters
        ----------
        column : str

        Returns
        -------
        engine.texts.Texts

        Raises
        ------
        InputError
            If there is no such column.
        """
        if column not in self.columns:
            raise InputError(self.where(), "there is no column %s" % column,
                             "The columns are: %s" % (", ".join(self.columns) or "none"))
        return self._values[self.columns.index(column)]

    def float(self, column, default=None):
        """A column of numbers.

        NaN, infinities and, as NaN, fields without a value (empty, ``None``, ``<NA>``) pass.

        Parameters
        ----------
        column : str
        default : float, optional
            Value of all rows if there is no such column.

        Returns
        -------
        ndarray `(N,)` float64

        Raises
        ------
        InputError
            If there is no such column and no default, or a value is no number.
        """
        return self._typed(column, default, np.float64, _number, "a number")

    def int(self, column, default=None):
        """A column of whole numbers; ``2.0`` passes, ``2.5`` does not.

        Parameters
        ----------
        column : str
        default : int, optional
            Value of all rows if there is no such column.

        Returns
        -------
        ndarray `(N,)` int64

        Raises
        ------
        InputError
            If there is no such column and no default, or a value is no whole number.
        """
        return self._typed(column, default, np.int64, _integer, "an integer")

    def bool(self, column, default=None):
        """A column of 0 and 1.

        Parameters
        ----------
        column : str
        default : bool, optional
            Value of all rows if there is no such column.

        Returns
        -------
        ndarray `(N,)` of bool

        Raises
        ------
        InputError
            If there is no such column and no default, or a value is neither.
        """
        return self._typed(column, default, bool, _truth, "0 or 1")

    def _typed(self, column, default, dtype, convert, wanted):
        if default is not None and column not in self.columns:
            return np.full(len(self), default, dtype)
        values = self.text(column)
        try:
            return np.array([convert(value) for value in values], dtype)
        except ValueError:
            for row, value in enumerate(values):
                try:
                    convert(value)
                except ValueError:
                    raise InputError(self.where(row), "%s is '%s', not %s" % (column, value, wanted),
                                     "Correct the value") from None
            raise


def _number(text):
    # float() would take 1_000 as well.
    if "_" in text:
        raise ValueError(text)
    return float("nan" if text in NO_VALUE else text)


def _integer(text):
    value = _number(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)


def _truth(text):
    value = _integer(text)
    if value not in (0, 1):
        raise ValueError(text)
    return value


class StarFile:
    """The tables of one STAR file.

    Attributes
    ----------
    path : str
    blocks : list of str
        Names of the blocks in their order.
    """

    def __init__(self, path, tables):
        self.path, self._tables = path, {table.name: table for table in tables}

    @property
    def blocks(self):
        return list(self._tables)

    def __iter__(self):
        return iter(self._tables.values())

    def table(self, name):
        """Return the table of this name.

        Parameters
        ----------
        name : str

        Returns
        -------
        Table

        Raises
        ------
        InputError
            If there is none.
        """
        if name not in self._tables:
            raise InputError(self.path, "there is no block data_%s" % name,
                             "The blocks are: %s" % ", ".join("data_" + block for block in self.blocks))
        return self._tables[name]

    def find(self, *names):
        """The first table that has one of these names.

        Parameters
        ----------
        *names : str

        Returns
        -------
        Table or None
        """
        return next((self._tables[name] for name in names if name in self._tables), None)


def read(path, choose=None):
    """Read a STAR file.

    Quoted values, comments, blank lines, a byte order mark, CRLF line ends and a last line without end are understood;
    columns that are not known are kept.

    Parameters
    ----------
    path : str
    choose : callable, optional
        ``choose(columns)`` of a table with rows: None, or the index of a column and a function of its text that tells
        whether a row is wanted. Others are passed over; what is wrong with them is not found.

    Returns
    -------
    StarFile

    Raises
    ------
    InputError
        Naming file and line: missing file, no STAR file, block or column that occurs twice, row of wrong length.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise InputError(path, "there is no such file", "Check the path")
    with open_plain(path) as handle:
        if b"\0" in handle.read(4096):
            raise InputError(path, "it is a binary file, not a STAR file", "Give a text file with data_ blocks")
    encoding = dict(_ENCODING, encoding="utf-8-sig")
    with open_plain(path, "r", **encoding) as handle:
        tables = list(_Parser(path, handle, choose).tables())
    if not tables:
        raise InputError(path, "it holds no data_ block", "Give a STAR file")
    return StarFile(path, tables)


class _Parser:
    """Takes a STAR file apart into blocks, and lets emtable read each of them."""

    def __init__(self, path, handle, choose=None):
        self._path, self._choose = path, choose or (lambda columns: None)
        self._lines = ((number, line) for number, line in enumerate(map(str.strip, handle), 1)
                       if line and line[0] != "#")
        self._next()

    def _next(self):
        self._number, self._line = next(self._lines, (None, None))

    def _error(self, cause, remedy="Correct the file"):
        return InputError("%s:%d" % (self._path, self._number), cause, remedy)

    def tables(self):
        seen = {}
        while self._line is not None:
            name = _block_name(self._line)
            if name is None:
                raise self._error("'%s' belongs to no table" % self._line[:40],
                                  "Give a STAR file; its tables begin with data_ and loop_")
            if name in seen:
                raise self._error("block data_%s occurs again; it is in line %d already" % (name, seen[name]),
                                  "Remove or rename one of them")
            seen[name] = self._number
            self._next()
            yield self._table(name)

    def _table(self, name):
        head, columns, is_list = self._head()
        numbers = array("Q")
        if not columns:
            return Table(name, [], [], is_list)
        self._masked = any(map(_is_masked, head))
        feed = chain(["data_"], head, () if is_list else self._rows(columns, numbers))
        reader = emtable.Table.Reader(_Lines(feed), guessType=False)
        # It is known while they are read whether values are masked.
        rows = (list(map(_unmask, row)) if self._masked else row for row in reader)
        return Table(name, columns, Texts.columns(rows, len(columns)), is_list, self._path, numbers)

    def _head(self):
        """Read up to the first row. Returns the lines for emtable, the labels, and whether there is no loop."""
        head, columns, is_list = [], [], True
        self._seen = set()
        while self._line is not None:
            if self._line.lower() == "loop_":
                if head:
                    raise self._error("a second loop_ in one block", "Give each table a block of its own")
                is_list = False
                head.append("loop_")
            elif self._line[0] == "_":
                values = _split(self._line)
                if not is_list and len(values) > 1 and values[1][:1] != "#":
                    break
                label = self._label(values[0])
                columns.append(label)
                if is_list and (len(values) < 2 or len(values) > 2 and values[2][:1] != "#"):
                    raise self._error("%s has %d values, expected 1" % (label, len(values) - 1))
                # emtable makes Python names of labels; these are none of its words.
                head.append("_c%d" % len(columns) + (" " + _mask(values[1]) if is_list else ""))
            else:
                break
            self._next()
        return head, columns, is_list

    def _label(self, text):
        label = text[1:]
        if label in self._seen:
            raise self._error("column %s occurs twice" % label, "Remove or rename one of the two")
        if not label.isidentifier() or label[0] == "_":
            raise self._error("'%s' is no column label" % text, "Labels are letters and digits, as in _rlnTomoName")
        self._seen.add(label)
        return label

    def _rows(self, columns, numbers):
        """Yield the rows of a loop up to the next block, checked, in a form that emtable's splitting leaves whole."""
        n, chosen = len(columns), self._choose(columns)
        while self._line is not None and _block_name(self._line) is None:
            line = self._line
            if chosen and '"' not in line and "'" not in line:
                words = line.split(None, chosen[0] + 1)
                if len(words) > chosen[0] and not chosen[1](words[chosen[0]]):
                    self._next()
                    continue
            if '"' in line or "'" in line or line[0] == "_" or line[:5] == "data_" or len(line.split()) != n:
                values = _split(line)
                if len(values) > n and values[n][:1] == "#":
                    del values[n:]
                if len(values) != n:
                    raise self._error("the row has %d values for %d columns" % (len(values), n),
                                      "Values with spaces need quotes; an empty one is written \"\"")
                line = " ".join(map(_mask, values))
                self._masked = True
            numbers.append(self._number)
            self._next()
            yield line


class _Lines:
    """The one method of a file that emtable's reader calls."""

    def __init__(self, lines):
        self._lines = lines

    def readline(self):
        return next(self._lines, "")


def _block_name(line):
    """Name of the block that this line begins, None if it begins none."""
    if line[:5].lower() != "data_":
        return None
    words = line.split()
    return words[0][5:] if len(words) == 1 or words[1][0] == "#" else None


def _split(line):
    return [next(group for group in match.groups() if group is not None) for match in _VALUE.finditer(line)]


# A masked character is its code point in a private plane of Unicode; the plane's first stands for an empty value.
_PLANE = 0xF0000
_MASKABLE = re.compile(r"""[\s"']|^.""")
_MASKED = re.compile("[\U000F0000-\U000FFFFD]")


def _mask(value):
    """Hide blanks, quotes and the first character from emtable."""
    return _MASKABLE.sub(lambda match: chr(_PLANE + ord(match.group())), value) if value else chr(_PLANE)


def _unmask(value):
    return _MASKED.sub(lambda match: chr(ord(match.group()) - _PLANE), value) if value != chr(_PLANE) else ""


def _is_masked(text):
    return _MASKED.search(text) is not None


def as_text(value):
    """Text of a value: floats exact and with a point or exponent, bool as 0 or 1, str as it is.

    Parameters
    ----------
    value : str, bool, int or float

    Returns
    -------
    str
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return repr(float(value))


def _quote(value):
    """Quote a value where a reader would need it."""
    if not _QUOTED.search(value):
        return value
    for quote in "\"'":
        if "\n" not in value and not re.search(quote + r"(\s|$)", value):
            return quote + value + quote
    raise InputError("value %r" % value, "a STAR file cannot hold it", "Remove line ends and quotes from the name")


def write(path, tables, comment=""):
    """Write a STAR file, atomically.

    Parameters
    ----------
    path : str
    tables : list of Table
    comment : str
        Lines for the top of the file.

    Raises
    ------
    InputError
        If a block name holds a space, or a value a line end or both kinds of quotes.
    """
    with staged(path) as temp, open(temp, "w", newline="\n", **_ENCODING) as handle:
        handle.write("".join("# %s\n" % line for line in comment.splitlines()))
        for table in tables:
            if re.search(r"\s", table.name):
                raise InputError("block data_%s" % table.name, "its name holds a space", "Give a name without spaces")
            writer = emtable.Table.Writer(handle)
            writer.writeTableName(table.name)
            rows = ([_quote(value) for value in row] for row in table.iter_rows())
            if table.is_list:
                for row in rows:
                    handle.writelines("_%-20s %s\n" % pair for pair in zip(table.columns, row))
                writer.writeNewline()
                continue
            # Numbered as RELION and Warp do it; some readers rely on the blank and the number after the label.
            writer.writeHeader([emtable.Table.Column("%s #%d" % label) for label in zip(table.columns, count(1))])
            for row in rows:
                writer.writeRowValues(row)
            writer.writeNewline()
