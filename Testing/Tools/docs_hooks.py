"""What mkdocs builds besides the pages in docs/: called by it, named in mkdocs.yml.

- The start page is README.md, so nothing is told twice.
- The reference has a page for what `from OFLSAM2Core import ...` offers and one for each folder.
- The picture of the architecture is drawn from the code's imports.
- The examples are shown as they are in examples/, where the tests run them.
- Links that leave docs/ lead to the repository, pictures among them are copied.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Tools"))

from architecture_picture import picture  # noqa: E402
from import_graph import CORE, LAYERS, modules  # noqa: E402

PAGES = [
    ("Start", "index.md"),
    ("Slicer tutorial", "slicer-tutorial.md"),
    ("Files", "files.md"),
    ("Cohorts", "cohort.md"),
    ("Accuracy", "accuracy.md"),
    ("Architecture", "architecture.md"),
    ("Policy", "policy.md"),
]
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    docs = Path(config.docs_dir)
    nav: list[dict[str, object]] = [
        {title: name} for title, name in PAGES if name == "index.md" or (docs / name).exists()
    ]
    if example_files():
        nav.insert(2, {"Examples": "examples.md"})
    nav.append({"Reference": [{"Overview": "reference/index.md"}, *reference_pages()]})
    listed = {name for _, name in PAGES}
    for folder in ("decisions", "experiments"):
        names = sorted(path.name for path in (docs / folder).glob("*.md"))
        nav.append({folder.capitalize(): [f"{folder}/{name}" for name in names]})
    others = sorted(path.name for path in docs.glob("*.md") if path.name not in listed)
    nav.append({"More": list(others)})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    def add(name: str, content: str) -> None:
        files.append(File.generated(config, name, content=content))

    add("index.md", (ROOT / "README.md").read_text(encoding="utf-8"))
    add("pictures/architecture.svg", picture(ROOT))
    add("reference/index.md", overview())
    for page in reference_pages():
        ((folder, name),) = page.items()
        add(name, folder_page(folder))
    if example_files():
        add("examples.md", examples_page())
    for path in sorted((ROOT / "Resources" / "Screenshots").glob("*.png")):
        files.append(File.generated(config, f"pictures/slicer/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are right in the repository become links that are right on the site."""
    own = page.file.src_uri
    source = ROOT if own == "index.md" else ROOT / "docs" / posixpath.dirname(own)
    if own.startswith("reference/") or own == "examples.md":
        return markdown

    def changed(found: re.Match[str]) -> str:
        target = found[2]
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = Path(posixpath.normpath((source / target).as_posix()))
        if not path.exists():
            return found[0]  # mkdocs says that it is missing.
        inside = path.relative_to(ROOT).as_posix()
        if inside == "README.md":
            where = "index.md"
        elif inside.startswith("Resources/Screenshots/"):
            where = f"pictures/slicer/{path.name}"
        elif inside.startswith("docs/") and path.is_file():
            where = inside.removeprefix("docs/")
        else:
            kind = "blob" if path.is_file() else "tree"
            return f"{found[1]}{str(config.repo_url).rstrip('/')}/{kind}/main/{inside}{found[3]}"
        return f"{found[1]}{posixpath.relpath(where, posixpath.dirname(own) or '.')}{found[3]}"

    return LINK.sub(changed, markdown)


def core_folders() -> list[str]:
    """Folders and files at the core's top, from the top layer to the lowest."""
    there = {name.split(".")[1] for name in modules(ROOT) if name.startswith(f"{CORE}.")}
    ordered = [folder for row in LAYERS for folder in row if folder in there]
    return ordered + sorted(there - set(ordered) - {"__main__"})


def reference_pages() -> list[dict[str, str]]:
    return [{folder: f"reference/{folder}.md"} for folder in core_folders()]


def folder_page(folder: str) -> str:
    start = f"{CORE}.{folder}"
    names = [name for name in modules(ROOT) if name == start or name.startswith(f"{start}.")]
    blocks = [
        f"::: {name}\n    options:\n      heading_level: {2 if name != start else 1}\n"
        "      show_submodules: false\n"
        for name in names
        if not name.endswith(".__main__")
    ]
    return "\n".join(blocks)


def overview() -> str:
    rows = "\n".join(f"- [`{CORE}.{folder}`]({folder}.md)" for folder in core_folders())
    return (
        f"# Reference\n\n## What `from {CORE} import ...` offers\n\n"
        f"::: {CORE}\n    options:\n      show_root_heading: false\n"
        "      show_root_toc_entry: false\n      heading_level: 3\n\n"
        f"## Folders, from the top layer to the lowest\n\n{rows}\n"
    )


def example_files() -> list[Path]:
    return sorted((ROOT / "examples").glob("[0-9]*.py"))


def examples_page() -> str:
    parts = [
        "# Examples\n\nEach is a program of its own in the folder `examples/`, run by the tests.\n"
    ]
    for path in example_files():
        title = path.stem.split("_", 1)
        parts.append(f"## {title[0]} {title[-1].replace('_', ' ')}\n")
        parts.append(f"```python\n{path.read_text(encoding='utf-8')}```\n")
    return "\n".join(parts)
