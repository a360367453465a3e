"""The protocols: what Scipion finds here it offers in its menu."""

from .protocol_average_subtomos import ProtTomoExportAverage
from .protocol_export_image_series import ProtTomoExportImageSeries
from .protocol_export_subtomos import ProtTomoExportSubtomos
from .protocol_extract_pseudosubtomos import ProtTomoExportPseudoSubtomos
from .protocol_import_particles import ProtTomoExportImportParticles
from .protocol_import_tilt_series import ProtTomoExportImportTiltSeries
from .protocol_intersect_particles import ProtTomoExportIntersect
from .protocol_reconstruct_particle import ProtTomoExportReconstructParticle
from .protocol_reconstruct_tomograms import ProtTomoExportReconstruct
from .protocol_remove_duplicates import ProtTomoExportRemoveDuplicates
from .protocol_select_particles import ProtTomoExportSelect

__all__ = ["ProtTomoExportAverage", "ProtTomoExportImageSeries", "ProtTomoExportImportParticles",
           "ProtTomoExportImportTiltSeries", "ProtTomoExportIntersect", "ProtTomoExportPseudoSubtomos",
           "ProtTomoExportReconstruct", "ProtTomoExportReconstructParticle", "ProtTomoExportRemoveDuplicates",
           "ProtTomoExportSelect", "ProtTomoExportSubtomos"]
