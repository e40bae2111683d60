"""Which folder of the core imports which: for the test of the layers and the picture of them.

    python Testing/Tools/import_graph.py            # prints the folders that each folder imports
    python Testing/Tools/import_graph.py --upwards  # those against the order: exit code 1

Every `import` statement counts, also those inside functions and for type checking: a folder that
names another's types knows of it.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE = "OFLSAM2Core"
MODULE = "OFLSAM2Slicer"

# From the top: a folder (or a file at the core's top) may import those of lower rows, not those of
# its own row or above.
LAYERS: tuple[tuple[str, ...], ...] = (
    (MODULE,),
    ("cli",),
    ("app", "cohort"),
    ("worker",),
    ("evaluation",),
    ("session",),
    ("open_volume",),
    ("methods",),
    ("atlas",),
    ("postprocessing",),
    ("slice_position",),
    ("learned_task",),
    ("task_file",),
    ("method_state",),
    ("preprocessing",),
    ("backbones",),
    ("io",),
    ("data",),
    ("runtime",),
    ("errors",),
)


@dataclass(frozen=True)
class Import:
    """One import statement."""

    file: Path
    line: int
    importer: str  # Module names with dots, e.g. "OFLSAM2Core.io.reading".
    imported: str
    when_loaded: bool  # Not inside a function, not for type checking alone.


def folder_of(module: str) -> str | None:
    """The node of the graph that a module is in; None for the core's own top (`__init__`)."""
    words = module.split(".")
    if words[0] in (MODULE, f"{MODULE}Lib"):
        return MODULE
    if words[0] != CORE or len(words) == 1 or words[1] == "__main__":
        return None
    return words[1]


def modules(root: Path) -> dict[str, Path]:
    """Every module of the core and of the Slicer module, by its dotted name."""
    found = {}
    for top, start in ((CORE, root), (MODULE, root / MODULE)):
        folder = root / top
        for path in sorted(folder.rglob("*.py")):
            words = list(path.relative_to(start).with_suffix("").parts)
            if words[-1] == "__init__":
                words.pop()
            found[".".join(words)] = path
    return found


def imports(root: Path = ROOT) -> Iterator[Import]:
    """Every import of one of our modules by another one."""
    known = modules(root)
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_package = path.name == "__init__.py"
        for node, when_loaded in _import_nodes(tree.body, True):
            for target in _targets(node, name, is_package, known):
                if target in known and target != name:
                    yield Import(path, node.lineno, name, target, when_loaded)


def _import_nodes(
    body: list[ast.stmt], when_loaded: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, when_loaded
            continue
        now = when_loaded and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            now = False
        for field in ("body", "orelse", "finalbody"):
            yield from _import_nodes(getattr(node, field, []), now)
        for handler in getattr(node, "handlers", []):
            yield from _import_nodes(handler.body, now)


def _targets(
    node: ast.Import | ast.ImportFrom, importer: str, is_package: bool, known: dict[str, Path]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        words = importer.split(".")
        words = words[: len(words) - node.level + is_package]
        base = ".".join([*words, base] if base else words)
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in known else base


def folder_edges(root: Path = ROOT) -> dict[tuple[str, str], list[Import]]:
    """(importing folder, imported folder) with the imports that make the arrow."""
    edges: dict[tuple[str, str], list[Import]] = {}
    for each in imports(root):
        source, target = folder_of(each.importer), folder_of(each.imported)
        if source is not None and target is not None and source != target:
            edges.setdefault((source, target), []).append(each)
    return edges


def rank(folder: str) -> int:
    """The row of a folder in LAYERS. KeyError for a folder that has none yet."""
    for row, folders in enumerate(LAYERS):
        if folder in folders:
            return row
    raise KeyError(f"'{folder}' has no row in LAYERS of {Path(__file__).name}; give it one.")


def upward_imports(root: Path = ROOT) -> list[Import]:
    """Imports that do not lead to a lower row."""
    return [
        each
        for (source, target), found in folder_edges(root).items()
        if rank(source) >= rank(target)
        for each in found
    ]


def module_circle(root: Path = ROOT) -> list[str]:
    """Modules that import each other in a circle when they are loaded; empty where none do."""
    graph: dict[str, set[str]] = {}
    for each in imports(root):
        if each.when_loaded and not each.importer.startswith(f"{each.imported}."):
            graph.setdefault(each.importer, set()).add(each.imported)
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if circle := visit(target, [*path, name]):
                return circle
        done.add(name)
        return []

    for name in sorted(graph):
        if circle := visit(name, []):
            return circle
    return []


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which folder of the core imports which.")
    parser.add_argument("--upwards", action="store_true", help="only imports against the order")
    arguments = parser.parse_args(words)
    if arguments.upwards:
        wrong = upward_imports()
        for each in wrong:
            print(f"{each.file.relative_to(ROOT)}:{each.line}: imports {each.imported}")
        return 1 if wrong else 0
    edges = folder_edges()
    for source in [folder for row in LAYERS for folder in row]:
        targets = sorted((target for s, target in edges if s == source), key=rank)
        if targets:
            print(f"{source}: {', '.join(targets)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
