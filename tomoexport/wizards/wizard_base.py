"""What the wands have in common: they read the form, ask, and write into it; what they cannot do they say."""

from pwem.wizards import EmWizard
from pyworkflow.gui import dialog
from pyworkflow.gui.tree import ListTreeProviderString
from pyworkflow.object import String

from ..errors import TomoexportError


class TomoExportWizard(EmWizard):
    """Base of the wands. One that lists values gives `_proposals`, another one its own `_ask`."""

    TITLE, QUESTION = "", "Choose a value"
    SEVERAL = False

    def show(self, form, *params):
        """Ask, and write what was chosen into the form; see `pyworkflow.wizard.Wizard`."""
        try:
            lacking = self._lacking(form.protocol)
            if lacking:
                dialog.showInfo(self.TITLE, "Choose %s first." % " and ".join(lacking), form.root)
                return
            self._ask(form)
        except TomoexportError as error:
            dialog.showError(self.TITLE, str(error), form.root)

    def _needs(self, protocol):
        """Names of the form's inputs that this asks for."""
        return []

    def _lacking(self, protocol):
        return [protocol.getParam(name).getLabel() for name in self._needs(protocol)
                if getattr(protocol, name).get() is None]

    def _proposals(self, protocol):
        """Return a list of (value, text)."""
        raise NotImplementedError

    def _write(self, form, value):
        """Write a value that was chosen."""
        form.setVar(self._param(form.protocol), value)

    def _param(self, protocol):
        """The field of this protocol's form that the wand belongs to."""
        return next(names[0] for kind, names in self._targets if type(protocol) is kind)

    def _ask(self, form):
        found = self._proposals(form.protocol)
        texts = [self._line(value, text) for value, text in found]
        chosen = choose(form.root, self.TITLE, self.QUESTION, texts, self.SEVERAL)
        if chosen:
            values = [found[i][0] for i in chosen]
            self._write(form, values if self.SEVERAL else values[0])

    @staticmethod
    def _line(value, text):
        return "%s   %s" % ("%g" % value if isinstance(value, float) else value, text)


def choose(root, title, question, texts, several=False):
    """Let somebody choose lines.

    Parameters
    ----------
    root : tkinter widget
    title, question : str
    texts : list of str
    several : bool
        Whether more than one may be chosen.

    Returns
    -------
    list of int
        Their places; empty if the dialog was left.
    """
    items = []
    for number, text in enumerate(texts):
        items.append(String(text))
        items[-1].setObjId(number + 1)
    asked = dialog.ListDialog(root, title, ListTreeProviderString(items), question,
                              selectmode="extended" if several else "browse")
    return [texts.index(value.get()) for value in asked.values] if asked.resultYes() else []


def tilt_series(protocol):
    """Name of the form's input of tilt series."""
    return "inputTS" if hasattr(protocol, "inputTS") else "inputTiltSeries"


def ctfs(protocol):
    """Name of the form's input of CTFs."""
    return "inputCtfTs" if hasattr(protocol, "inputCtfTs") else "inputCtfs"


def particles(protocol):
    """Name of the form's input of particles; none if it has none."""
    return protocol.particlesInput()
