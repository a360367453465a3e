"""Pictures of every form, wand and viewer, under Xvfb: `make screenshots`.

    tools/with-env python -m scipion python tools/screenshots.py [FOLDER]

Runs a small chain in a project of its own, opens the forms with Scipion's own windows, normal and advanced, section by
section, the wands with their dialogs, and the pictures of the viewers; what cannot be opened is an error.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

PIXEL, TOMOGRAMS, BOX = 8.0, 16.0, 32
DOCS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs")
#: Those that docs/scipion.md shows.
BEST = ("form_subtomos_export", "wand_diameterwizard", "viewer_removeduplicates_onTiltSeries")


def screen():
    """Start Xvfb and let DISPLAY name it."""
    read, write = os.pipe()
    process = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1500x1150x24", "-nolisten", "tcp"],
                               pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        os.environ["DISPLAY"] = ":" + number.readline().strip()
    return process


class Project:
    """A project with a chain of runs."""

    def __init__(self):
        from pyworkflow.project import Manager

        from tomoexport.jobs import runner
        manager, name = Manager(), "tomoexport_screenshots"
        if manager.hasProject(name):
            manager.deleteProject(name)
        self.project = manager.createProject(name)
        os.chdir(self.project.path)
        self.data = os.path.abspath("simulated")
        runner.run({"verb": "simulate", "options": {"output": self.data, "preset": "tiny"}})

    def make(self, kind, **values):
        """A protocol; a pair is a run and the name of its output."""
        protocol = self.project.newProtocol(kind, **{k: v for k, v in values.items() if not isinstance(v, tuple)})
        for name, value in values.items():
            if isinstance(value, tuple):
                getattr(protocol, name).set(value[0])
                getattr(protocol, name).setExtended(value[1])
        return protocol

    def run(self, kind, **values):
        """A run that has ended."""
        protocol = self.make(kind, **values)
        self.project.launchProtocol(protocol, wait=True)
        return protocol


def chain(made):
    """Runs, and for every protocol the values of a form that could be executed."""
    from tomoexport import protocols as p
    tables = {name: os.path.join(made.data, name + ".star") for name in ("tomograms", "particles")}
    series = made.run(p.ProtTomoExportImportTiltSeries, tomogramsStar=tables["tomograms"])
    sets = dict(inputTiltSeries=(series, "TiltSeries"), inputCtfs=(series, "CTFs"))
    forms = {p.ProtTomoExportImportTiltSeries: dict(tomogramsStar=tables["tomograms"]),
             p.ProtTomoExportReconstruct: dict(sets, pixelSize=TOMOGRAMS)}
    tomograms = made.run(p.ProtTomoExportReconstruct, **forms[p.ProtTomoExportReconstruct])
    forms[p.ProtTomoExportImportParticles] = dict(filesPath=tables["particles"], boxSize=12, inputTomograms=(
        tomograms, "Tomograms"))
    picked = made.run(p.ProtTomoExportImportParticles, **forms[p.ProtTomoExportImportParticles])
    particles = (picked, "Coordinates")
    cut = dict(sets, inputCoordinates=particles, pixelSize=PIXEL, box=BOX, diameter=150.0)
    relion = dict(inReParticles=particles, inputTS=(series, "TiltSeries"), inputCtfTs=(series, "CTFs"), boxSize=BOX)
    forms.update({p.ProtTomoExportSubtomos: cut, p.ProtTomoExportImageSeries: cut,
                  p.ProtTomoExportPseudoSubtomos: relion, p.ProtTomoExportReconstructParticle: relion})
    subtomos = made.run(p.ProtTomoExportSubtomos, **dict(cut, minTilts=3))
    images = made.run(p.ProtTomoExportImageSeries, **cut)
    forms[p.ProtTomoExportRemoveDuplicates] = dict(inputParticles=particles, distance=300.0)
    single = made.run(p.ProtTomoExportRemoveDuplicates, **forms[p.ProtTomoExportRemoveDuplicates])
    forms[p.ProtTomoExportIntersect] = dict(inputOld=particles, inputNew=(single, "Coordinates"))
    both = made.run(p.ProtTomoExportIntersect, **forms[p.ProtTomoExportIntersect])
    forms[p.ProtTomoExportAverage] = dict(inputSubtomograms=(subtomos, "Subtomograms"))
    average = made.run(p.ProtTomoExportAverage, **forms[p.ProtTomoExportAverage])
    forms[p.ProtTomoExportSelect] = dict(inputParticles=particles, inputSeries=(images, "Particles"),
                                         keptFile=images._getExtraPath("particles.star"))
    return forms, [series, tomograms, picked, subtomos, single, both, average]


def grab(window, path):
    """Write what a window shows."""
    from PIL import ImageGrab
    window.update()
    window.lift()
    window.update_idletasks()
    window.update()
    left, top = window.winfo_rootx(), window.winfo_rooty()
    box = (left, top, left + window.winfo_width(), top + window.winfo_height())
    ImageGrab.grab(bbox=box, xdisplay=os.environ["DISPLAY"]).save(path)
    print(path)


def notebooks(widget):
    """The widgets with tabs below one."""
    from tkinter import ttk
    for child in widget.winfo_children():
        if isinstance(child, ttk.Notebook):
            yield child
        yield from notebooks(child)


def name_of(kind):
    """Of a class, for files."""
    return kind.__name__.replace("ProtTomoExport", "").replace("TomoExport", "").lower()


def forms_of(made, forms, folder, master):
    """Every form, normal and advanced, section by section; returns the windows' protocols."""
    from pyworkflow.gui.form import FormWindow
    from pyworkflow.protocol import LEVEL_ADVANCED, LEVEL_NORMAL
    for kind, values in forms.items():
        for level, word in ((LEVEL_NORMAL, ""), (LEVEL_ADVANCED, "_advanced")):
            protocol = made.make(kind, **values)
            protocol.expertLevel.set(level)
            window = FormWindow("tomoexport", protocol, lambda *_: None, master, hostList=["localhost"])
            window.root.geometry("1000x800+0+0")
            window.root.deiconify()
            window.root.update()
            for book in notebooks(window.root):
                for tab in book.tabs():
                    book.select(tab)
                    text = book.tab(tab, "text").strip().lower().replace(" ", "_")
                    grab(window.root, os.path.join(folder, "form_%s_%s%s.png" % (name_of(kind), text, word)))
            window.root.destroy()


def wands_of(made, forms, folder, master):
    """Every wand's dialog, as it opens."""
    from pyworkflow.gui import dialog

    from tomoexport import wizards

    def shown(path):
        def wait(self, window=None):
            self.geometry("+50+50")
            grab(self, path)
            self._handleResult(dialog.RESULT_CANCEL)
        return wait

    for name in wizards.__all__:
        wizard = getattr(wizards, name)
        kind, parameters = wizard._targets[0]

        class Form:
            protocol, told = made.make(kind, **dict(forms[kind])), {}

            def setVar(self, name, value):
                self.told[name] = value

        form = Form()
        form.root = master.root
        path = os.path.join(folder, "wand_%s.png" % name_of(wizard))
        with mock.patch.object(dialog.Dialog, "wait_window", shown(path)):
            wizard().show(form, *parameters)
        assert os.path.exists(path), "%s opens nothing" % name


def viewers_of(made, runs, folder):
    """Every picture of every viewer."""
    from tomoexport.viewers.viewer_results import TomoExportResultsViewer, volumesOf
    for run in runs:
        viewer = TomoExportResultsViewer(project=made.project, protocol=run)
        viewer.setProtocol(run)
        actions = viewer._getVisualizeDict()
        offered = [name for name, _ in viewer.iterDefinitionAttributes()] + [
            "slices" + name for name, output in run.iterOutputAttributes() if volumesOf(output)]
        if viewer.getParam("moveTolerance") is not None:
            offered.append("moveTolerance")
        for name in sorted(set(offered) & set(actions)):
            if name == "showAll" or name.startswith("open"):
                continue
            for plotter in actions[name]():
                path = os.path.join(folder, "viewer_%s_%s.png" % (name_of(type(run)), name))
                plotter.getFigure().savefig(path, dpi=80)
                print(path)


def main():
    """Make all of them."""
    folder = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="screenshots_"))
    os.makedirs(folder, exist_ok=True)
    process = screen()
    try:
        import matplotlib
        matplotlib.use("Agg")
        made = Project()
        forms, runs = chain(made)
        from pyworkflow.gui import Window
        master = Window("tomoexport", None)  # one for all: Tk keeps pictures per root
        forms_of(made, forms, folder, master)
        wands_of(made, forms, folder, master)
        viewers_of(made, runs, folder)
        for name in BEST:
            shutil.copy(os.path.join(folder, name + ".png"), DOCS)
    finally:
        process.terminate()
        process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
