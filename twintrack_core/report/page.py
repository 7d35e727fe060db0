"""From a document to one HTML file that needs nothing else."""

from __future__ import annotations

from importlib import import_module

from twintrack_core.errors import WorkError
from twintrack_core.report.document import Cell, Document, Figure, Group
from twintrack_core.report.figures.svg import svg_of


def require_libraries() -> None:
    """Refuse before any work what could not be drawn or written after it.

    Raises
    ------
    WorkError
        Without Jinja2 or matplotlib.
    """
    for module, name in (("jinja2", "Jinja2"), ("matplotlib", "matplotlib")):
        try:
            import_module(module)
        except ImportError as error:
            raise WorkError(f"A report needs {name}.", None, "pip install twintrack-core[report]") from error


def page_of(document: Document) -> str:
    """Return HTML. Whatever is in a document is text to it, never markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("twintrack_core.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def svg(figure: Figure) -> Markup:
        return Markup(svg_of(figure.drawing, figure.name, figure.title))  # noqa: S704 - escaped where it is made

    return environment.get_template("report.html.jinja").render(
        document=document,
        svg=svg,
        cell=lambda found: found if isinstance(found, Cell) else Cell(found),
        is_group=lambda row: isinstance(row, Group),
    )
