"""The viewers: what "Analyze results" opens."""

from .viewer_results import TomoExportResultsViewer

__all__ = ["TomoExportResultsViewer"]
