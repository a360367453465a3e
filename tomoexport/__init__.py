"""Tomograms, sub-tomograms and particle series from aligned tilt series, with or without Scipion."""

__version__ = "0.1.0"
_logo = "icon.png"
_references = ["JimenezDeLaMorena2022"]


def __getattr__(name):
    """Import the plugin class when Scipion asks for it: the rest of the package works without Scipion."""
    if name == "Plugin":
        from tomoexport.plugin import Plugin

        return Plugin
    raise AttributeError("module %r has no attribute %r" % (__name__, name))
