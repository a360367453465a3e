"""Names of particles that tell them apart."""


def unique(names):
    """Give names that occur several times a number, from the second particle on.

    Sets that were joined have particles of one name that are others. The name itself stays readable: the second
    ``TS_01/7`` is called ``TS_01/7_2``.

    Parameters
    ----------
    names : sequence of str

    Returns
    -------
    tuple of str
        All different; the first particle of a name has it as it is.
    """
    taken, count, out = set(names), {}, []
    for name in names:
        number = count[name] = count.get(name, 0) + 1
        called = name
        while number > 1 and called in taken:
            called = "%s_%d" % (name, number)
            number += 1
        if called != name:
            count[name] = number - 1
        taken.add(called)
        out.append(called)
    return tuple(out)
