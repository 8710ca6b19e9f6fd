"""Malformed payloads: a good frame, damaged. The project's own decoder decides about them."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.attacks.actor import Malformed, View
from benchmarks.learning.messages import Message
from benchmarks.learning.space import Space
from localnet.adversaries.damaging import lengthen_frame
from template.protocol.payload import PayloadFormat, PayloadHeader, decode_payload, encode_payload

PUBLIC_KEY = bytes(32)


class Damaged(Malformed):
    """The last payload of a rival as a frame, before the damage."""

    def send(self, honest: Message, view: View) -> Message | None:
        others = [m for uid, m in sorted(view.last.items()) if uid != view.uid]
        return others[0] if others else view.encoded(torch.full_like(view.params_N, 1e-4))


class NanScale(Damaged):
    """The code has no NaN: a tensor's exponent as far beyond its range as a byte goes. Where
    scales are floats, and unchecked, the same would be NaN.
    """

    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        return _with_byte(frame, _body_start(frame, form) + form.plan.runs[0].start, 255)

    def unchecked(self, message: Message) -> Tensor | None:
        return torch.where(message.dense != 0, torch.nan, message.dense)


class DuplicateIndex(Damaged):
    """All indices of every chunk are its first one."""

    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        data, start = bytearray(frame), _body_start(frame, form)
        for run in form.plan.runs:
            places, chunks = run.places, run.group.num_chunks
            lows, uppers = start + places.lows, start + places.uppers
            data[lows : lows + chunks * places.low_bytes] = bytes(chunks * places.low_bytes)
            ones = ((1 << places.k) - 1) << (8 * places.upper_bytes - places.k)
            upper = ones.to_bytes(places.upper_bytes, "big")
            data[uppers : uppers + chunks * places.upper_bytes] = upper * chunks
        return bytes(data)

    def unchecked(self, message: Message) -> Tensor | None:
        """Every tensor's values added up at its first place, with one sign."""
        space = Space(shapes={name: tensor.shape for name, tensor in message.tensors.items()})
        piled_N = torch.zeros_like(message.dense)
        for name, view in space.views(piled_N).items():
            view.view(-1)[0] = message.tensors[name].values.abs().sum()
        return piled_N


class WrongShape(Damaged):
    """A good frame of a model whose tensors have one more row."""

    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        shapes = {name: (shape[0] + 1, *shape[1:]) for name, shape in form.shapes.items()}
        tensors = {name: torch.full(shape, 1e-4) for name, shape in shapes.items()}
        return encode_payload(_header(frame, form), tensors, replace(form, shapes=shapes))[0]


class Truncated(Damaged):
    """Its last bytes are missing."""

    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        return frame[:-7]


class Oversized(Damaged):
    """A hundred times as long as it should be."""

    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        return lengthen_frame(frame, 100)


def frame_of(message: Message, window: int, space: Space, form: PayloadFormat) -> bytes:
    """The whole frame of a message, as its author would upload it."""
    header = PayloadHeader(
        window=window, base_window=window, pages_consumed=1, public_key=PUBLIC_KEY
    )
    return encode_payload(header, space.views(message.dense), form)[0]


def _header(frame: bytes, form: PayloadFormat) -> PayloadHeader:
    return decode_payload(frame, form).header


def _body_start(frame: bytes, form: PayloadFormat) -> int:
    return len(frame) - form.plan.num_bytes


def _with_byte(frame: bytes, place: int, value: int) -> bytes:
    return frame[:place] + bytes([value]) + frame[place + 1 :]
