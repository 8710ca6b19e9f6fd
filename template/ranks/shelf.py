"""What one rank holds: its bands of theta, of pseudo-gradients and of error feedback, by number.

Every method named in `orders` is one rank's part of an order; `given` is rank 0's alone.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from compression import HeldUpdates, Plan, make_plan, round_to_short
from compression.bands import band_cuts, band_plan, band_shape, chunk_bytes, chunk_slices, cut
from compression.norms import sum_squares
from template.errors import ConfigError, StateError, disk_trouble, unreadable
from template.protocol.payload import PayloadFormat
from template.protocol.root import read_pieces, sample_pieces
from template.protocol.tree import hash_leaves
from template.ranks.group import Group
from template.ranks.loop import Order
from template.training.finite import are_finite
from template.training.memory import KEPT
from template.training.row_files import RowFiles, Rows, write_rows
from template.training.tensor_files import sync_folder

Bands = dict[str, Tensor]
Values = Mapping[str, Any]


class Shelf:
    """Bands by number, on `device`: the host's memory or the rank's own device.

    `by_torch`: payloads are made and added where the bands lie, by operations of PyTorch, and not
    on the host by compiled loops; the bytes are the same.
    """

    def __init__(
        self,
        group: Group,
        form: PayloadFormat,
        device: torch.device,
        by_torch: bool = False,
    ) -> None:
        self.group, self.form, self.device = group, form, device
        self.by_torch = by_torch
        self.rank, self.size = group.rank, group.size
        self.bands: dict[int, Bands] = {}
        self.updates: dict[int, HeldUpdates] = {}
        self.moments: dict[int, Mapping[str, Rows]] = {}
        self._dropped_once: set[int] = set()
        self._lock = Lock()
        self.whole_plan = cache(self._whole_plan)
        """k -> the plan of whole bodies: a succession may change k, with payloads under way."""
        self.plan_of = cache(self._plan_of)
        """Rank, and k where it is not the spec's -> the plan of the rank's chunks."""

    def beside(self) -> "Shelf":
        """The same bands for the second stream of orders, in another thread of this rank."""
        other = Shelf(self.group.beside, self.form, self.device, self.by_torch)
        other.bands, other.updates, other.moments = self.bands, self.updates, self.moments
        other._dropped_once, other._lock = self._dropped_once, self._lock
        return other

    @property
    def plan(self) -> Plan:
        """The plan of this rank's chunks."""
        return self.plan_of(self.rank)

    def _whole_plan(self, top_k: int) -> Plan:
        return self.form.plan if top_k == self.form.top_k else make_plan(self.form.shapes, top_k)

    def _plan_of(self, rank: int, top_k: int | None = None) -> Plan:
        whole = self.whole_plan(self.form.top_k if top_k is None else top_k)
        return band_plan(whole, rank, self.size)

    def orders(self) -> dict[str, Order]:
        """Name -> this rank's part."""
        return {
            "drop": self.drop,
            "take": self.take,
            "give": self.give,
            "zeros": self.zeros,
            "hold": self.hold,
            "update": self.update,
            "finite": self.finite,
            "squares": self.squares,
            "leaves": self.leaves,
            "sample": self.sample,
            "join": self.join,
            "save": self.save,
            "read": self.read,
        }

    def drop(self, values: Values, _given: Any) -> None:
        """Forget what has a number, once neither stream of orders may still name it."""
        number = values["number"]
        with self._lock:
            if number not in self._dropped_once:
                self._dropped_once.add(number)
                return
            self._dropped_once.discard(number)
        for kept in (self.bands, self.updates, self.moments):
            kept.pop(number, None)

    def take(self, values: Values, given: Tensor | None) -> None:
        """Rank 0 is given a whole tensor; each rank keeps its band."""
        shape = tuple(values["shape"])
        whole = self.nothing(shape) if given is None else given
        band = self.group.move_rows(whole, shape, self.all_at_first(shape), self.cuts(shape))
        own = self.empty(band_shape(shape, self.rank, self.size))
        own.view(-1).copy_(band.reshape(-1))
        self.bands.setdefault(values["number"], {})[values["name"]] = own

    def give(self, values: Values, _given: Any) -> Tensor:
        """The whole tensor on rank 0; of no use elsewhere."""
        shape = tuple(values["shape"])
        band = self.bands[values["number"]][values["name"]]
        whole = self.group.move_rows(band, shape, self.cuts(shape), self.all_at_first(shape))
        if self.rank:
            return whole
        # Rank 0 may hold all rows: then nothing has moved, and the band must stay as it is.
        own = band.clone() if whole is band else whole
        return own.cpu().reshape(shape)

    def zeros(self, values: Values, _given: Any) -> None:
        """New bands of zeros, of the run's tensors."""
        self.bands[values["number"]] = {
            name: self.empty(band_shape(shape, self.rank, self.size)).zero_()
            for name, shape in self.form.shapes.items()
        }

    def hold(self, values: Values, given: Sequence[memoryview] | None) -> None:
        """Keep updates: rank 0 is given the bodies, each rank gets its chunks of each body."""
        factors, plan_of = values["factors"], partial(self.plan_of, top_k=values["top_k"])
        own = plan_of(self.rank)
        if given is None:
            bodies = [self.receive_body(own) for _ in factors]
        else:
            bodies = [np.frombuffer(body, dtype=np.uint8) for body in given]
            for body in bodies:
                self.send_body(body, plan_of)
        held = HeldUpdates(zip([body.data for body in bodies], factors, strict=True), own)
        self.updates[values["number"]] = held

    def send_body(self, body: np.ndarray, plan_of: Callable[[int], Plan]) -> None:
        """Rank 0 hands every other rank its chunks of a body, and the shared bytes."""
        for rank in range(1, self.size):
            plan = plan_of(rank)
            part = np.concatenate([body[shared_places(plan)], cut(body, plan)])
            self.group.exchange([(rank, torch.from_numpy(part))], [])

    def receive_body(self, plan: Plan) -> np.ndarray:
        """A body with this rank's chunks: the rest is never touched, and takes no memory."""
        shared = shared_places(plan)
        room = torch.empty(len(shared) + chunk_bytes(plan), dtype=torch.uint8)
        self.group.exchange([], [(0, room)])
        received, at = room.numpy(), len(shared)
        body = np.empty(plan.num_bytes, dtype=np.uint8)
        body[shared] = received[:at]
        for place in chunk_slices(plan):
            end = at + place.stop - place.start
            body[place] = received[at:end]
            at = end
        return body

    def update(self, values: Values, _given: Any) -> None:
        """New bands: older bands and updates."""
        updates, is_short = values["updates"], values["is_short"]
        self.bands[values["number"]] = {
            name: self.moved(band, updates, name, is_short=is_short)
            for name, band in self.bands[values["source"]].items()
        }

    def moved(
        self, band: Tensor, updates: int | None, name: str, *, is_short: bool = False
    ) -> Tensor:
        """A copy of a band, with updates added, if any, and rounded to 24 bits."""
        made = self.empty(band.shape).copy_(band)
        if updates is not None and made.numel():
            self.updates[updates].add_to(made, name, by_torch=self.by_torch)
        if is_short:
            # By the host's loops: one window in many has a checkpoint.
            rounded = made.cpu()
            round_to_short(rounded)
            made.copy_(rounded)
        return made

    def finite(self, values: Values, _given: Any) -> bool:
        return are_finite(self.bands[values["number"]].values())

    def squares(self, values: Values, _given: Any) -> dict[str, Any]:
        """What the bands add to the tensors' exact norms."""
        bands = self.bands[values["number"]]
        return {name: sum_squares(band).tolist() for name, band in bands.items()}

    def leaves(self, values: Values, _given: Any) -> dict[str, str]:
        """The leaves of the digest, in hexadecimal."""
        found = hash_leaves(self.bands[values["number"]])
        return {name: digests.hex() for name, digests in found.items()}

    def sample(self, values: Values, _given: Any) -> bytes:
        """The elements of a sample that lie here."""
        bands = self.bands[values["number"]]
        shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
        pieces = sample_pieces(shapes, bytes.fromhex(values["block_hash"]), self.size)
        return read_pieces(bands, pieces, self.rank)

    def join(self, values: Values, _given: Any) -> None:
        """The bands of both numbers under one more number, without a copy."""
        one, other = (self.bands[number] for number in values["sources"])
        self.bands[values["number"]] = one | other

    def save(self, values: Values, _given: Any) -> list[Any]:
        """Write these bands; [name, length] of the file. StateError if refused."""
        rows = {}
        for name, band in self.bands[values["number"]].items():
            shape = tuple(values["shapes"][name])
            rows[name] = Rows(values=band, first=self.cuts(shape)[self.rank], shape=shape)
        return save_rows(self.group, rows, values)

    def read(self, values: Values, _given: Any) -> dict[str, Any]:
        """Bands from files of any number of ranks; the shapes.

        ConfigError if unusable, StateError if this rank cannot read.
        """
        paths = [Path(path) for path in values["paths"]]
        try:
            files = RowFiles(paths)
            bands = {}
            for name, shape in files.shapes.items():
                first, end = self.cuts(shape)[self.rank : self.rank + 2]
                band = self.empty(band_shape(shape, self.rank, self.size))
                band.view(-1).copy_(files.read(name, first, end).view(-1))
                bands[name] = band
        except FileNotFoundError as error:
            missing = next((path for path in paths if not path.exists()), paths[0])
            raise StateError(
                f"--neuron.state_dir: this rank does not see {missing}: put the state folder on "
                "storage that all ranks see, under one path",
                is_lasting=True,
            ) from error
        except OSError as error:
            raise unreadable(paths[0], error) from error
        except (SafetensorError, ValueError, KeyError) as error:
            raise ConfigError(f"cannot be read ({error})") from error
        self.bands[values["number"]] = bands
        return dict(files.shapes)

    def cuts(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The bands' limits."""
        return band_cuts(shape, self.size)

    def all_at_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The limits of a tensor that lies on rank 0 as a whole."""
        return band_cuts(shape[:1], self.size)

    def nothing(self, shape: Sequence[int]) -> Tensor:
        """The rows of a rank without a row."""
        return torch.empty((0, *shape[1:]))

    def empty(self, shape: Sequence[int]) -> Tensor:
        """Room for a band."""
        if self.device.type == "cpu":
            return KEPT.empty(shape)
        return torch.empty(tuple(shape), device=self.device)


def save_rows(group: Group, rows: Mapping[str, Rows], values: Values) -> list[Any]:
    """Write one rank's file of a group of tensors; [name, length]. StateError if refused."""
    folder = Path(values["folder"])
    path = folder / f"{values['stem']}.rank-{group.rank}-of-{group.size}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        num_bytes = write_rows(path, rows, values["metadata"])
        sync_folder(folder)
    except OSError as error:
        raise disk_trouble(path, error) from error
    return [path.name, num_bytes]


def shared_places(plan: Plan) -> np.ndarray:
    """Where every tensor's two shared bytes lie in a body."""
    starts = [start for start, end in pairwise(plan.starts) if start < end]
    places_T2 = np.array(starts, dtype=np.int64)[:, None] + np.arange(2)
    flat: np.ndarray = places_T2.reshape(-1)
    return flat
