"""What Scipion finds as `tomoexport.Plugin`."""
import os

import pwem
from pyworkflow.utils import Environ


class Plugin(pwem.Plugin):
    """A plugin without external programs: all it runs is this package."""

    _url = ""
    # Scipion takes the plugin's name and folder from the package that this class says it lives in.
    __module__ = "tomoexport"

    @classmethod
    def _defineVariables(cls):
        """Define none: there is no program whose place would have to be configured."""

    @classmethod
    def defineBinaries(cls, env):
        """Install none."""

    @classmethod
    def getEnviron(cls):
        """Return the environment of `python -m tomoexport`: the present one, without a display.

        Returns
        -------
        pyworkflow.utils.Environ
            For the `env` of `runJob`. Output is unbuffered, so that progress shows in the run's log at once.
        """
        environ = Environ(os.environ)
        environ.update({"MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}, position=Environ.REPLACE)
        return environ
