"""From a drawing to SVG inside a page: no name twice, no address, no font and no colour of its own."""

from __future__ import annotations

import io
import re
import warnings

from twintrack_core.report.figures.drawing import COLOURS, HAIR, INK, WIDTH, Axes, Drawing

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twintrack",
    "text.parse_math": False,  # names are no formulas
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.borderaxespad": 0.3,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": HAIR,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def svg_of(drawing: Drawing, name: str, title: str) -> str:
    """Draw, and return an ``<svg>`` element to be put into HTML: equal drawings give equal text.

    Parameters
    ----------
    drawing
        What to draw.
    name
        Unique on the page; what the drawing refers to inside itself is named after it.
    title
        What a screen reader says.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tall = drawing.height
    text = io.StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        # The reader's fonts are used, whatever the letters of a name.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, tall))

        def axes_at(left: float, bottom: float, width: float, height: float) -> Axes:
            return figure.add_axes((left / WIDTH, bottom / tall, width / WIDTH, height / tall))

        drawing.draw(axes_at)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _for_page(text.getvalue(), name, title)


def _for_page(text: str, name: str, title: str) -> str:
    from markupsafe import escape

    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*</defs>\s*", "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px)[^;\"]*", r"font-size: \2", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None  # noqa: S101 - matplotlib always writes it
    opened = f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title"><title id="{name}-title">'
    return re.sub(r"^<svg[^>]*>", lambda _: f"{opened}{escape(title)}</title>", text)
