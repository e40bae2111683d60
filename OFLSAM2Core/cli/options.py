"""Options that several commands share, and the session they stand for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from OFLSAM2Core import methods
from OFLSAM2Core.backbones import DEFAULT_BACKBONE, PRECISIONS
from OFLSAM2Core.cli.interrupt import call_in_background
from OFLSAM2Core.cli.method_help import default_as_text
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.methods.base import describe
from OFLSAM2Core.methods.changed_options import ChangedOptions

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.session import FewShotSession

PRESETS = ("fast", "balanced", "accurate")

DEFAULTS = f"{methods.DEFAULT}, or {methods.OF_SEQUENCES} for sequences of frames"


def add_session_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", help=f"default: {DEFAULT_BACKBONE}; see oflsam2 backbones")
    group.add_argument("--weights", type=Path, metavar="FILE", help="the backbone's weights file")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    group.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="what the encoder calculates in; default: auto, the quickest that the processor has",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of all that is random; default: 0")
    group = parser.add_argument_group("method")
    group.add_argument("--method", help=f"default: {DEFAULTS}; see oflsam2 methods")
    group.add_argument("--preset", choices=PRESETS, help="trades time for accuracy")
    add_set_option(group, "set an option of the method")
    name = _named_method()
    if name in methods.names():
        _add_method_flags(parser, describe(methods.get_method(name)))


def add_set_option(group: argparse._ActionsContainer, meaning: str) -> None:
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help=f"{meaning}; may be repeated",
    )


def _named_method() -> str:
    """The method that the command line names, before it is parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default=methods.DEFAULT)
    return str(parser.parse_known_args(sys.argv[1:])[0].method)


def _add_method_flags(parser: argparse.ArgumentParser, described: Mapping[str, Any]) -> None:
    """A flag for each option of a method: `--learning-rate VALUE` is `--set learning_rate=VALUE`.

    An option that is called like a flag of the command has none; `--set` sets it all the same.
    """
    group = parser.add_argument_group(f"options of the method {described['name']}")
    for each in described["options"]:
        with suppress(argparse.ArgumentError):
            group.add_argument(
                f"--{each['name'].replace('_', '-')}",
                action=_Setting,
                dest=each["name"],
                default=argparse.SUPPRESS,
                metavar=each["type"].upper(),
                help=f"{each['help']} Default: {default_as_text(each)}".replace("%", "%%"),
            )


class _Setting(argparse.Action):
    """Notes the flag of an option as `--set` would."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        namespace.settings = [*namespace.settings, f"{self.dest}={values}"]


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", "--force", action="store_true", help="replace output files that exist"
    )


def settings_from(args: argparse.Namespace) -> dict[str, str]:
    """Values of options by name, as `--set` gives them. Raises InputError where one has none."""
    values = {}
    for setting in args.settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting} has no value.", "Write --set NAME=VALUE.")
        values[name.strip()] = value.strip()
    return values


def check_options(args: argparse.Namespace, method: str | None = None) -> ChangedOptions:
    """Options as they were given, before anything is read or loaded.

    method: of a learned task, or the default one for what is given. Raises InputError for an
    unknown method, option or value.
    """
    chosen = methods.get_method(args.method or method or methods.DEFAULT)
    return ChangedOptions(chosen, args.preset, settings_from(args))


def options_of_segmenting(args: argparse.Namespace, task: LearnedTask) -> ChangedOptions:
    """Options as they were given to segment with a learned task, before anything is loaded.

    Raises InputError for an unknown method, option or value, and for what says how to learn.
    """
    given = check_options(args, task.method)
    refuse_what_is_learned(
        args,
        {
            "--labels": getattr(args, "labels", None) is not None,
            "--allow-missing": getattr(args, "allow_missing", False),
            f"--preset {args.preset}": args.preset is not None
            and not given.preset_matters_in_segmenting,
        },
    )
    given.for_segmenting(task.options, settings_from(args))
    return given


def refuse_what_is_learned(args: argparse.Namespace, given: Mapping[str, bool]) -> None:
    """Raises InputError for options that were given though the learned task has settled them.

    given: by option, whether it was.
    """
    settled = [option for option, is_given in given.items() if is_given]
    if settled:
        raise InputError(
            f"{', '.join(settled)}: the learned task '{args.task}' has settled that already.",
            "Leave it out, or learn the task again with it (oflsam2 learn).",
        )


def make_session(
    args: argparse.Namespace,
    bars: ProgressBars,
    *,
    backbone: str | None = None,
    method: str | None = None,
    preset: str | None = None,
) -> FewShotSession:
    """The session that the options ask for, its weights fetched first where they are not here yet.

    backbone, method, preset: to use where the user named none.
    """
    name = args.backbone or backbone or DEFAULT_BACKBONE
    chosen = methods.get_method(args.method or method or methods.DEFAULT)
    if chosen.needs_backbone:
        ready_weights(name, args.weights, bars)

    def make(_: object) -> FewShotSession:
        # Here: PyTorch takes two seconds to import, in which Ctrl-C is to be answered.
        from OFLSAM2Core.session import FewShotSession

        return FewShotSession(
            name,
            args.device,
            method=chosen,
            weights=args.weights,
            precision=args.precision,
            preset=args.preset or preset,
            options=settings_from(args),
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
