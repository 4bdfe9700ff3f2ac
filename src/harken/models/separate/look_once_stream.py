"""Look Once to Hear on sound that is still arriving: chunks of any size in, what is settled out, within milliseconds.

The plain form of a step is :meth:`LookOnceToHear.step`; :class:`RealTimeStep` is equal to it and several times quicker
for one mixture on one core, which is what decides whether 8 ms of sound are done in 8 ms.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError
from harken.layers.inference import only_computes
from harken.models._base import Stream
from harken.models.separate.look_once import BlockState, GridBlock, LookOnceState, LookOnceToHear, TokenProjection


class LookOnceStream(Stream):
    """A stream of one or several mixtures, each with its wanted talker; made by :meth:`LookOnceToHear.stream`.

    Attributes:
        latency: samples from an input to the output that belongs to it.

    >>> from harken.models.separate.look_once import LookOnceConfig
    >>> model = LookOnceToHear(LookOnceConfig.small()).eval()
    >>> stream = model.stream(torch.randn(256))
    >>> [stream.push(torch.randn(1, 2, 128)).shape[-1] for _ in range(3)], stream.flush().shape[-1]
    ([0, 128, 128], 128)
    """

    def __init__(self, model: LookOnceToHear, embedding: Tensor, *, batch: int = 1, real_time: bool = True):
        c = model.config
        self.model, self.latency = model, model.latency
        with torch.inference_mode():
            self._scale = model.talker_scale(embedding)
            if len(self._scale) not in (1, batch):
                raise InputError(f"{batch} mixtures side by side have one embedding or {batch}, not {len(self._scale)}")
            self._scale = self._scale.expand(batch, -1, -1, -1)
            self._held = self._scale.new_zeros(batch, c.ears, 0)
            quick = real_time and batch == 1 and only_computes(model, self._held)
            self._fast = RealTimeStep(model, self._scale) if quick else None
        self._state = model.initial_state(batch)
        self._owed = 0

    @property
    def state(self) -> LookOnceState:
        """What the network carries; a copy. Samples that wait for their chunk to be complete are not part of it."""
        return self._state.clone() if self._fast is None else self._fast.state

    @state.setter
    def state(self, state: LookOnceState) -> None:
        if self._fast is None:
            self._state = state.clone()
        else:
            self._fast.state = state

    @torch.inference_mode()
    def push(self, chunk: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch ears ready"]:
        """Take the next samples, any number, and give what is settled, perhaps nothing.

        Raises:
            InputError: another number of mixtures or ears than the stream was made for.
        """
        c, held = self.model.config, self._held
        if chunk.ndim != 3 or chunk.shape[:2] != held.shape[:2]:
            raise InputError(f"expected (batch, ears, samples) = {(*held.shape[:2], 'any')}, got {tuple(chunk.shape)}")
        self._owed += chunk.shape[-1]
        seen = torch.cat((held, chunk.to(held.dtype)), -1) if held.shape[-1] else chunk.to(held.dtype)
        chunks = max(0, seen.shape[-1] - c.look_ahead) // c.hop_length
        ready = chunks * c.hop_length
        self._held = seen[..., ready:].clone()
        self._owed -= ready
        if not chunks:
            return seen[..., :0]
        if self._fast is not None:
            windows = seen[..., : ready + c.look_ahead].unfold(-1, c.window_length, c.hop_length)
            return torch.cat([self._fast(windows[:, :, i]) for i in range(chunks)], -1)
        made, self._state = self.model.step(seen[..., : ready + c.look_ahead], self._scale, self._state)
        return made

    @torch.inference_mode()
    def flush(self) -> Float[Tensor, "batch ears rest"]:
        """The rest, after the last chunk: as if silence followed. Together with what was pushed, all there was."""
        owed, c = self._owed, self.model.config
        if not owed:
            return self._held[..., :0]
        silence = self._held.new_zeros(*self._held.shape[:2], c.hop_length + c.look_ahead)
        made = self.push(silence)[..., :owed]
        self._owed, self._held = 0, self._held[..., :0]
        return made


class RealTimeStep:
    """One chunk of one mixture at a time through a :class:`LookOnceToHear`, equal to its ``step``, for a CPU.

    What makes it quick: every weight laid out as the product wants it, once; both directions of the LSTM along
    frequency by oneDNN on weights packed beforehand (packing costs as much as the layer itself); the LSTM along time
    as one product and its gates; queries, keys and values of a block as one product; keys and values in rings of twice
    their length, so that the last ``memory`` frames are always one slice and nothing is moved.

    Not for training, and not to be shared: it keeps its state in place. :attr:`state` gets and sets a copy.
    """

    def __init__(self, model: LookOnceToHear, scale: Tensor):
        c = self.config = model.config
        bank = model.filterbank
        self.analysis = bank.analysis.t().contiguous()  # (samples, rows)
        hop = c.hop_length
        # what a frame adds to its own chunk, and to the one after
        self.now, self.later = bank.synthesis[:, :hop].contiguous(), bank.synthesis[:, hop:].contiguous()
        self.scale = scale[0].permute(1, 2, 0)[0].contiguous()  # (places, channels)
        self.lift_weight = model.lift.weight.contiguous()
        self.lift_bias, self.stride = model.lift.bias, c.stride
        self.lower = model.lower
        self.blocks = [FastBlock(block, c) for block in model.blocks]  # type: ignore[arg-type]
        self.model = model
        self.state = model.initial_state(1)

    @property
    def state(self) -> LookOnceState:
        """A copy, as :meth:`LookOnceToHear.step` takes it."""
        frames = torch.tensor([self.frames])
        blocks = tuple(block.state for block in self.blocks)
        return LookOnceState(
            self.features[:, :, :2].clone(), self.latent[:, :, :2].clone(), self.before[None].clone(), frames, blocks
        )

    @state.setter
    @torch.inference_mode()
    def state(self, state: LookOnceState) -> None:
        self.features = F.pad(state.features, (0, 0, 0, 1))  # a place for the frame that comes
        self.latent = F.pad(state.latent, (0, 0, 0, 1))
        self.before = state.spectrum[0].clone()
        self.frames = int(state.frames[0])
        for block, carried in zip(self.blocks, state.blocks, strict=True):
            block.state = carried

    def __call__(self, window: Float[Tensor, "1 ears seen"]) -> Float[Tensor, "1 ears chunk"]:
        """One chunk."""
        c = self.config
        rows = window[0] @ self.analysis  # (ears, rows)
        bins = rows.unflatten(-1, (2, c.frequencies))
        new = bins.transpose(0, 1).reshape(2 * c.ears, c.frequencies)
        self.features[0, :, 2] = new
        x = F.conv2d(self.features, self.lift_weight, self.lift_bias, stride=(1, self.stride), padding=(0, 1))
        x = x[0, :, 0].t().contiguous()  # (places, channels)
        self.features[:, :, :2] = self.features[:, :, 1:].clone()
        seen = min(c.memory, self.frames + 1) if c.masked_start else c.memory
        for i, block in enumerate(self.blocks):
            if i == 1:
                x.mul_(self.scale)
            block(x, seen)
        self.latent[0, :, 2] = x.t()
        lower = self.lower
        made = F.conv_transpose2d(self.latent, lower.weight, lower.bias, stride=(1, self.stride), padding=(2, 1))
        made = made[0, :, 0].unflatten(0, (c.ears, 2))
        self.latent[:, :, :2] = self.latent[:, :, 1:].clone()
        if c.output == "mask":
            real, imaginary = bins.unbind(1)
            a, b = made.unbind(1)
            made = torch.stack((a * real - b * imaginary, a * imaginary + b * real), 1)
        spectra = made.flatten(1)  # (ears, rows)
        out = spectra @ self.now
        if c.look_ahead:
            out[:, : c.look_ahead] += self.before @ self.later
        self.before = spectra
        self.frames += 1
        return out[None]


class FastBlock:
    """A :class:`GridBlock` on one frame of one mixture, ``(places, channels)``, which it changes in place."""

    def __init__(self, block: GridBlock, c: Any):
        self.block, self.memory = block, c.memory
        self.along = PackedBiLSTM(block.frequency_lstm, c.places)
        self.ahead_out, self.behind_out = (part.contiguous() for part in block.frequency_out.weight.t().chunk(2))
        of_input, of_state, input_bias, state_bias = (block.time_lstm.get_parameter(f"{n}_l0") for n in _PARAMETERS)
        self.of_input, self.of_state = of_input.t().contiguous(), of_state.t().contiguous()
        self.time_bias = input_bias + state_bias
        self.time_out = block.time_out.weight.t().contiguous()
        self.channels, self.hidden_size = c.channels, c.hidden
        attention = block.attention
        self.heads, rate = attention.heads, 1 / math.sqrt(c.places * c.query_size)
        # head by head, so that a product comes out as tokens; the rate of the logits goes into the norm of the queries
        query, key, value = (_ByHead(part) for part in (attention.query, attention.key, attention.value))
        self.asked = _ByHead.joined(query, rate, key)
        self.value = value
        self.out, self.out_weight = attention.out, attention.out.linear.weight.t().contiguous()

    @property
    def state(self) -> BlockState:
        """A copy."""
        past = slice(self.at, self.at + self.memory - 1)
        kept = [ring[None, :, past].clone() for ring in (self.keys, self.values)]
        return BlockState(self.hidden[None].clone(), self.cell[None].clone(), kept[0], kept[1])

    @state.setter
    def state(self, state: BlockState) -> None:
        self.hidden, self.cell = state.hidden[0].clone(), state.cell[0].clone()
        # twice the memory: a frame is written once here and once further on, or the slice would have to wrap around
        self.keys, self.values = (
            F.pad(past[0], (0, 0, 0, self.memory + 1)).contiguous() for past in (state.keys, state.values)
        )
        self.at = 0  # where the past begins

    def __call__(self, x: Float[Tensor, "places channels"], seen: int) -> None:
        """One frame, of which attention sees the last ``seen``."""
        block, channels, hidden = self.block, self.channels, self.hidden_size
        norm = block.frequency_norm
        ahead, behind = self.along(F.layer_norm(x, (channels,), norm.weight, norm.bias, norm.eps))
        x.add_(block.frequency_out.bias).addmm_(ahead, self.ahead_out).addmm_(behind, self.behind_out)
        norm = block.time_norm
        normed = F.layer_norm(x, (channels,), norm.weight, norm.bias, norm.eps)
        gates = torch.addmm(self.time_bias, normed, self.of_input).addmm_(self.hidden, self.of_state)
        new = gates[:, 2 * hidden : 3 * hidden].tanh()
        gates.sigmoid_()
        self.cell.mul_(gates[:, hidden : 2 * hidden]).addcmul_(gates[:, :hidden], new)
        self.hidden = torch.tanh(self.cell).mul_(gates[:, 3 * hidden :])
        x.add_(block.time_out.bias).addmm_(self.hidden, self.time_out)
        x.add_(self._attend(x, seen))

    def _attend(self, x: Float[Tensor, "places channels"], seen: int) -> Float[Tensor, "places channels"]:
        heads, memory = self.heads, self.memory
        query, key = self.asked(x).split(heads)
        end = self.at + memory - 1  # where this frame goes
        self.keys[:, end] = key
        self.values[:, end] = self.value(x)
        window = slice(end + 1 - seen, end + 1)
        logits = torch.bmm(query[:, None], self.keys[:, window].mT)
        read = torch.bmm(logits.softmax(-1), self.values[:, window])  # (heads, 1, places * size)
        self.at += 1
        if self.at + memory > self.keys.shape[1]:  # at the end of the ring: its second half becomes the first
            self.keys[:, : memory - 1] = self.keys[:, self.at : self.at + memory - 1].clone()
            self.values[:, : memory - 1] = self.values[:, self.at : self.at + memory - 1].clone()
            self.at = 0
        merged = read.view(heads, len(x), -1).transpose(0, 1).reshape(len(x), -1)
        out = self.out
        made = F.prelu(torch.addmm(out.linear.bias, merged, self.out_weight), out.activation.weight)
        return F.layer_norm(made.view(-1), (made.numel(),), out.norm.weight, out.norm.bias, out.norm.eps).view_as(x)


class _ByHead:
    """A :class:`TokenProjection` on one frame whose product comes out head by head: ``(heads, places * size)``."""

    def __init__(self, projection: TokenProjection):
        heads, linear, norm = projection.heads, projection.linear, projection.norm
        self.weight = linear.weight.detach().view(heads, -1, linear.in_features).mT.contiguous()
        self.bias = linear.bias.detach().view(heads, 1, -1)
        self.slope = projection.activation.weight.detach().expand(heads).contiguous()
        self.scale, self.shift = (part.detach().expand(heads, -1) for part in (norm.weight, norm.bias))
        self.eps = norm.eps

    @classmethod
    def joined(cls, one: _ByHead, rate: float, other: _ByHead) -> _ByHead:
        """Both in one product; ``rate`` multiplies what the first makes."""
        made = copy.copy(one)
        for name in ("weight", "bias", "slope"):
            setattr(made, name, torch.cat((getattr(one, name), getattr(other, name))))
        made.scale = torch.cat((one.scale * rate, other.scale))
        made.shift = torch.cat((one.shift * rate, other.shift))
        return made

    def __call__(self, x: Float[Tensor, "places channels"]) -> Float[Tensor, "heads token"]:
        """Tokens."""
        made = torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight).flatten(1)
        made = F.prelu(made[None], self.slope)[0]
        return torch.addcmul(self.shift, F.layer_norm(made, made.shape[1:], eps=self.eps), self.scale)


class PackedBiLSTM:
    """A bidirectional LSTM over one sequence, ``(length, inputs)`` to ``(length, hidden)`` ahead and behind.

    On a CPU with oneDNN, whose weights are then packed once instead of at every call; else as PyTorch does it.
    """

    def __init__(self, lstm: nn.LSTM, length: int):
        self.lstm, self.hidden = lstm, lstm.hidden_size
        self.start = lstm.get_parameter("weight_ih_l0").new_zeros(1, 1, self.hidden)
        self.packed = _pack(lstm, length)

    def __call__(self, x: Float[Tensor, "length inputs"]) -> tuple[Tensor, Tensor]:
        """Both directions."""
        if self.packed is None:
            ahead, behind = self.lstm(x[None])[0][0].chunk(2, -1)
            return ahead, behind
        rows = x[:, None]
        ahead, behind = (_layer(rows, side, self.start, self.hidden, bool(i)) for i, side in enumerate(self.packed))
        return ahead[:, 0], behind[:, 0]


def _pack(lstm: nn.LSTM, length: int) -> list[list[Tensor]] | None:
    """The weights of both directions as oneDNN keeps them; None where PyTorch has no such thing, or it errs."""
    sides = [[lstm.get_parameter(f"{name}_l0{end}") for name in _PARAMETERS] for end in ("", "_reverse")]
    hidden = lstm.hidden_size
    try:
        packed = [
            [
                *torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
                    side[0].detach(), side[1].detach(), hidden, bool(reverse), True, False, [length, 1, lstm.input_size]
                ),
                *side[2:],
            ]
            for reverse, side in enumerate(sides)
        ]
        probe = torch.linspace(-1, 1, length * lstm.input_size).view(length, 1, -1)
        start = probe.new_zeros(1, 1, hidden)
        wanted = lstm(probe[:, 0][None])[0][0].chunk(2, -1)
        found = [_layer(probe, side, start, hidden, bool(reverse))[:, 0] for reverse, side in enumerate(packed)]
        # the operators are PyTorch's own, and not promised: what they say is compared before it is trusted
        good = all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(found, wanted, strict=True))
        return packed if good else None
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None


_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _layer(x: Tensor, weights: list[Tensor], start: Tensor, hidden: int, reverse: bool) -> Tensor:
    lstm_mode = 2
    found = torch.ops.aten.mkldnn_rnn_layer(
        x, *weights, start, start, reverse, [], lstm_mode, hidden, 1, True, False, False, False
    )
    made: Tensor = found[0]
    return made
