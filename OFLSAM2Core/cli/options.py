"""Options that several commands share, and the session they stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.cli.interrupt import call_in_background
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.methods.ofl_sam2_atlas.options import PRESETS, MethodOptions

if TYPE_CHECKING:
    from OFLSAM2Core.session import FewShotSession

DEFAULT_BACKBONE = "litemedsam"
DEFAULT_METHOD = "ofl-sam2"

# Command-line option to the MethodOptions field it sets.
_SHORTCUTS = {
    "axis": "slicing_axis",
    "gamma": "gamma",
    "memories": "memories",
    "epochs": "epochs",
}


def add_session_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", help=f"default: {DEFAULT_BACKBONE}; see oflsam2 backbones")
    group.add_argument("--weights", type=Path, metavar="FILE", help="the backbone's weights file")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument("--method", help=f"default: {DEFAULT_METHOD}; see oflsam2 methods")
    group.add_argument("--seed", type=int, default=0, help="of all that is random; default: 0")
    group = parser.add_argument_group("method")
    group.add_argument("--preset", choices=list(PRESETS), help="default: balanced")
    group.add_argument("--axis", help="slicing axis: auto, sagittal, coronal or axial")
    group.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intensities shown as black and as white; default: learned from the support",
    )
    group.add_argument("--gamma", type=float, help="S_cf above which a slice is remembered")
    group.add_argument("--memories", type=int, metavar="K", help="support slices retrieved")
    group.add_argument("--epochs", type=int, help="passes over the support when learning")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="set any option of the method; may be repeated",
    )


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", "--force", action="store_true", help="replace output files that exist"
    )


def options_from(
    args: argparse.Namespace, base: MethodOptions | None = None, preset: str = "balanced"
) -> MethodOptions:
    """The method's options: the preset's (or those of `base`) with what was set by hand.

    preset: the one to use where the user names none.

    Raises InputError for an option or value that there is not.
    """
    changes: dict[str, Any] = {
        field: getattr(args, name)
        for name, field in _SHORTCUTS.items()
        if getattr(args, name) is not None
    }
    if args.window is not None:
        changes["intensity_window"] = "{},{}".format(*args.window)
    for setting in args.settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting} has no value.", "Write --set NAME=VALUE.")
        changes[name.strip()] = value.strip()
    if base is not None and args.preset is None:
        return MethodOptions.from_json({**base.to_json(), **changes})
    return MethodOptions.from_preset(args.preset or preset, **changes)


def make_session(
    args: argparse.Namespace,
    options: MethodOptions,
    bars: ProgressBars,
    *,
    backbone: str | None = None,
    method: str | None = None,
) -> FewShotSession:
    """The session the options ask for, its weights fetched first where they are not here yet.

    backbone, method: what a learned task needs, where the user named none.
    """
    name = args.backbone or backbone or DEFAULT_BACKBONE
    ready_weights(name, args.weights, bars)

    def make(_: object) -> FewShotSession:
        # Here: PyTorch takes two seconds to import, in which Ctrl-C is to be answered.
        from OFLSAM2Core.session import FewShotSession

        return FewShotSession(
            name,
            args.device,
            method=args.method or method or DEFAULT_METHOD,
            weights=args.weights,
            options=options,
            seed=args.seed,
        )

    return call_in_background(make, bars)


def ready_weights(name: str, given: Path | None, bars: ProgressBars) -> None:
    """Fetch a backbone's weights unless they are here; say what comes, how big, on what terms.

    Raises WeightsError, InputError or ResourceError.
    """
    from OFLSAM2Core.backbones import weights

    if given is not None:
        return
    info = weights.backbone_info(name)
    if weights.status(name).state != "ready":
        bars.say(
            f"Fetching the weights of backbone '{name}': {info.download_bytes / 1e6:.0f} MB, "
            f"licence {info.license} ({info.license_url})."
        )
        if info.terms:
            bars.say(info.terms)
        bars.say(f"They are kept in {weights.cache_folder()} (oflsam2 backbones remove {name}).")
    call_in_background(lambda report: weights.fetch(name, report), bars)
    bars.close()
