"""The protocols: what Scipion finds here it offers in its menu."""

from .protocol_average_subtomos import ProtTomoExportAverage
from .protocol_export_subtomos import ProtTomoExportSubtomos
from .protocol_import_particles import ProtTomoExportImportParticles
from .protocol_import_tilt_series import ProtTomoExportImportTiltSeries
from .protocol_reconstruct_tomograms import ProtTomoExportReconstruct

__all__ = ["ProtTomoExportAverage", "ProtTomoExportImportParticles", "ProtTomoExportImportTiltSeries",
           "ProtTomoExportReconstruct", "ProtTomoExportSubtomos"]
