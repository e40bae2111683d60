"""Work in a thread that the main thread can leave at any moment."""

from __future__ import annotations

import threading
import time

import pytest
from command_line import support

from OFLSAM2Core.cli.files import split_support
from OFLSAM2Core.cli.interrupt import call_in_background, in_background
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.errors import Cancelled, InputError
from OFLSAM2Core.io.image_names import split_images


def test_items_and_progress_come_in_order_in_the_calling_thread():
    seen = []

    def work(report):
        assert threading.current_thread() is not threading.main_thread()
        for number in range(5):
            report(Progress("segment", number, 5))
            yield number

    def show(progress):
        assert threading.current_thread() is threading.main_thread()
        seen.append(("progress", progress.done))

    for item in in_background(work, show):
        seen.append(("item", item))
    assert seen == [(kind, n) for n in range(5) for kind in ("progress", "item")]


def test_what_is_raised_in_the_work_is_raised_here_after_the_items_before_it():
    def work(report):
        yield 1
        raise InputError("broken", "mend it")

    stream = in_background(work, print)
    assert next(stream) == 1
    with pytest.raises(InputError, match="broken"):
        next(stream)


def test_leaving_the_loop_stops_the_work_at_its_next_report():
    ended = threading.Event()

    def work(report):
        yield 1
        try:
            while True:  # Stands for a long stretch that yields nothing, such as learning.
                report(Progress("learn", 0, 1))
                time.sleep(0.01)
        except Cancelled:
            ended.set()
            raise

    stream = in_background(work, lambda progress: None)
    next(stream)
    stream.close()
    assert ended.wait(1)


def test_work_that_hangs_does_not_hold_up_the_one_who_leaves():
    release = threading.Event()

    def work(report):
        yield 1
        release.wait(30)  # Stands for a long call into PyTorch.

    stream = in_background(work, print)
    next(stream)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 1
    release.set()


def test_a_function_gives_its_result():
    assert call_in_background(lambda report: 6 * 7, print) == 42


def test_pairs_are_split_where_both_files_exist(tmp_path):
    tricky = tmp_path / "a=b"
    tricky.mkdir()
    for name in ("image.nii", "labels.nii"):
        (tricky / name).touch()
    image, labels = tricky / "image.nii", tricky / "labels.nii"
    found = split_support(f"{image}={labels}")
    assert (found.images, found.labels) == ((image,), labels)
    assert support(tmp_path, "001")[0] == "--support"
    for wrong in ("image.nii", "=labels.nii", "image.nii="):
        with pytest.raises(InputError, match="IMAGE=LABELS"):
            split_support(wrong)


def test_co_registered_volumes_are_split_where_the_files_exist(tmp_path):
    folder = tmp_path / "t1+t2"
    folder.mkdir()
    for name in ("a.nii", "b+c.nii", "labels.nii"):
        (folder / name).touch()
    images = (folder / "a.nii", folder / "b+c.nii")
    assert split_images(f"{images[0]}+{images[1]}") == images
    assert split_images(images[1]) == images[1:]
    assert split_support(f"{images[0]}+{images[1]}={folder / 'labels.nii'}").images == images
    assert [str(path) for path in split_images("no.nii+none.nii")] == ["no.nii", "none.nii"]
    for wrong in ("a.nii+", "a+b+c+d"):
        with pytest.raises(InputError, match="co-registered"):
            split_images(wrong)
