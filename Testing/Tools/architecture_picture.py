"""Draws the folders of the core and who imports whom, from the code itself, as an SVG.

    python Testing/Tools/architecture_picture.py FILE.svg

Rows are the layers of import_graph.py. An arrow that follows from others is left out: where A
imports B and B imports C, the picture does not show that A imports C as well. The documentation
site draws the picture each time it is built (Testing/Tools/docs_hooks.py).
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from import_graph import CORE, LAYERS, MODULE, ROOT, Import, folder_edges, modules  # noqa: E402

BOX_WIDTH, BOX_HEIGHT = 420, 52
ROW_HEIGHT, COLUMN_WIDTH = 84, 450
MARGIN, TOP = 100, 24
COLUMNS = max(map(len, LAYERS))
WORDS = 68


def first_sentence(root: Path, folder: str) -> str:
    """What a folder is, by the docstring of its package or module."""
    known = modules(root)
    name = f"{CORE}.{folder}" if folder != MODULE else f"{MODULE}Lib"
    if name not in known:
        return ""
    words = ast.get_docstring(ast.parse(known[name].read_text(encoding="utf-8"))) or ""
    return " ".join(words.split("\n\n")[0].split()).split(". ")[0].rstrip(".").replace("`", "")


def shortened(words: str) -> str:
    """As much as a box is wide."""
    return words if len(words) <= WORDS else words[: WORDS - 3].rsplit(" ", 1)[0] + " ..."


def reduced(edges: dict[tuple[str, str], list[Import]]) -> dict[tuple[str, str], int]:
    """Arrows that do not follow from others, with how many import statements make them."""

    def reaches(start: str, end: str, without: tuple[str, str]) -> bool:
        open_, seen = [start], set()
        while open_:
            here = open_.pop()
            for edge in edges:
                if edge[0] == here and edge != without and edge[1] not in seen:
                    if edge[1] == end:
                        return True
                    seen.add(edge[1])
                    open_.append(edge[1])
        return False

    return {edge: len(found) for edge, found in edges.items() if not reaches(*edge, edge)}


def positions(folders: set[str]) -> dict[str, tuple[float, float]]:
    """Middle of each folder's box; rows without any folder take no room. Folders that have no
    row in LAYERS stand in a last one, so that the picture shows what a test complains of."""
    rows = [[f for f in row if f in folders] for row in LAYERS]
    rows.append(sorted(folders.difference(*LAYERS)))
    middle = MARGIN + COLUMNS * COLUMN_WIDTH / 2
    places = {}
    for number, row in enumerate(filter(None, rows)):
        for column, folder in enumerate(row):
            x = middle + (column - (len(row) - 1) / 2) * COLUMN_WIDTH
            places[folder] = (x, TOP + BOX_HEIGHT / 2 + number * ROW_HEIGHT)
    return places


def arrow(start: tuple[float, float], end: tuple[float, float], side: int, crossed: int) -> str:
    """Straight down to the next row; past `crossed` rows a curve along the right or left side."""
    (x0, y0), (x1, y1) = start, end
    if not crossed:
        return f"M{x0:.0f},{y0 + BOX_HEIGHT / 2:.0f} L{x1:.0f},{y1 - BOX_HEIGHT / 2 - 4:.0f}"
    x0, x1 = x0 + side * BOX_WIDTH / 2, x1 + side * (BOX_WIDTH / 2 + 4)
    y0, y1 = y0 + 10, y1 - 10
    out = side * (18 + 13 * crossed)
    return f"M{x0:.0f},{y0:.0f} C{x0 + out:.0f},{y0:.0f} {x1 + out:.0f},{y1:.0f} {x1:.0f},{y1:.0f}"


def picture(root: Path = ROOT) -> str:
    """The whole SVG."""
    edges = folder_edges(root)
    folders = {folder for edge in edges for folder in edge}
    places = positions(folders)
    width = COLUMNS * COLUMN_WIDTH + 2 * MARGIN
    height = max(y for _, y in places.values()) + BOX_HEIGHT / 2 + TOP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" font-family="sans-serif" text-anchor="middle">',
        "<title>Folders of OFLSAM2Core and their imports</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 8,4 0,8z" fill="#5c6f82"/></marker></defs>',
        '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>',
    ]
    rows = sorted({y for _, y in places.values()})
    sides = 0
    for (source, target), count in sorted(reduced(edges).items()):
        start, end = places[source], places[target]
        crossed = rows.index(end[1]) - rows.index(start[1]) - 1
        sides += crossed > 0  # Left and right in turn, so that they do not lie on each other.
        line = arrow(start, end, 1 if sides % 2 else -1, crossed)
        words = f"{source} imports {target} ({count} import{'s' * (count > 1)})"
        parts.append(
            f'<path d="{line}" fill="none" stroke="#5c6f82" '
            f'stroke-width="1.4" marker-end="url(#head)"><title>{escape(words)}</title></path>'
        )
    for folder, (x, y) in places.items():
        known = modules(root)
        is_file = f"{CORE}.{folder}" in known and known[f"{CORE}.{folder}"].stem == folder
        name = folder if folder == MODULE else folder + (".py" if is_file else "/")
        fill = "#dcebf7" if folder != MODULE else "#f7ead6"
        parts.append(
            f"<g><title>{escape(first_sentence(root, folder))}</title>"
            f'<rect x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" '
            f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="#5c6f82"/>'
            f'<text x="{x:.0f}" y="{y - 3:.0f}" font-size="16" fill="#1c2733">'
            f"{escape(name)}</text>"
            f'<text x="{x:.0f}" y="{y + 16:.0f}" font-size="11" fill="#44566a" '
            f'class="words">{escape(shortened(first_sentence(root, folder)))}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
