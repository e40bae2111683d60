"""What a caller changed of a method's options, and what follows for learning and segmenting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.methods.base import Method
from OFLSAM2Core.methods.options import Options


class ChangedOptions:
    """A preset and single values that a caller gave; nothing else counts as changed.

    Raises InputError for a preset, a name or a value that there is not.
    """

    def __init__(self, method: Method, preset: str | None, values: Mapping[str, Any]) -> None:
        self.method = method
        if preset is not None and preset not in method.presets:
            raise InputError(
                f"The method '{method.name}' has no preset '{preset}'.",
                f"Use one of: {', '.join(method.presets)}."
                if method.presets
                else "Leave the preset out.",
            )
        self._of_preset = dict(method.presets[preset]) if preset else {}
        self.values = {**self._of_preset, **self._checked(values)}

    def for_learning(self) -> tuple[Options, Options]:
        """Options to learn with, and those of segmenting that the task is to keep."""
        learn, segment = self.method.LearnOptions, self.method.SegmentOptions
        return self._only(learn, self.values), self._only(segment, self.values)

    def for_segmenting(self, of_task: Mapping[str, Any], values: Mapping[str, Any]) -> Options:
        """The task's values, but for what the caller changed by name.

        values: changed for one volume. Raises InputError for an option that is settled in learning,
        where it is given in `values`; TaskError where the task's own values cannot be.
        """
        segment = self.method.SegmentOptions
        settled = set(values) & set(self.method.LearnOptions.names()) - set(segment.names())
        if settled:
            raise InputError(
                f"{', '.join(sorted(settled))}: the learned task has settled that already.",
                "Leave it out, or learn the task again with it.",
            )
        changed = {**self.values, **self._checked(values)}
        self._of_task(segment, of_task)
        return self._only(segment, {**of_task, **changed})

    @property
    def preset_matters_in_segmenting(self) -> bool:
        """Whether a preset was given that changes more than how the method learns."""
        return bool(set(self._of_preset) & set(self.method.SegmentOptions.names()))

    def learned_with(self, of_task: Mapping[str, Any]) -> Options:
        """The options of learning that a task was learned with. Raises TaskError where its values
        cannot be."""
        return self._of_task(self.method.LearnOptions, of_task)

    def _checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        learn, segment = self.method.LearnOptions, self.method.SegmentOptions
        known = (*learn.names(), *(n for n in segment.names() if n not in learn.names()))
        for name in values:
            if name not in known:
                raise InputError(
                    f"The method '{self.method.name}' has no option '{name}'.",
                    f"Known options: {', '.join(known)}.",
                )
        self._only(learn, values)
        self._only(segment, values)
        return dict(values)

    def _of_task(self, options: type[Options], of_task: Mapping[str, Any]) -> Options:
        try:
            return self._only(options, of_task)
        except InputError as error:
            raise TaskError(
                f"The learned task holds an option that cannot be: {error.message}",
                "Learn it again from the support cases.",
            ) from error

    @staticmethod
    def _only(options: type[Options], values: Mapping[str, Any]) -> Options:
        names = options.names()
        return options.from_values({name: values[name] for name in values if name in names})
