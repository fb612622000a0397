"""Shared by all figures: widths, fonts and colours for print, panels, and files."""

import os
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from torch_utils.errors import UserError
from torch_utils.files import atomic_write, make_output_dir

WIDTH = 6.75  # inches, both columns of a paper; one is 3.25
_NARROW = 5  # inches, below which panels stand one above the other
DPI = 300

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    '#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
GREY = '#6E6E6E'
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = 'osD^vP'

STYLE = {
    'font.size': 8, 'axes.titlesize': 8, 'axes.labelsize': 8, 'xtick.labelsize': 7, 'ytick.labelsize': 7,
    'legend.fontsize': 7, 'axes.linewidth': 0.6, 'xtick.major.width': 0.6, 'ytick.major.width': 0.6,
    'xtick.major.size': 2.5, 'ytick.major.size': 2.5, 'lines.linewidth': 1.3, 'lines.markersize': 4,
    'axes.labelpad': 2, 'axes.spines.top': False, 'axes.spines.right': False, 'legend.frameon': False,
    'legend.handlelength': 2.2, 'legend.labelspacing': 0.3, 'legend.borderpad': 0.2,
    'figure.constrained_layout.h_pad': 0.03, 'figure.constrained_layout.w_pad': 0.03,
    'pdf.fonttype': 42,  # TrueType: journals refuse Type 3
}
SUFFIXES = ('.png', '.pdf')
_CAPTION = 'Caption of '  # how a file of ours begins that lies beside a picture


def series_style(i: int) -> dict:
    """Colour and marker of the i-th curve."""
    return {'color': SERIES[i % len(SERIES)], 'marker': MARKERS[i % len(MARKERS)]}


def is_narrow(width: float) -> bool:
    """Whether a figure of this width, in inches, fills one column of a paper."""
    return width < _NARROW


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, without pyplot's global state or a display."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def new_panels(width: float, count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of panels `height` inches high, side by side or, if narrow, one above the other."""
    rows = count if is_narrow(width) else 1
    figure = new_figure(width, rows * height)
    return figure, list(figure.subplots(rows, count // rows, squeeze=False).flat)


def shrink(figure: Figure) -> None:
    """Remove the height that pictures of fixed proportions leave empty."""
    figure.draw_without_rendering()
    pad = figure.get_layout_engine().get()['h_pad']
    figure.set_figheight(figure.get_tightbbox().height + 2 * pad)


def add_letter(axes: Axes, letter: str) -> None:
    """Write a panel's letter in bold above its left corner."""
    axes.annotate(letter, (0, 1), xycoords='axes fraction', xytext=(-22, 4), textcoords='offset points',
                  fontsize=9, fontweight='bold')


def scale_shares(axes: Axes) -> None:
    """A vertical axis for shares, 0..1."""
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ['0', '0.25', '0.5', '0.75', '1'])


def check_out(path: str | os.PathLike, option: str = '--out') -> None:
    """Refuse, before any work, a `path` where a figure and the caption beside it can't be written.

    Raises UserError if it ends with neither .png nor .pdf, can't be written, or if the caption would replace
    another file.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise UserError(f'{option} {path}: expected the name of a file that ends with .png or .pdf')
    text = path.with_suffix('.txt')
    if text.exists() and not (text.is_file() and text.read_bytes().startswith(_CAPTION.encode())):
        raise UserError(f'{option} {path}: the caption goes to {text}, which is another file')
    make_output_dir(path.parent, option)


def save_figure(figure: Figure, path: str | os.PathLike, *, title: str, caption: str) -> None:
    """Write a PNG of 300 dpi or a PDF, by the path's suffix, and the caption in a .txt beside it.

    Title and caption go into the picture's metadata, too.
    """
    path = Path(path)
    kind = path.suffix.lower()[1:]
    metadata = {'png': {'Title': title, 'Description': caption},
                'pdf': {'Title': title, 'Subject': caption, 'CreationDate': None}}[kind]
    with atomic_write(path.with_suffix('.txt'), 'w') as file:
        file.write(f'{_CAPTION}{path.stem}\n\n{textwrap.fill(f"{title}. {caption}", 100)}\n')
    with matplotlib.rc_context(STYLE), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
