"""Which statements of the inputs an operation follows, and what it tells of the others: one rule for every verb."""

from ..io.statements import LOCAL, OPTICS, WEIGHTS
from .plan import Problem


def unfollowed(verb, item, statements, ignore="", local=True, ctf=True, followed=()):
    """What has to be told of the statements that a verb does not follow.

    Parameters
    ----------
    verb : str
    item : str
        Tilt series or table that they are of.
    statements : sequence of io.statements.Statement
    ignore : str
        Labels, or their beginnings, separated by commas: what the user goes on without.
    local : bool
        Whether what is local in the alignment matters to the verb: it is not worked on then, unless told to.
    ctf : bool
        Whether CTF and weights matter to it.
    followed : collection of str
        Labels that this run follows.

    Returns
    -------
    list of Problem
        One for each thing that would change; 'failed' for what is local in the alignment, otherwise 'warning'.
    """
    words, merged = [word.strip() for word in ignore.split(",") if word.strip()], {}
    for one in statements:
        if one.label in followed or one.kind in (OPTICS, WEIGHTS) and not ctf:
            continue
        wanted = one.kind == LOCAL and local and not any(one.label.startswith(word) for word in words)
        merged.setdefault((wanted, one.place, one.effect), []).append(one.label)
    out = []
    for (wanted, place, effect), labels in merged.items():
        names = list(dict.fromkeys(labels))
        where = "" if place == item else " (%s)" % place
        cause = "%s %s not followed by %s%s; it would change %s" % (
            ", ".join(names), "is" if len(names) == 1 else "are", verb, where, effect)
        if wanted:
            out.append(Problem("failed", item, cause, "Give --ignore %s to go on without it" % labels[0]))
        else:
            out.append(Problem("warning", item, cause))
    return out
