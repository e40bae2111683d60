"""What the methods of the SAM2 family share, without PyTorch: nothing is trained, labelled support
slices are kept, and a plan says which of them prompt which slice of a volume, and in what order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.common.prompted_run import PromptedRun, Query, SupportChoice, Visit


@dataclass(frozen=True)
class RetrievedSlices(Options):
    """Options of a method that is conditioned on the support slices most similar to what it
    segments."""

    retrieved_slices: int = option(
        3,
        "K, the labelled support slices that are prompted, the most similar ones.",
        low=1,
        high=16,
    )


class PromptedMethod:
    """A method of the family; `plan` is its own."""

    name: str
    needs_backbone = True
    sequences = True
    further_volumes = True
    corrections = False
    LearnOptions: type[SlicingOptions] = SlicingOptions
    SegmentOptions: type[Options] = RetrievedSlices
    presets: dict[str, dict[str, Any]] = {"fast": {}, "balanced": {}, "accurate": {}}

    def choice(self, options: Any) -> SupportChoice:
        """Which support slices are kept: all that are labelled, of very many an even part."""
        from OFLSAM2Core.methods.common.prompted_run import SupportChoice

        return SupportChoice(lambda labelled: None)

    def plan(self, query: Query, options: Any) -> Iterable[Visit]:
        """Every slice of a volume once, with its prompts."""
        raise NotImplementedError

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: SlicingOptions
    ) -> MethodState:
        """Encode labelled support slices."""
        from OFLSAM2Core.methods.common.prompted_run import PromptState

        state = PromptState.learn(
            ctx,
            support,
            options.slicing_axis,
            options.intensity_window,
            self.choice(options),
        )
        return state.encode()

    def open(self, ctx: Context, volume: Volume, task: LearnedTask, options: Any) -> PromptedRun:
        """A run over one volume or sequence. Raises TaskError or InputError."""
        from OFLSAM2Core.methods.common.prompted_run import PromptedRun

        return PromptedRun(ctx, volume, task, lambda query: self.plan(query, options))
