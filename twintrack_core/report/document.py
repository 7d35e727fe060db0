"""What a page is made of: plain data, of which the template makes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from twintrack_core.report.figures.drawing import Drawing


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    text
        What it says.
    detail
        A second line, smaller.
    strong
        Whether it is to be found at a glance.
    """

    text: str
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Group:
    """A heading between rows of a table."""

    title: str


Row: TypeAlias = Group | Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table. The first column names the rows.

    Attributes
    ----------
    title
        What it shows.
    head
        Titles of the columns.
    rows
        As many cells each; or headings.
    words
        Numbers of the columns that hold text, which is set flush left; the first always is.
    notes
        What to know about it, below.
    folded
        Whether it is closed until it is asked for.
    described
        Whether its rows are described below their names, which takes room.
    """

    kind: ClassVar[str] = "table"

    title: str
    head: tuple[Cell | str, ...]
    rows: tuple[Row, ...]
    words: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False
    described: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes
    ----------
    name
        Unique on the page.
    title
        What it shows, in a few words: what a screen reader says first.
    caption
        What to read off it.
    drawing
        What to draw.
    table
        Its data.
    """

    kind: ClassVar[str] = "figure"

    name: str
    title: str
    caption: str
    drawing: Drawing
    table: Table


@dataclass(frozen=True)
class Text:
    """A paragraph; the lead says the main result."""

    kind: ClassVar[str] = "text"

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Notes:
    """What the reader must know before trusting the figures."""

    kind: ClassVar[str] = "notes"

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms, and what is known of them."""

    kind: ClassVar[str] = "facts"

    facts: tuple[tuple[str, str], ...]
    literal: bool = False


@dataclass(frozen=True)
class Folded:
    """Text that is closed until it is asked for."""

    kind: ClassVar[str] = "folded"

    title: str
    text: str


@dataclass(frozen=True)
class FigureRow:
    """Figures that stand side by side where there is room."""

    kind: ClassVar[str] = "figures"

    figures: tuple[Figure, ...]


Block: TypeAlias = Text | Notes | Facts | Folded | Table | Figure | FigureRow


@dataclass(frozen=True)
class Section:
    """A section: its name is unique on the page."""

    name: str
    title: str
    blocks: tuple[Block, ...]

    def of_kind(self, kind: Literal["table", "figure", "notes", "text", "facts"]) -> list[Block]:
        """Return the blocks of a kind; figures that stand in a row one by one."""
        flat: list[Block] = []
        for block in self.blocks:
            flat += block.figures if isinstance(block, FigureRow) else [block]
        return [block for block in flat if block.kind == kind]


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    subtitle: str
    sections: tuple[Section, ...] = field(default=())

    def __getitem__(self, name: str) -> Section:
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(section.name == name for section in self.sections)
