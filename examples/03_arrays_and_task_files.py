"""Cases from arrays in memory, and a learned task as a file for another day."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from OFLSAM2Core import FewShotSession, LearnedTask, Structure, SupportCase, Volume, dice


def case_of_a_ball(number: int, radius: float) -> SupportCase:
    """A bright ball in noise: 20 axial slices of 48 x 48 voxels of 1 x 1 x 2 mm."""
    rng = np.random.default_rng(number)
    k, j, i = np.mgrid[:20, :48, :48]
    ball = (2 * (k - 10)) ** 2 + (j - 20 - number) ** 2 + (i - 26) ** 2 < radius**2
    image = rng.normal(100, 20, ball.shape) + 80 * ball
    # Arrays are (k, j, i); the affine takes (i, j, k) to millimetres, right, anterior, superior.
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    volume = Volume(image.astype(np.float32), affine, name=f"ball {number}")
    return SupportCase(volume, ball.astype(np.uint8), (Structure("ball", 1),))


def main(folder: Path, session: FewShotSession | None = None) -> None:
    session = session or FewShotSession(preset="fast")
    path = session.learn([case_of_a_ball(1, 10), case_of_a_ball(2, 13)]).save(
        folder / "ball.oflsam2"
    )

    # Another day, another computer: no support cases are needed any more.
    task = LearnedTask.load(path)
    new = case_of_a_ball(3, 12)
    labels = np.zeros(new.volume.grid_shape, np.uint8)
    for result in session.segment(new.volume, task):
        labels[result.index_expression] = result.labels
    print(f"Dice {dice(new.labels == 1, labels == 1):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
