"""One connection for a set and the sets in it.

Scipion's sets of sets (of tilt series, of their CTFs) are one SQLite file. The inner sets are to write through the
connection of the outer one, which they look up by the path of the file as it was given; but that entry goes when any
other set of the same path is closed or collected, be it in another folder or an earlier output of the same protocol.
The inner set then opens a second connection, and both wait for each other's lock.
"""

from pyworkflow.mapper.sqlite_db import SqliteDb


def append(outer, inner):
    """Append a set to a set of sets, and let it write through the same connection.

    Parameters
    ----------
    outer : pyworkflow.object.Set
    inner : pyworkflow.object.Set
        Empty, and not appended to another one.
    """
    _know(outer)
    outer.append(inner)
    _know(outer)
    inner._getMapper()  # now, before anything else can be collected


def _know(outer):
    """Let the path of a set name its own connection."""
    db = outer._getMapper().db
    SqliteDb.OPEN_CONNECTIONS[db.getDbName()] = db.connection
