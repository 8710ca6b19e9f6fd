"""A run: its specs in the order of succession, and what follows from them for each window.

A pure value apart from `Run.extend`, which appends a spec long before the spec's first window. What
a window's rules are never changes once a node has taken part in the window.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

from template.errors import ConfigError
from template.protocol.schedule import Schedule
from template.protocol.spec import ModelSpec, RunSpec
from template.protocol.succession import check_successor

LAG_WINDOWS = 2
"""From a window to the theta that its payloads lead to."""
MAX_SPECS = 4096
"""Specs of a run at most, far beyond every run: each has windows of its own."""


class Run:
    """The specs of a run, first to newest. Any thread may read while another extends.

    A window's payloads are judged and applied by the spec of that window; the page list of a base
    window follows from the spec of the base window; the phases of payloads of window w, which lie
    in window w+1, have the lengths of the spec of window w+1.
    """

    def __init__(self, *specs: RunSpec) -> None:
        """ConfigError unless each spec may follow the one before."""
        first, *later = specs
        if first.continues is not None:
            raise ConfigError(
                f"run spec {first.spec_id.hex()}: continues spec {first.continues.spec}, which is "
                "missing: name the run's first spec; nodes find those after it by themselves"
            )
        self._specs: tuple[RunSpec, ...] = (first,)
        self._schedule = first.schedule.schedule()
        for spec in later:
            self.extend(spec)

    def extend(self, spec: RunSpec) -> None:
        """Append a succession. ConfigError if it may not follow the newest spec."""
        check_successor(self.newest, spec)
        if len(self._specs) >= MAX_SPECS:
            raise ConfigError(f"run spec {spec.spec_id.hex()}: a run has {MAX_SPECS} specs at most")
        lengths = spec.schedule
        schedule = self._schedule.with_era(
            spec.first_window,
            blocks_per_window=lengths.blocks_per_window,
            upload_blocks=lengths.upload_blocks,
            vote_margin_blocks=lengths.vote_margin_blocks,
        )
        # The schedule first: a reader between the two sees lengths of windows that are far off.
        self._schedule, self._specs = schedule, (*self._specs, spec)

    def __iter__(self) -> Iterator[RunSpec]:
        return iter(self._specs)

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        """All specs, oldest first."""
        return self._specs

    @property
    def first(self) -> RunSpec:
        return self._specs[0]

    @property
    def newest(self) -> RunSpec:
        return self._specs[-1]

    @property
    def run_id(self) -> bytes:
        """Id of the first spec, 16 bytes."""
        return self.first.spec_id

    @property
    def model(self) -> ModelSpec:
        """The architecture, the same under every spec."""
        return self.first.model

    @property
    def is_local(self) -> bool:
        """Whether chain and buckets are on one machine."""
        return self.first.schedule.is_local

    @property
    def num_windows(self) -> int:
        """Windows of the run, as far as it is decided."""
        return self.newest.schedule.num_windows

    @property
    def bounds(self) -> RunSpec:
        """The newest spec with the run's largest history of norms: for limits on checkpoints alone.

        What a checkpoint carries was accepted under earlier specs too.
        """
        outer, schedule = self.newest.outer, self.newest.schedule
        clip_windows = max(spec.outer.clip_windows for spec in self._specs)
        peers_per_step = max(spec.outer.peers_per_step for spec in self._specs)
        return replace(
            self.newest,
            outer=replace(outer, clip_windows=clip_windows, peers_per_step=peers_per_step),
            schedule=replace(schedule, num_windows=max(s.schedule.num_windows for s in self)),
        )

    @property
    def schedule(self) -> Schedule:
        """Blocks and deadlines over all specs."""
        return self._schedule

    def at(self, window: int) -> RunSpec:
        """The spec of a window; of windows before the run the first."""
        specs = self._specs
        return specs[max(0, bisect_right(specs, window, key=lambda spec: spec.first_window) - 1)]

    def successor(self, window: int) -> RunSpec | None:
        """The spec whose first window is `window`, if a succession begins there."""
        spec = self.at(window)
        return spec if spec.continues is not None and spec.first_window == window else None

    def is_checkpoint(self, window: int) -> bool:
        """Whether theta_window is a checkpoint, from which newcomers start.

        By the spec of the payloads that lead to theta_window: those of two windows before.
        """
        return window > 0 and window % self.maker(window).checkpoint.every_windows == 0

    def checkpoint_before(self, window: int) -> int:
        """The newest checkpoint's window at or before `window`, or 0: theta_0."""
        while window > 0:
            spec = self.maker(window)
            found = window // spec.checkpoint.every_windows * spec.checkpoint.every_windows
            oldest = spec.first_window + LAG_WINDOWS if spec.first_window else 1
            if found >= oldest:
                return found
            window = oldest - 1
        return 0

    def maker(self, window: int) -> RunSpec:
        """The spec of the payloads that lead to theta_window: that of two windows before."""
        return self.at(window - LAG_WINDOWS)
