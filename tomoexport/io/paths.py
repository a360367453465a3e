"""File names: safe stems from the names of tilt series, relative paths, and files named in STAR tables."""

import hashlib
import os
import re
import unicodedata

_LONGEST = 100
_HASHED = re.compile(r"-[0-9a-f]{10}$")


def safe_stem(name):
    """Turn the name of a tilt series into a file stem that is safe in any shell and on any file system.

    Names of letters, digits, ``.``, ``_`` and ``-`` stay as they are. A name in which something had to be changed
    gets a hash of the original, so that two names never share a stem.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
        At most 111 characters, never empty, never beginning with ``.`` or ``-``.
    """
    name = str(name)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip(".-")[:_LONGEST]
    if stem == name and stem and not _HASHED.search(stem):
        return stem
    return "%s-%s" % (stem or "_", hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10])


def relative_to(path, start):
    """A path as seen from a folder, with forward slashes.

    Parameters
    ----------
    path, start : str

    Returns
    -------
    str
    """
    return os.path.relpath(path, start).replace(os.sep, "/")


def search_folders(star, base=None):
    """Folders to which the file names in a STAR file may be relative, in the order in which they are tried.

    We and Warp mean the folder of the STAR file. RELION means the project folder, in which it runs and which is mostly
    above the STAR file; it seldom has a file of that name beside the STAR file, too, while a working folder may well
    hold another data set.

    Parameters
    ----------
    star : str
        The STAR file.
    base : str, optional
        Project folder, if it is known.

    Returns
    -------
    list of str
        ``base``, the folder of the STAR file, the working folder, and the folders above the STAR file.
    """
    above = os.path.dirname(os.path.abspath(star))
    folders = ([os.path.abspath(base)] if base else []) + [above, os.getcwd()]
    while above != os.path.dirname(above):
        above = os.path.dirname(above)
        folders.append(above)
    return folders


def locate(name, folders):
    """Find a file.

    Parameters
    ----------
    name : str
        As a STAR file gives it.
    folders : list of str
        Of `search_folders`.

    Returns
    -------
    str
        Absolute path of the first that exists; in the first folder if there is none.
    """
    candidates = [os.path.normpath(os.path.join(folder, name)) for folder in folders]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])
