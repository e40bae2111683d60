"""OFL-SAM2 as published (arXiv 2512.24861), nothing added.

    support_encoding.py   the support cases through the frozen encoder
    memory_bank.py        retrieval, recent slices, quality gate
    mapping_network.py    T_tau and its steepest descent
    adaptive_fusion.py    G_theta
    training.py           offline training
    propagation.py        a new volume, online
    state.py              to and from a learned task

What the paper leaves open, and what was chosen: docs/decisions/0004-what-the-paper-leaves-open.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.ofl_sam2 import options as own

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.ofl_sam2.propagation import OflSam2Run


class OflSam2:
    """Few-shot segmentation over a frozen SAM2: memory bank, mapping network, adaptive fusion."""

    name = "ofl-sam2"
    description = "OFL-SAM2 as published: memory, mapping network, fusion, frozen decoder"
    needs_backbone = True
    sequences = True
    further_volumes = True
    corrections = False
    LearnOptions = own.LearnOptions
    SegmentOptions = own.SegmentOptions
    presets = own.PRESETS

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: own.LearnOptions
    ) -> MethodState:
        """Encode the support, fit the mapping network, train fusion, fill the memory bank."""
        from OFLSAM2Core.methods.common.sliced_volume import SlicePreparation
        from OFLSAM2Core.methods.ofl_sam2.mapping_network import MappingNetwork
        from OFLSAM2Core.methods.ofl_sam2.state import OflSam2State, support_memory
        from OFLSAM2Core.methods.ofl_sam2.support_encoding import encode_support
        from OFLSAM2Core.methods.ofl_sam2.training import (
            Training,
            mean_of,
            support_equations,
        )

        prepared, cases = SlicePreparation.learn(
            support, ctx.needed_backbone.image_size, options.slicing_axis, options.intensity_window
        )
        structures = support[0].structures
        slices = encode_support(
            ctx, cases, structures, options.support_slices, options.augmentation_factor
        )
        equations = support_equations(ctx, slices, options.kernel)
        with ctx.seeded():
            trained = Training(ctx, slices, equations, options).run()
        mapping = MappingNetwork.fit(
            mean_of(list(equations.values())),
            options.kernel,
            options.iterations_learning,
            options.closed_form,
        )
        memory = support_memory(ctx.needed_backbone, slices, trained.attention)
        return OflSam2State(prepared, trained, mapping, memory).encode()

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: own.SegmentOptions
    ) -> OflSam2Run:
        """A run over one volume or sequence. Raises TaskError or InputError."""
        from OFLSAM2Core.methods.ofl_sam2.propagation import OflSam2Run
        from OFLSAM2Core.methods.ofl_sam2.state import OflSam2State

        state = OflSam2State.decode(task.state, ctx.needed_backbone)
        return OflSam2Run(ctx, volume, task.structures, state, options)
