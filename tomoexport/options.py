"""The options of every verb, once: command line, Scipion forms, job files and tables are made from them."""

import json
import math
import os
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Type, Union

from .errors import InputError

if TYPE_CHECKING:
    import argparse

#: What an option influences: what is read; what is written of a tilt series; what is made of all of them at the end,
#: tables and joined maps; or only where the work is done and how fast.
AFFECTS = ("input", "images", "table", "run")


def option(default: Any, label: str, help: str, unit: str = "", low: Optional[float] = None,
           high: Optional[float] = None, choices: Optional[Tuple[Any, ...]] = None, advanced: bool = False,
           kind: str = "", affects: str = "images", even: bool = False, ask: bool = False,
           when: Optional[Dict[str, Any]] = None) -> Any:
    """A dataclass field that knows how to present and to check itself.

    Parameters
    ----------
    default : bool, int, float or str
        Its type is the option's.
    label, help : str
        For forms, and for forms and `--help`.
    unit : str
        'A', 'px' or none.
    low, high : float, optional
        Limits, inclusive.
    choices : tuple, optional
        The only values that are possible.
    advanced : bool
        Whether forms hide it at first.
    kind : {'input', 'output', ''}
        An existing file, a folder, or a plain value.
    affects : str
        One of `AFFECTS`: what is made anew when it changes.
    even : bool
        Whether odd values are refused.
    ask : bool
        Whether a plan warns where nobody chose a value.
    when : dict of str to object, optional
        Other options and the values that they must have for this one to count.

    Returns
    -------
    dataclasses.Field
    """
    return field(default=default, metadata=dict(label=label, help=help, unit=unit, low=low, high=high,
                                                choices=choices, advanced=advanced, kind=kind, affects=affects,
                                                even=even, ask=ask, when=when or {}))


def _tomogram_size() -> Any:
    return option("", "Tomogram size", "Unbinned size of the tomograms as in 4000x5700x1000, voxels, for files that do "
                  "not say it, such as RELION's aligned_tilt_series.star or Warp's early XML: coordinates count from "
                  "its corner or centre.", unit="px", advanced=True, affects="input")


def _sizes() -> Any:
    return option("", "Tomograms STAR", "RELION 5 tomograms.star of the tilt series, or Warp's XML. Needed where "
                  "coordinates that count from the corner of a tomogram, whose size it tells, meet others, or where "
                  "names are to be matched.", kind="input", affects="input")


def _output() -> Any:
    return option("", "Output folder", "Folder for everything that is written; made if absent.", kind="output",
                  affects="run")


def _invert() -> Any:
    return option(True, "Invert contrast", "Multiply the images by -1: particles, dark in the raw images, become "
                  "bright, as RELION and averaging expect.")


def _bad_pixels() -> Any:
    return option("error", "Pixels that are not numbers", "What to do with NaN or infinite pixels: refuse the tilt "
                  "series, or fill them with the mean of the finite pixels around them.",
                  choices=("error", "fill"), advanced=True)


def _device() -> Any:
    return option("auto", "Device", "auto takes a GPU if a real kernel runs on it and otherwise the CPU, and says "
                  "which; cpu or cuda:N insist. cuda:0,1 or cuda:all work on a tilt series on each of these GPUs at "
                  "once; they share the threads and the memory.", advanced=True, affects="run")


def _threads() -> Any:
    return option(0, "Threads", "CPU threads; 0 takes all cores that the process may use.", low=0, high=4096,
                  advanced=True, affects="run")


def _memory() -> Any:
    return option(0.0, "Memory", "Memory that the computation may take; where it is little, fewer threads work or "
                  "smaller pieces are made, which takes longer. 0 takes half of what is free.", unit="GB", low=0.0,
                  high=1e6, advanced=True, affects="run")


def _shift(axis: str) -> Any:
    return option(0.0, "Shift along %s" % axis, "Move every particle by this along %s of the refined map, whose frame "
                  "the particle's angles give (the tomogram's where there are none): the point of the map that lies "
                  "there becomes the centre." % axis, unit="A", low=-1e5, high=1e5)


def _particles(help: str) -> Any:
    return option("", "Particles STAR", help, kind="input", affects="input")


def _normalized(label: str = "Coordinates are normalised") -> Any:
    return option(False, label, "Coordinates run from 0 to 1 over the tomogram.", affects="input")


def _centre() -> Any:
    return option("relion", "Centre of the tomograms", "Which point of the tomogram coordinates are counted about: "
                  "voxel N/2 (RELION, Warp, this program) or (N-1)/2 (IMOD).", choices=("relion", "imod"),
                  affects="input")


def _star() -> Any:
    return option("particles.star", "Output STAR", "Name of the particle table that is written into the output "
                  "folder, ending in .star.", affects="table")


def _coordinates_pixel_size(label: str = "Pixel size of the coordinates",
                            help: str = "For tables whose coordinates are pixels of an unknown size; 0 takes it "
                            "from the table.") -> Any:
    return option(0.0, label, help, unit="A", low=0.0, high=1000.0, affects="input")


def _source() -> Any:
    return option("", "M source file", "Optional .source file of M, for its particle tables: tilt series are "
                  "told by their hashes and not by their names.", kind="input", advanced=True, affects="input")


def _motion() -> Any:
    return option("", "RELION trajectories", "Optional motion.star of RELION 5's polishing, which says where each "
                  "particle of the table was in each tilt. M's tables hold their trajectories themselves.",
                  kind="input", affects="input", advanced=True)


def _allow_loss() -> Any:
    return option(False, "Leave out particles without tilt series", "Particles whose tilt series is not in the table "
                  "of tomograms are left out and listed; otherwise they are an error.", advanced=True,
                  affects="input")


def _mask_diameter() -> Any:
    return option(0.0, "Mask diameter", "Soft spherical mask of the FSC; 0 takes 80 % of the box.", unit="A",
                  low=0.0, high=1e5, affects="table")


def _reference() -> Any:
    return option("", "Known map", "Optional map of the same box and pixel size to compare with.", kind="input",
                  advanced=True, affects="table")


@dataclass(frozen=True)
class TiltSeriesOptions:
    """Which tilt series, and what their files do not say."""

    tomograms: str = option("", "Tomograms STAR", "RELION 5 tomograms.star that names the aligned tilt series; or "
                            "Warp's XML of one tilt series, or a folder of these; or IMOD's .xf, beside .tlt and raw "
                            "stack, for tomograms without CTF. Tomograms follow the global part of M's alignment, "
                            "particles the local part too.", kind="input", affects="input")
    tomogram_size: str = _tomogram_size()
    image_pixel_size: float = option(0.0, "Pixel size of the images", "Of the tilt images; 0 takes it from the table "
                                     "or their headers.", unit="A", low=0.0, high=1000.0, advanced=True,
                                     affects="input")
    alignment_pixel_size: float = option(0.0, "Pixel size of the alignment", "Of the images that IMOD aligned, if they "
                                         "were binned; 0 takes that of the tilt images.", unit="A", low=0.0,
                                         high=1000.0, advanced=True, affects="input")
    xf_centre: str = option("imod", "Tilt axis centre of .xf", "The image centre of IMOD's own transforms, "
                            "(N-1)/2, or pixel N/2, as programs mean it that drop the half pixel.",
                            choices=("imod", "relion"), advanced=True, affects="input")
    hand: int = option(0, "Defocus handedness", "How defocus changes with depth (rlnTomoHand): 0 takes it from the "
                       "tilt series, +1 or -1 overrules it. A wrong hand costs resolution in thick specimens.",
                       choices=(0, 1, -1))
    exposure_dose: float = option(0.0, "Dose of an exposure", "The same for all, for files that do not say the dose "
                                  "but in which order images were taken; 0 takes the dose from the files.",
                                  unit="e/A^2", low=0.0, high=1000.0, advanced=True, affects="input")
    voltage: float = option(0.0, "Voltage", "0 takes it from the table.", unit="kV", low=0.0, high=3000.0,
                            advanced=True, affects="input")
    cs: float = option(0.0, "Spherical aberration", "0 takes it from the table.", unit="mm", low=0.0, high=20.0,
                       advanced=True, affects="input")
    amplitude_contrast: float = option(0.0, "Amplitude contrast", "A fraction; 0 takes it from the table.", low=0.0,
                                       high=100.0, advanced=True, affects="input")
    ignore: str = option("", "Go on without", "What an input says about local alignment and this operation cannot "
                         "follow, as the error names it, such as LOCALFILE; several by commas.", advanced=True,
                         affects="run")


@dataclass(frozen=True)
class SizeOptions:
    """Which tilt series, for operations on particles alone."""

    tomograms: str = _sizes()
    tomogram_size: str = _tomogram_size()


@dataclass(frozen=True)
class ParticleTableOptions:
    """Which particles, and what their table does not say."""

    particles: str = _particles("Particle table in any dialect of RELION 3, 4 and 5, WarpTools or M.")
    coordinates_pixel_size: float = _coordinates_pixel_size()
    normalized: bool = _normalized()
    centre: str = _centre()
    source: str = _source()


@dataclass(frozen=True)
class ExtractionOptions(ParticleTableOptions, TiltSeriesOptions):
    """What all operations ask for that cut particles out of tilt images."""

    motion: str = _motion()
    allow_loss: bool = _allow_loss()
    output: str = _output()
    shift_x: float = _shift("x")
    shift_y: float = _shift("y")
    shift_z: float = _shift("z")
    invert: bool = _invert()
    bad_pixels: str = _bad_pixels()
    device: str = _device()
    threads: int = _threads()
    memory: float = _memory()


@dataclass(frozen=True)
class SimulateOptions:
    """A data set with a known truth."""

    output: str = _output()
    preset: str = option("demo", "Preset", "demo: two series of 41 tilts, one with x-tilt, both hands; tiny: 3 tilts "
                         "of 64 x 64 px; timing: one series of 41 tilts of 3838 x 3712 px.",
                         choices=("demo", "tiny", "timing"))
    particles: int = option(0, "Particles per series", "0 takes the preset's number.", low=0, high=10_000_000)
    noise: float = option(-1.0, "Noise", "Standard deviation of the white noise in units of the signal's; a negative "
                          "number takes the preset's.", low=-1.0, high=1e6)
    seed: int = option(2026, "Seed", "Seed of the random numbers.", low=0, advanced=True)


@dataclass(frozen=True)
class ReconstructOptions(TiltSeriesOptions):
    """Whole tomograms by weighted back-projection."""

    output: str = _output()
    pixel_size: float = option(10.0, "Pixel size", "Pixel size of the tomograms; any number not below that of the "
                               "images. The resolution is limited to twice this.", unit="A", low=0.01, high=1000.0,
                               ask=True)
    size_x: int = option(0, "Tomogram size x", "Unbinned tomogram dimension across the tilt axis; 0 takes that of the "
                         "tilt series.", unit="px", low=0, high=1_000_000)
    size_y: int = option(0, "Tomogram size y", "Unbinned tomogram dimension along the tilt axis; 0 takes that of the "
                         "tilt series.", unit="px", low=0, high=1_000_000)
    size_z: int = option(0, "Tomogram thickness", "Unbinned tomogram dimension along the beam; 0 takes that of the "
                         "tilt series.", unit="px", low=0, high=1_000_000)
    invert: bool = _invert()
    normalize: bool = option(True, "Normalise tilt images", "Bring every image to mean 0 and standard deviation 1 "
                             "first.")
    halves: bool = option(False, "Odd and even tomograms too", "Also write a pair of tomograms that share no noise, "
                          "for denoising.")
    halves_by: str = option("tilts", "Odd and even of", "tilts: one from every second tilt and one from the others, in "
                            "the same pass. frames: from the images of odd and even frames, where the tilt series "
                            "names them.", choices=("tilts", "frames"), when={"halves": True})
    deconvolve: bool = option(False, "Deconvolved version too", "Also write a version that is easier on the eye, in "
                              "reconstruction/deconv; odd and even tomograms are written deconvolved only.")
    deconv_strength: float = option(1.0, "Deconvolution strength", "Assumed signal at low frequencies: each unit is a "
                                    "factor of 1000.", low=-10.0, high=10.0, when={"deconvolve": True})
    deconv_falloff: float = option(1.0, "Deconvolution falloff", "How quickly the assumed signal falls with frequency.",
                                   low=0.0, high=100.0, when={"deconvolve": True})
    deconv_highpass: float = option(300.0, "Deconvolution high-pass", "Features larger than this are damped.", unit="A",
                                    low=1.0, high=1e6, when={"deconvolve": True})
    full_voxels: bool = option(False, "Keep only fully covered voxels", "Set voxels that some tilt image does not show "
                               "to 0. Not for template matching, which it would disturb.")
    ctf: str = option("phaseflip", "CTF correction", "none; phaseflip: correct the sign per slab of equal defocus; "
                      "wiener: the amplitude too.", choices=("phaseflip", "none", "wiener"))
    dose_weighting: bool = option(True, "Weight by dose", "Damp the high frequencies of late tilts by exp(-dose k^2) "
                                  "and every tilt by the cosine of its angle.")
    method: str = option("wbp", "Method", "wbp: weighted back-projection. sirt: iterations that start from a smoothed "
                         "one and bring the volume's projections closer to the images; more contrast for picking, "
                         "less detail.", choices=("wbp", "sirt"))
    iterations: int = option(15, "SIRT iterations", "Each takes about two and a half times as long as a "
                             "back-projection. 10 to 30 are usual; more bring out detail, and noise.", low=1,
                             high=1000, when={"method": "sirt"})
    bad_pixels: str = _bad_pixels()
    device: str = _device()
    threads: int = _threads()
    memory: float = _memory()


@dataclass(frozen=True)
class ExportOptions(ExtractionOptions):
    """What the exports of Warp's kind ask for: at any pixel size, by the particle's diameter."""

    per_series: bool = option(False, "One particle file per tilt series", "The particle table is one of several that "
                              "are called [series name]_suffix.star: the others are found beside it, and each holds "
                              "the particles of its tilt series.", affects="input")
    species: str = option("", "M species", "Optional .species file of M: what is not given of particle table, pixel "
                          "size, box and diameter is taken from it.", kind="input", affects="input")
    star: str = _star()
    pixel_size: float = option(4.0, "Pixel size", "Pixel size of what is exported; any number not below that of the "
                               "images.", unit="A", low=0.01, high=1000.0, ask=True)
    box: int = option(64, "Box size", "Side of the sub-tomograms or windows, even. For volumes the CTF is applied in "
                      "a larger box that holds it without aliasing; `check` shows it.", unit="px", low=8, high=4096,
                      even=True, ask=True)
    diameter: float = option(0.0, "Particle diameter", "Extent of the particle: it must lie in an image to be taken "
                             "from it, and outside it volumes are normalised. 0 takes 80 % of the box.", unit="A",
                             low=0.0, high=1e5)
    first_tilts: int = option(0, "First N tilts by dose", "Use only the N tilts that were exposed first; 0 uses all.",
                              low=0, high=100_000)
    normalize_input: bool = option(True, "Normalise tilt images", "Bring every image to mean 0 and standard deviation "
                                   "1 first.")
    min_tilts: int = option(1, "Minimum number of tilts", "Particles that lie wholly in fewer tilt images are left out "
                            "and listed.", low=1, high=100_000)
    relative_paths: bool = option(True, "Paths relative to STAR", "Paths in the particle table count from its folder, "
                                  "so that the folder can be moved; otherwise they are absolute.", affects="table")
    float16: bool = option(False, "Half precision", "Write images as 16-bit floats (MRC mode 12), which RELION before "
                           "version 4 cannot read.", advanced=True)


@dataclass(frozen=True)
class SubtomoOptions(ExportOptions):
    """Sub-tomograms, each with its 3D CTF."""

    prerotate: bool = option(False, "Pre-rotate particles", "Turn volumes and 3D CTFs by the particles' orientations "
                             "into the frame of the refined map: their plain sum is the map then, and the table's "
                             "angles are 0.")
    normalize_output: bool = option(True, "Normalise sub-tomograms", "Bring the voxels outside the particle diameter "
                                    "to mean 0 and standard deviation 1, as RELION demands.")
    sparse: bool = option(False, "Make 3D CTF sparse", "Set values of the 3D CTF below 0.01 to 0.", advanced=True)
    format: str = option("3.1", "STAR format", "Dialect of the output table. RELION 4 and 5 read either one with "
                         "--ctf3d_not_squared.", choices=("3.1", "3.0"), affects="table")
    interpolation: str = option("kaiser-bessel", "Gridding", "How slices enter Fourier space; trilinear, twice "
                                "oversampled, is what Warp does, slower and 9 times less accurate.",
                                choices=("kaiser-bessel", "trilinear"), advanced=True)
    exact: bool = option(False, "Unbinned windows", "Cut the windows out of the images as they are and bin each one, "
                         "instead of binning every image once: slower, more memory, and the last few percent of "
                         "frequencies below Nyquist a little closer.", advanced=True)


@dataclass(frozen=True)
class SeriesOptions(ExportOptions):
    """A series of tilt images per particle, dose-ascending, not CTF-corrected, with the pose of every image."""

    reader: str = option("tomodrgn", "Program that will read it", "What tomoDRGN or cryoDRGN cannot take is refused or "
                         "warned about before the work, and the log says which of its options it needs; none checks "
                         "nothing.", choices=("tomodrgn", "cryodrgn", "none"), affects="table")
    form: str = option("series", "Form", "series: a table with a row for every image, as Warp 1 and M wrote it. "
                       "optimisation-set: tables of particles and tomograms in WarpTools' form, for particles that all "
                       "tilts show; the others are left out and listed.", choices=("series", "optimisation-set"))
    stacks: str = option("particle", "One image stack per", "particle: a file for each. series: one for each tilt "
                         "series, which makes far fewer files.", choices=("particle", "series"))
    origins: bool = option(False, "Whole-pixel windows", "Do not shift windows by parts of a pixel: what is left is in "
                           "rlnOriginX and rlnOriginY, beside the 20 columns. tomoDRGN then needs --source-software "
                           "warp.", advanced=True)
    all_columns: bool = option(False, "Keep all columns", "Write the other columns of the particle table after the 20 "
                               "by which tomoDRGN knows the format; it then needs --source-software warp.",
                               advanced=True, affects="table")


@dataclass(frozen=True)
class RelionOptions(ExtractionOptions):
    """What RELION's operations ask for: by a binning factor, by the circle of the cropped box."""

    optimisation_set: str = option("", "Optimisation set", "RELION's optimisation_set.star, which names the tables of "
                                   "particles, tomograms and trajectories; those that are given beside it are taken "
                                   "instead.", kind="input", affects="input")
    motion: str = option("", "Trajectories", "Optional motion.star of RELION's polishing.", kind="input",
                         affects="input")
    binning: float = option(1.0, "Binning factor", "Pixel size of the output over that of the images; any number from "
                            "1.", low=1.0, high=100.0)
    box: int = option(128, "Box size", "Binned pixels, even: box in which the CTF is applied.", unit="px", low=8,
                      high=4096, even=True, ask=True)
    crop: int = option(0, "Cropped box size", "Binned pixels, even: side of the output; 0 takes the box size.",
                       unit="px", low=0, high=4096, even=True)
    max_dose: float = option(0.0, "Maximum dose", "Tilts that had more before their exposure are left out; 0 takes "
                             "all.", unit="e/A^2", low=0.0, high=1e6)
    min_frames: int = option(1, "Minimum number of frames", "Particles that fewer tilts show are left out and listed.",
                             low=1, high=100_000)
    ctf: bool = option(True, "Multiply by the CTF", "And by the dose weight. Otherwise images are as they are.")
    whiten: bool = option(False, "Whiten noise", "Make the spectrum of each tilt image flat, by the mean power of "
                          "blocks of the size of a window.", advanced=True)
    exact: bool = option(False, "Unbinned windows", "Cut windows out of the images as they are and bin each, as "
                         "RELION does, instead of binning every image once: slower, and equal to RELION's files.")


@dataclass(frozen=True)
class PseudosubtomoOptions(RelionOptions):
    """RELION 5 pseudo-subtomograms: 2D stacks or 3D sums, multiplied by their CTF."""

    particles: str = _particles("Particle table; angles and box rotations stay, offsets are applied.")
    stack2d: bool = option(True, "Write output as 2D stacks", "Otherwise as 3D sums with weights.")
    float16: bool = option(True, "Write output in float16", "Half the size; RELION before version 4 cannot read it.")
    circle: bool = option(True, "Circular crop", "Level each image by what is outside the largest circle of the "
                          "cropped box, and mask it.")
    precrop: bool = option(False, "Circular crop beforehand", "Level and mask each window as it is cut, by the largest "
                           "circle that it holds, before the CTF is applied.", advanced=True)
    cone_weight: bool = option(False, "Weight down a cone", "In 3D sums, weight down the frequencies about each "
                               "particle's z axis, such as those of a membrane that it stands on.", advanced=True,
                               when={"stack2d": False})
    cone_angle: float = option(10.0, "Cone angle", "Opening of that cone.", unit="degrees", low=0.0, high=180.0,
                               advanced=True, when={"cone_weight": True})
    cone_sigma: float = option(2.0, "Cone width at its tip", "Frequency pixels that are weighted down at any height.",
                               unit="px", low=0.01, high=1000.0, advanced=True, when={"cone_weight": True})
    only_project: bool = option(False, "Only project", "Extract nothing: write where each particle is seen in the tilt "
                                "images, and draw it on the least tilted one, as every extraction does. A check of "
                                "coordinates, pixel sizes and alignment that takes seconds; an output folder of its "
                                "own keeps it apart from an extraction.")
    apply_offsets: bool = option(True, "Apply offsets", "Move positions by rlnOrigin and set that to 0.", advanced=True)
    apply_orientations: bool = option(False, "Apply orientations", "Turn the boxes by the particles' angles, which are "
                                      "0 then: rlnTomoSubtomogram has the whole orientation.", advanced=True)


@dataclass(frozen=True)
class ParticleOptions(RelionOptions):
    """The particle's map straight from tilt series, with half maps and FSC."""

    particles: str = _particles("Particle table with orientations. Halves are those of the column rlnRandomSubset, or "
                                "else every second particle of a tilt series.")
    binning: float = option(1.0, "Binning factor", "Pixel size of the map over that of the images; any number from 1.",
                            low=1.0, high=100.0)
    box: int = option(128, "Box size", "Binned pixels, even: box in which the CTF is applied.", unit="px", low=8,
                      high=1024, even=True, ask=True)
    crop: int = option(0, "Cropped box size", "Binned pixels, even: side of the maps; 0 takes the box size.", unit="px",
                       low=0, high=1024, even=True)
    symmetry: str = option("C1", "Symmetry", "Point group: C1, C2, ..., D2, ..., T, O, I1, I2, I3 or I4, with RELION's "
                           "axes.", affects="table")
    ctf: bool = option(True, "Correct the CTF", "Otherwise neither CTF nor dose weight are taken into account.")
    diameter: float = _mask_diameter()
    reference: str = _reference()
    exact: bool = option(False, "Unbinned windows", "Cut windows out of the images as they are and bin each, as RELION "
                         "does, instead of binning every image once: slower.", advanced=True)


@dataclass(frozen=True)
class AverageOptions:
    """CTF-weighted average of exported sub-tomograms, with half maps and FSC."""

    particles: str = _particles("Table of sub-tomograms with 3D CTFs and orientations.")
    output: str = _output()
    diameter: float = _mask_diameter()
    reference: str = _reference()
    threads: int = _threads()


@dataclass(frozen=True)
class IntersectOptions(SizeOptions):
    """Intersection of a particle set with another one: only old, both, only new."""

    old: str = option("", "Old particles", "Particle table in any dialect; what is written has its dialect, columns "
                      "and, for particles in both sets, its poses.", kind="input", affects="input")
    new: str = option("", "New particles", "Particle table to compare with, in any dialect. Tilt series are matched by "
                      "name, those of M by hash where both tables have it.", kind="input", affects="input")
    output: str = _output()
    star: str = _star()
    only_old: bool = option(False, "Only old", "Keep particles of the old set that have no partner in the new one.")
    both: bool = option(True, "In both", "Keep particles that are in both sets, with their old poses.")
    only_new: bool = option(False, "Only new", "Add particles of the new set that have no partner in the old one, with "
                            "their new poses.")
    tolerance: float = option(10.0, "Tolerance", "Particles farther apart than this do not match; the histogram of "
                              "distances helps to choose. 0 matches nothing: with only old and only new, that joins "
                              "two sets.", unit="A", low=0.0, high=1e6)
    matching: str = option("gated", "Matching", "gated: the least sum of distances, counted up to the tolerance. warp: "
                           "M's way, the least sum of distances at first and then those within the tolerance, which "
                           "loses some true pairs.", choices=("gated", "warp"), advanced=True)
    sources: str = option("", "Tilt series", "Names, separated by commas, of the tilt series in which sets are "
                          "compared; all if empty. In others, old particles count as only old and new ones are left "
                          "out.")
    old_pixel_size: float = _coordinates_pixel_size("Pixel size of old coordinates")
    new_pixel_size: float = _coordinates_pixel_size("Pixel size of new coordinates", "The same for the new set.")
    old_normalized: bool = _normalized("Old coordinates are normalised")
    new_normalized: bool = _normalized("New coordinates are normalised")
    centre: str = _centre()
    allow_loss: bool = _allow_loss()
    source: str = _source()
    memory: float = _memory()


@dataclass(frozen=True)
class DuplicatesOptions(ParticleTableOptions, SizeOptions):
    """Removal of particles that were picked several times."""

    particles: str = _particles("Particle table in any dialect.")
    allow_loss: bool = _allow_loss()
    output: str = _output()
    star: str = _star()
    distance: float = option(50.0, "Distance", "Of particles that are closer than this only the one with the best "
                             "score is kept. 0 keeps all.", unit="A", low=0.0, high=1e6)
    score: str = option("", "Score", "Column that says how good a particle is, more being better. Empty takes "
                        "rlnAutopickFigureOfMerit, rlnMaxValueProbDistribution or rlnLogLikeliContribution, whichever "
                        "is there first; none lets the position decide.")


@dataclass(frozen=True)
class SelectOptions(ParticleTableOptions, SizeOptions):
    """The particles that an analysis of exported image series kept, as a subset of the original ones."""

    particles: str = _particles("Table in any dialect whose rows are chosen, as they stand; by default the list that "
                                "the export left of its particles.")
    exported: str = option("", "Export", "Table of the exported image series: NAME.star, beside which NAME_exported."
                           "star lists the particles, or that list itself.", kind="input", affects="input")
    kept: str = option("", "Kept particles", "What the analysis left: a filtered STAR file (tomoDRGN, cryoDRGN) or an "
                       "index of particles, .pkl.", kind="input", affects="input")
    indexed: str = option("", "Table of the index", "The STAR file that the analysis read, if it was not the export's "
                          "own but a part of it: an index counts in this.", kind="input", affects="input")
    counts: str = option("particles", "The index counts", "particles, in the order of the table, as tomoDRGN and "
                         "cryoDRGN do for tilt series; or images: a particle is kept if one of its images is.",
                         choices=("particles", "images"))
    exclude: bool = option(False, "Exclude these", "Keep all exported particles but these.")
    tolerance: float = option(10.0, "Tolerance", "Particles of one name that lie farther apart in both tables are an "
                              "error: the names mean others then. 0 trusts the names.", unit="A", low=0.0, high=1e6,
                              advanced=True)
    output: str = _output()
    star: str = _star()


VERBS: Dict[str, Type[Any]] = {
    "simulate": SimulateOptions, "reconstruct": ReconstructOptions, "subtomo": SubtomoOptions,
    "series": SeriesOptions, "pseudosubtomo": PseudosubtomoOptions, "particle": ParticleOptions,
    "average": AverageOptions, "intersect": IntersectOptions, "duplicates": DuplicatesOptions,
    "select": SelectOptions}


def flag(name: str) -> str:
    """Command line spelling of an option's name.

    Parameters
    ----------
    name : str

    Returns
    -------
    str
    """
    return "--" + name.replace("_", "-")


def from_dict(verb: str, values: Dict[str, Any]) -> Any:
    """Build the options of a verb from plain values, as read from JSON.

    Parameters
    ----------
    verb : str
        Key of `VERBS`.
    values : dict
        Option name to value; strings are converted as a command line's. Options left out keep their defaults.

    Returns
    -------
    object of a class in `VERBS`

    Raises
    ------
    InputError
        For a verb or an option that does not exist, or a value of the wrong kind or out of range.
    """
    if not isinstance(verb, str) or verb not in VERBS:
        raise InputError("verb %s" % verb, "it does not exist", "Use one of " + ", ".join(sorted(VERBS)))
    if not isinstance(values, dict):
        raise InputError("options of %s" % verb, "they are %s, not names with values" % shorten(values),
                         'Write them as {"name": value}')
    known = {f.name: f for f in fields(VERBS[verb])}
    for name in values:
        if name not in known:
            raise InputError("option %s" % name, "%s has no such option" % verb, "Use " + ", ".join(sorted(known)))
    converted = {name: _convert(known[name], value) for name, value in values.items()}
    return check(VERBS[verb](**converted))


def shorten(value: object) -> str:
    """A value as errors show it.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
        At most 60 characters.
    """
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _convert(spec: Field, value: Any) -> Any:
    """Bring a value to the type of the option's default; strings are what a command line gives."""
    kind: Any = type(spec.default)
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    try:
        if kind is bool:
            return value if isinstance(value, bool) else words[str(value).lower()]
        if kind is str:
            return os.fsdecode(os.fspath(value))
        if isinstance(value, bool):
            raise ValueError
        number = kind(value)
        if not isinstance(value, str) and number != value:
            raise ValueError
        float(number)  # too large for a float, then for everything else
        return number
    except (TypeError, ValueError, KeyError, OverflowError):
        name = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
        raise InputError(flag(spec.name), "%s is not %s" % (shorten(value), name), "Correct the value") from None


def check(options: Any) -> Any:
    """Check every value against its limits.

    Parameters
    ----------
    options : object of a class in `VERBS`

    Returns
    -------
    The same options.

    Raises
    ------
    InputError
        Naming the option, its value and its limits.
    """
    for spec in fields(options):
        value, meta = getattr(options, spec.name), spec.metadata
        if meta["choices"] and value not in meta["choices"]:
            raise InputError(flag(spec.name), "%s is not possible" % shorten(value),
                             "Choose one of " + ", ".join(str(c) for c in meta["choices"]))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise InputError(flag(spec.name), "%r is not a number" % value, "Give a finite number")
            if meta["low"] is not None and value < meta["low"] or meta["high"] is not None and value > meta["high"]:
                raise InputError(flag(spec.name), "%g is out of range" % value,
                                 "Give a value from %g to %s %s" % (meta["low"], meta["high"], meta["unit"]))
        if isinstance(value, str) and not _nameable(value):
            raise InputError(flag(spec.name), "%s cannot be part of a file's name" % shorten(value),
                             "Correct the value")
        if meta["even"] and value % 2:
            raise InputError(flag(spec.name), "%d is odd" % value, "Give an even size; %d is next" % (value + 1))
    star = getattr(options, "star", "a.star")
    if os.path.basename(star) != star or not star.endswith(".star") or star == ".star":
        raise InputError("--star", "%s is no bare file name ending in .star" % shorten(star),
                         "Give a name such as particles.star; --output names the folder")
    return options


def affecting(options: Any, *kinds: str) -> Dict[str, Any]:
    """The options that influence something, for fingerprints.

    Parameters
    ----------
    options : object of a class in `VERBS`
    *kinds : str
        Of `AFFECTS`.

    Returns
    -------
    dict
        By name.
    """
    return {spec.name: getattr(options, spec.name) for spec in fields(options)
            if spec.metadata["affects"] in kinds and counts(options, spec.name)}


def counts(options: Any, name: str) -> bool:
    """Tell whether an option counts beside the others.

    Parameters
    ----------
    options : object of a class in `VERBS`
    name : str

    Returns
    -------
    bool
    """
    spec = next(spec for spec in fields(options) if spec.name == name)
    return all(getattr(options, other) == value and counts(options, other)
               for other, value in spec.metadata["when"].items())


def _nameable(text: str) -> bool:
    """Whether the system takes a text as a path: neither null bytes nor half characters."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def to_dict(options: Any) -> Dict[str, Any]:
    """Plain values of the options, for JSON.

    Parameters
    ----------
    options : object of a class in `VERBS`

    Returns
    -------
    dict
    """
    return asdict(options)


def add_arguments(parser: "argparse.ArgumentParser", cls: Type[Any]) -> None:
    """Add one flag per option to an argparse parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    cls : type
        Options class.
    """
    for spec in fields(cls):
        meta = spec.metadata
        text = meta["help"].replace("%", "%%")
        if spec.default is not MISSING and spec.default != "":
            text += " Default: %s%s." % (spec.default, " " + meta["unit"] if meta["unit"] else "")
        common: Dict[str, Any] = dict(dest=spec.name, default=None, help=text)
        if isinstance(spec.default, bool):
            parser.add_argument(flag(spec.name), action="store_true", **common)
            parser.add_argument("--no-" + flag(spec.name)[2:], action="store_false", dest=spec.name, default=None,
                                help="The opposite of %s." % flag(spec.name))
        else:
            metavar = "{%s}" % ",".join(str(c) for c in meta["choices"]) if meta["choices"] else (
                meta["unit"].upper() or type(spec.default).__name__.upper())
            parser.add_argument(flag(spec.name), metavar=metavar, **common)


def given(verb: str, namespace: "argparse.Namespace") -> Dict[str, Union[str, bool]]:
    """What parsed command line flags say.

    Parameters
    ----------
    verb : str
        Key of `VERBS`.
    namespace : argparse.Namespace

    Returns
    -------
    dict of str to str or bool
        Options that were given.
    """
    names = [spec.name for spec in fields(VERBS[verb])]
    return {n: getattr(namespace, n) for n in names if getattr(namespace, n, None) is not None}


def dumps(verb: str, options: Any, **more: Any) -> str:
    """Text of a job file.

    Parameters
    ----------
    verb : str
        Key of `VERBS`.
    options : object of a class in `VERBS`
    **more
        Further entries: ``series``, ``collect``.

    Returns
    -------
    str
    """
    return json.dumps(dict(verb=verb, options=to_dict(options), **more), indent=1, sort_keys=True)
