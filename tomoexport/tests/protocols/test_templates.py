"""The workflow templates: Scipion lists them, they load whole, and those without external programs run."""

import json
import os

from pwem import Domain
from pyworkflow.template import LocalTemplate

import tomoexport
from tomoexport.convert import refined
from tomoexport.tests.protocols.test_protocols import BOX, PIXEL, SERIES, ProtocolTest

FOLDER = os.path.join(os.path.dirname(tomoexport.__file__), "templates")
NAMES = {"tutorial_STA_HIV_small", "tutorial_STA_HIV_large", "tutorial_STA_HIV_without_external_programs",
         "warp_tomograms_and_subtomograms"}


class TestTomoExportTemplates(ProtocolTest):
    """In a project with simulated data."""

    def template(self, name, **values):
        """A template whose fields have values, as Scipion's dialog gives them; returns its entries."""
        template = LocalTemplate("tomoexport", os.path.join(FOLDER, name + ".json.template"))
        template.replaceEnvVariables()
        template.parseContent()
        for title, param in template.getParams().items():
            value = values.get(param.getAlias())
            if value is not None:
                self.assertEqual(template.setParamValue(param.getAlias(), str(value)), 1, title)
        path = template.createTemplateFile()
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        return path, entries

    def paths(self):
        return dict(tomograms=os.path.join(self.data, "tomograms.star"), data=self.data, coordinates=self.data,
                    particles=os.path.join(self.data, "particles.star"), warp=os.path.join(self.data, "tomograms.star"))

    def test_scipion_lists_them(self):
        plugin = Domain.getPlugins()["tomoexport"]._pluginInstance
        found = {template.name: template.description for template in plugin.getTemplates()}
        self.assertEqual(set(found), NAMES)
        self.assertTrue(all(len(text) > 40 for text in found.values()))

    def test_every_template_loads_whole(self):
        """Every protocol, every value, every pointer to an output that its protocol can have."""
        for name in sorted(NAMES):
            path, entries = self.template(name, **self.paths())
            known = Domain.getProtocols()
            if not refined.plugin():
                entries = [entry for entry in entries if entry["object.className"] in known]
            loaded = self.proj.loadProtocols(path)
            self.assertEqual(len(loaded), len(entries), name)
            for entry in entries:
                protocol = loaded[entry["object.id"]]
                for parameter, value in entry.items():
                    if parameter.startswith("object."):
                        continue
                    message = "%s: %s of %s" % (name, parameter, entry["object.label"])
                    self.assertIsNotNone(protocol.getParam(parameter), message)
                    attribute = getattr(protocol, parameter)
                    if attribute.isPointer():
                        source, output = value.split(".")
                        self.assertIs(attribute.getObjValue(), loaded[source], message)
                        self.assertEqual(attribute.getExtended(), output, message)
                        kinds = loaded[source]._possibleOutputs
                        self.assertIn(output, kinds if isinstance(kinds, dict) else [k.name for k in kinds], message)
                    else:
                        self.assertEqual(attribute.get(), type(attribute.get())(value), message)
            self.assertFalse([label for label in (p.getObjLabel() for p in loaded.values()) if not label])

    def run_all(self, name, **values):
        """Run a template as it is loaded; returns its protocols by label."""
        path, entries = self.template(name, **dict(self.paths(), **values))
        loaded = self.proj.loadProtocols(path)
        out = {}
        for entry in entries:
            protocol = loaded[entry["object.id"]]
            self.assertEqual(protocol.validate(), [], entry["object.label"])
            self.launchProtocol(protocol)
            out[entry["object.label"]] = protocol
        return out

    def test_the_tutorial_without_external_programs_runs(self):
        runs = self.run_all("tutorial_STA_HIV_without_external_programs", pixel=2 * PIXEL, binning=1, box=BOX, crop=24,
                            map_binning=1, map_box=BOX, map_crop=24, distance=20, symmetry="D2")
        stacks = runs["pseudo-subtomograms: RELION 5 refines these"]
        self.assertEqual(stacks.relionParticles.getSize(), 8)
        self.assertTrue(any("Optimisation set" in line for line in stacks.summary()))
        summary = runs["map with the poses that particles have"].summary()
        self.assertTrue(any("FSC" in line for line in summary), summary)
        self.assertEqual({t.getTsId() for t in runs["tomograms"].Tomograms}, set(SERIES))

    def test_warps_exports_run(self):
        runs = self.run_all("warp_tomograms_and_subtomograms", pixel=2 * PIXEL, fine=PIXEL, box=BOX, diameter=150)
        self.assertEqual(runs["full tomograms"].Deconvolved.getSize(), 2)
        self.assertEqual(runs["sub-tomograms and 3D CTFs"].Subtomograms.getSize(), 8)
        self.assertTrue(os.path.isfile(runs["average: are signs and CTFs right?"].Average.getFileName()))
