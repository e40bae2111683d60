"""Names of images: one, or several of one patient joined by plus signs."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.errors import InputError


def split_images(text: str | Path, folder: Path | None = None) -> tuple[Path, ...]:
    """IMAGE, or IMAGE+IMAGE2+IMAGE3 of one patient. A plus sign in a name is no separator where the
    files are there by that name.

    folder: where relative paths start, if not in the current one.
    Raises InputError.
    """

    def placed(name: str) -> Path:
        path = Path(name)
        return path if folder is None else folder / path.expanduser()

    pieces = str(text).split("+")
    if len(pieces) == 1:
        return (placed(str(text)),)
    for count in range(1, min(MOST_VOLUMES, len(pieces)) + 1):
        for inner in combinations(range(1, len(pieces)), count - 1):
            cuts = (0, *inner, len(pieces))
            names = ["+".join(pieces[a:b]) for a, b in pairwise(cuts)]
            if all(name and _is_there(placed(name)) for name in names):
                return tuple(map(placed, names))
    if len(pieces) > MOST_VOLUMES or not all(pieces):
        raise InputError(
            f"'{text}' is no file, and not two or three of them.",
            "Write IMAGE+IMAGE2 (and +IMAGE3) for co-registered volumes of one patient.",
        )
    return tuple(map(placed, pieces))  # Their own reader says which is not there.


def _is_there(path: Path) -> bool:
    folder, _, _series = str(path).rpartition("#")
    return path.exists() or bool(folder and Path(folder).exists())
