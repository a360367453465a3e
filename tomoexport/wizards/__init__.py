"""The wands beside fields of the forms: they propose values from the inputs that were chosen."""

from .wizard_choices import (
    TomoExportBinningWizard,
    TomoExportBoxWizard,
    TomoExportCropWizard,
    TomoExportPixelSizeWizard,
    TomoExportScoreWizard,
    TomoExportSizeWizard,
    TomoExportTiltSeriesWizard,
    TomoExportToleranceWizard,
)
from .wizard_diameter import TomoExportDiameterWizard
from .wizard_hand import TomoExportHandWizard

__all__ = ["TomoExportBinningWizard", "TomoExportBoxWizard", "TomoExportCropWizard", "TomoExportDiameterWizard",
           "TomoExportHandWizard", "TomoExportPixelSizeWizard", "TomoExportScoreWizard", "TomoExportSizeWizard",
           "TomoExportTiltSeriesWizard", "TomoExportToleranceWizard"]
