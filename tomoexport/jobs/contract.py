"""What a verb provides: a module of this package, called as the verb, with these three functions.

The runner plans a verb once, executes every tilt series apart, maybe in processes of their own and again after a stop,
and collects what they gave.
"""

from typing import Any, Dict, List, Optional, Protocol

from ..engine.backend import Backend
from .plan import Plan, Unit


class Verb(Protocol):
    """The three steps of a verb; options are its class of `options.VERBS`."""

    def plan(self, options: Any, only: Optional[List[str]] = None) -> Plan:
        """Look at the inputs and tell what is going to be done; nothing is written.

        Parameters
        ----------
        options : object
            The verb's options.
        only : list of str, optional
            Names of the tilt series asked for; all by default.

        Returns
        -------
        Plan
            A unit per tilt series, or a single one. A unit has a record of the verb's own as ``work``, what people
            are told as ``facts``, and as ``depends`` all that its outputs depend on. What is wrong with one is
            its ``error``; what stops everything is a problem of severity 'error'.

        Raises
        ------
        InputError
            If the inputs cannot be read at all.
        """

    def execute(self, unit: Unit, options: Any, backend: Backend) -> Dict[str, Any]:
        """Work on one unit and write its files.

        Parameters
        ----------
        unit : Unit
            As planned.
        options : object
            The verb's options.
        backend : Backend
            Active in the calling thread.

        Returns
        -------
        dict
            Plain values, for JSON: ``files`` (all that was written, whole) and ``notes`` (lines for people), beside
            what `collect` needs.

        Raises
        ------
        UnitError, InputError
            What is wrong with this unit; the others go on.
        """

    def collect(self, options: Any, results: List[Dict[str, Any]]) -> Dict[str, Any]:
        """Make what is of all units: tables, joined maps, the report; the table that others read comes last.

        Parameters
        ----------
        options : object
            The verb's options.
        results : list of dict
            For every unit of the plan, in its order: what `execute` returned, with its ``status``; of one that failed
            or was never worked on ``error`` instead.

        Returns
        -------
        dict
            Plain values; names and values are told to people.
        """
