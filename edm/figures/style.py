"""What the figures share: measures, type and colours for print, captions, and files."""

import os
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

from torch_utils.errors import UserError
from torch_utils.files import atomic_write, make_output_dir

WIDTH = 7.0  # inches, the text width of a two-column paper
DPI = 300

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLACK, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    '#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
GREY = '#6E6E6E'
MARKERS = 'osD^vP'

STYLE = {
    'font.size': 8, 'axes.titlesize': 8, 'axes.labelsize': 8, 'xtick.labelsize': 7, 'ytick.labelsize': 7,
    'legend.fontsize': 7, 'axes.linewidth': 0.6, 'xtick.major.width': 0.6, 'ytick.major.width': 0.6,
    'xtick.major.size': 2.5, 'ytick.major.size': 2.5, 'lines.linewidth': 1.3, 'lines.markersize': 4,
    'axes.spines.top': False, 'axes.spines.right': False, 'legend.frameon': False, 'pdf.fonttype': 42,
}
SUFFIXES = ('.png', '.pdf')
MARGIN = 0.08  # inches around everything
_CAPTION_FONT = FontProperties(size=7)
_CAPTION_LINE = 0.135  # inches


def new_figure(height: float) -> Figure:
    """An empty figure, WIDTH by `height` inches, apart from pyplot's global state and any display."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    total_width, total_height = figure.get_size_inches()
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure.add_axes(box)


def wrap_caption(text: str) -> tuple[str, float]:
    """The text in lines that fit the figure, and their height in inches."""
    measure, room = TextToPath(), (WIDTH - 2 * MARGIN) * 72  # points
    lines = ['']
    for word in text.split():
        longer = f'{lines[-1]} {word}'.lstrip()
        if lines[-1] and measure.get_text_width_height_descent(longer, _CAPTION_FONT, False)[0] > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return '\n'.join(lines), _CAPTION_LINE * len(lines)


def draw_caption(figure: Figure, wrapped: str, top: float) -> None:
    """Write a caption from `wrap_caption`; top: inches from the lower edge to its first line's top."""
    figure.text(MARGIN / WIDTH, top / figure.get_size_inches()[1], wrapped, va='top', ha='left',
                fontproperties=_CAPTION_FONT, linespacing=1.25, parse_math=False)


def check_out(path: str | os.PathLike, option: str = '--out') -> None:
    """Make sure, before any work, that a figure can be written to `path`.

    Raises UserError if its name ends with neither .png nor .pdf, or it can't be written there.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise UserError(f'{option} {path}: expected the name of a file that ends with .png or .pdf')
    make_output_dir(path.parent, option)


def save_figure(figure: Figure, path: str | os.PathLike, *, title: str, caption: str) -> None:
    """Write a PNG of 300 dpi or a PDF, by the path's suffix; title and caption stand in its metadata, too."""
    kind = Path(path).suffix.lower()[1:]
    metadata = {'png': {'Title': title, 'Description': caption},
                'pdf': {'Title': title, 'Subject': caption, 'CreationDate': None}}[kind]
    with matplotlib.rc_context(STYLE), atomic_write(path) as file:
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
