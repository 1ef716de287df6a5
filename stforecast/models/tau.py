"""The Temporal Attention Unit, a network that forecasts frames from frames, and its rollout.

Tan et al., Temporal Attention Unit: Towards Efficient Spatiotemporal Predictive Learning, CVPR 2023, arXiv:2206.12126,
doi 10.1109/CVPR52729.2023.01800. The weights are called what OpenSTL's `SimVP_Model(model_type='tau')` calls them, so
that published state dicts load with `strict=True`; hence `enc`, `hid`, `dec` and the like.

Shapes: b samples, t frames (the history), c channels, y rows, x columns; d is the width of a translator's block.
"""

# ruff: noqa: D102  # what a module's forward returns is the first line of the module

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from stforecast.errors import ErrorKind, StforecastError


class TAU(nn.Module):
    """The frames that follow, in the published network as many as came in: (b, t, c, y, x) -> (b, h, o, y, x).

    encoder      (b·t, c, y, x) -> (b·t, hidden_spatial, y/s, x/s)                 each frame on its own
    translator   (b, t·hidden_spatial, y/s, x/s) -> (b, h·hidden_spatial, …)       time is folded into the channels
    decoder      (b·h, hidden_spatial, y/s, x/s) -> (b·h, o, y, x)                 each frame on its own

    where s = 2 ** (spatial_layers // 2). The decoder of frame i also sees what the encoder made of the frame i of the
    last h that came in, of the last one where that was too few. Grids that s does not divide are continued at their far
    ends by their last row and column, and the output is cut back. All other borders are zero-padded, as published,
    unless the columns go round the globe. The output is neither bounded nor a change since the last frame; for that see
    `ResidualToLastFrame` and `CorrectedFirstGuess`.

    Args:
        history: frames in.
        channels: channels of a frame.
        horizon: frames out; as many as in by default.
        output_channels: channels of a frame that comes out; as of one that goes in by default.
        circular: whether the first and the last column are neighbours; their number must be a multiple of s then.
        hidden_spatial: channels of the encoder and the decoder.
        hidden_temporal: channels of the translator, except for its first block, which has history * hidden_spatial.
        spatial_layers: layers of the encoder, and of the decoder; every second one halves, or doubles, the grid.
        temporal_layers: blocks of the translator.
        mlp_ratio: how much wider the inside of a block's MLP is than the block.
        drop: dropout inside the MLPs.
        drop_path: stochastic depth of the last block, see `drop_path_rates`; with 0.0 no block is ever dropped.
        parity: keeps the oddities of the published code: with a drop_path of 0.0 blocks are dropped all the same.

    Raises:
        StforecastError: ARGUMENT, naming a size that cannot be; from a call, SHAPE or CHANNELS, if the frames are not
            those that the network was built for.
    """

    def __init__(
        self,
        *,
        history: int,
        channels: int,
        horizon: int | None = None,
        output_channels: int | None = None,
        circular: bool = False,
        hidden_spatial: int = 32,
        hidden_temporal: int = 256,
        spatial_layers: int = 2,
        temporal_layers: int = 8,
        mlp_ratio: float = 8.0,
        drop: float = 0.0,
        drop_path: float = 0.1,
        parity: bool = False,
    ) -> None:
        super().__init__()
        horizon = history if horizon is None else horizon
        output_channels = channels if output_channels is None else output_channels
        for name, value, fits, wanted in (
            ("history", history, history >= 1, "at least 1"),
            ("channels", channels, channels >= 1, "at least 1"),
            ("horizon", horizon, horizon >= 1, "at least 1"),
            ("output_channels", output_channels, output_channels >= 1, "at least 1"),
            ("hidden_spatial", hidden_spatial, hidden_spatial >= 4 and hidden_spatial % 2 == 0, "even and at least 4"),
            ("hidden_temporal", hidden_temporal, hidden_temporal >= 4, "at least 4"),
            ("spatial_layers", spatial_layers, spatial_layers >= 2 and spatial_layers % 2 == 0, "even and at least 2"),
            ("temporal_layers", temporal_layers, temporal_layers >= 2, "at least 2"),
            ("mlp_ratio", mlp_ratio, 1 < mlp_ratio < math.inf, "above 1"),
            ("drop", drop, 0 <= drop < 1, "at least 0 and below 1"),
            ("drop_path", drop_path, 0 <= drop_path < 1, "at least 0 and below 1"),
        ):
            if not fits:
                raise StforecastError(ErrorKind.ARGUMENT, f"{name} must be {wanted}, not {value}")
        self.history = history
        self.channels = channels
        self.horizon = horizon
        self.circular = circular
        self.shrinkage = 2 ** (spatial_layers // 2)
        self.enc = Encoder(channels, hidden_spatial, spatial_layers)
        self.hid = Translator(
            history * hidden_spatial,
            hidden_temporal,
            horizon * hidden_spatial,
            mlp_ratio=mlp_ratio,
            drop=drop,
            drop_path=drop_path_rates(drop_path, temporal_layers, parity=parity),
        )
        self.dec = Decoder(output_channels, hidden_spatial, spatial_layers)
        if circular:
            for convolution in self.modules():
                if isinstance(convolution, nn.Conv2d) and convolution.kernel_size != (1, 1):
                    _make_circular(convolution)

    def forward(self, frames: Tensor) -> Tensor:
        self._check(frames)
        b, t, c, y, x = frames.shape
        images = self._continued(frames.reshape(b * t, c, y, x))
        latent, skip = self.enc(images)  # (b·t, hidden, y/s, x/s), (b·t, hidden, y, x)
        _, hidden, rows, columns = latent.shape
        # Folding time into the channels copies into the plain layout; the translator is to keep the encoder's.
        layout = torch.contiguous_format if latent.is_contiguous() else torch.channels_last
        latent = self.hid(latent.reshape(b, t * hidden, rows, columns).contiguous(memory_format=layout))
        if self.horizon != t:
            first = max(t - self.horizon, 0)
            seen = [min(first + frame, t - 1) for frame in range(self.horizon)]
            skip = skip.reshape(b, t, *skip.shape[1:])[:, seen].flatten(0, 1)
        output: Tensor = self.dec(latent.reshape(b * self.horizon, hidden, rows, columns), skip)
        return output[..., :y, :x].reshape(b, self.horizon, -1, y, x)

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != 5:
            raise StforecastError(
                ErrorKind.SHAPE,
                f"frames must be (batch, time, channel, y, x), not of shape {tuple(frames.shape)}; add a batch of one "
                "with frames[None]",
            )
        if frames.shape[1] != self.history:
            raise StforecastError(
                ErrorKind.SHAPE,
                f"the network was built for a history of {self.history} frames but {frames.shape[1]} came; pass "
                f"{self.history}, or build one with history={frames.shape[1]}",
            )
        if frames.shape[2] != self.channels:
            raise StforecastError(
                ErrorKind.CHANNELS,
                f"the network was built for {self.channels} channel(s) but {frames.shape[2]} came; pass "
                f"{self.channels}, or build one with channels={frames.shape[2]}",
            )

    def _continued(self, images: Tensor) -> Tensor:
        """Images (b·t, c, y, x) that repeat their last row and column up to a multiple of the shrinkage."""
        rows, columns = -images.shape[-2] % self.shrinkage, -images.shape[-1] % self.shrinkage
        if rows == columns == 0:
            return images
        if self.circular and columns:
            raise StforecastError(
                ErrorKind.SHAPE,
                f"a circular network that shrinks the grid {self.shrinkage} times wants a multiple of that many "
                f"columns, not {images.shape[-1]}; build it with circular=False",
            )
        return nn.functional.pad(images, (0, columns, 0, rows), mode="replicate")


class Encoder(nn.Module):
    """Each image on a smaller grid, and in full: (n, c, y, x) -> (n, hidden, y/s, x/s) and (n, hidden, y, x)."""

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.enc = nn.ModuleList(
            SpatialLayer(hidden if layer else channels, hidden, shrink=1 + layer % 2) for layer in range(layers)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self.enc
        skip = first(images)
        latent = skip
        for layer in others:
            latent = layer(latent)
        return latent, skip


class Decoder(nn.Module):
    """The way back: (n, hidden, y/s, x/s) and the encoder's (n, hidden, y, x) -> (n, c, y, x)."""

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.dec = nn.ModuleList(SpatialLayer(hidden, hidden, grow=2 - layer % 2) for layer in range(layers))
        self.readout = nn.Conv2d(hidden, channels, 1)

    def forward(self, latent: Tensor, skip: Tensor) -> Tensor:
        *others, last = self.dec
        for layer in others:
            latent = layer(latent)
        output: Tensor = self.readout(last(latent + skip))
        return output


class SpatialLayer(nn.Sequential):
    """A 3x3 convolution, group norm and SiLU: (n, inputs, y, x) -> (n, outputs, y·grow/shrink, x·grow/shrink).

    It grows by a pixel shuffle, which spreads grow² channels over each cell's place.
    """

    def __init__(self, inputs: int, outputs: int, *, shrink: int = 1, grow: int = 1) -> None:
        # The reference cuts the normal at ±2, a hundred standard deviations, which is no cut at all.
        convolution = _normal(nn.Conv2d(inputs, outputs * grow**2, 3, stride=shrink, padding=1), std=0.02)
        layer = OrderedDict[str, nn.Module](
            conv=nn.Sequential(convolution, nn.PixelShuffle(grow)) if grow > 1 else convolution,
            norm=nn.GroupNorm(2, outputs),
            activation=nn.SiLU(),
        )
        super().__init__(OrderedDict(conv=nn.Sequential(layer)))


class Translator(nn.Sequential):
    """What becomes of the frames' latent images: (b, inputs, y, x) -> (b, outputs, y, x), at width `hidden` in between.

    The first block is as wide as the inputs, the others are `hidden` wide; the first and the last reduce their output
    to the next one's width by a 1x1 convolution, which is left out where the two are equal.

    Args:
        inputs: width of the input, history * hidden_spatial.
        hidden: width of the blocks after the first.
        outputs: width of the output, horizon * hidden_spatial.
        mlp_ratio: how much wider the inside of a block's MLP is.
        drop: dropout inside the MLPs.
        drop_path: stochastic depth of each block; their number is the number of blocks.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, mlp_ratio: float, drop: float, drop_path: list[float]
    ) -> None:
        widths = [inputs] + [hidden] * (len(drop_path) - 1)
        blocks = [
            OrderedDict[str, nn.Module](
                block=TemporalBlock(width, int(mlp_ratio * width), drop=drop, drop_path=rate),
                reduction=nn.Conv2d(width, following, 1) if width != following else nn.Identity(),
            )
            for width, following, rate in zip(widths, [*widths[1:], outputs], drop_path, strict=True)
        ]
        super().__init__(OrderedDict(enc=nn.Sequential(*(nn.Sequential(block) for block in blocks))))


class TemporalBlock(nn.Module):
    """Attention and an MLP, each beside a shortcut: (b, d, y, x) -> the same.

    x = x + drop_path(layer_scale_1 · attn(norm1(x)))
    x = x + drop_path(layer_scale_2 · mlp(norm2(x)))
    """

    def __init__(self, width: int, inside: int, *, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.attn = TemporalAttention(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = MixMlp(width, inside, drop=drop)
        self.layer_scale_1 = nn.Parameter(torch.full((width,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((width,), 0.01))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        output: Tensor = attended + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(attended)))
        return output


class TemporalAttention(nn.Module):
    """proj_2(gating_unit(gelu(proj_1(z)))) + z: (b, d, y, x) -> the same.

    Its weights start as torch draws them, as in the reference, where only the MLP of a block is initialized.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(width, width, 1)
        self.spatial_gating_unit = TemporalAttentionModule(width)
        self.proj_2 = nn.Conv2d(width, width, 1)

    def forward(self, z: Tensor) -> Tensor:
        output: Tensor = self.proj_2(self.spatial_gating_unit(nn.functional.gelu(self.proj_1(z)))) + z
        return output


class TemporalAttentionModule(nn.Module):
    """The temporal attention unit itself, dynamic · static · a: (b, d, y, x) -> the same.

    static    conv1(conv_spatial(conv0(a)))                      (b, d, y, x)   within frames, 23x23 cells wide
    dynamic   sigmoid(fc(mean of a over y and x))                (b, d, 1, 1)   between frames, squeeze and excitation

    The large kernel of 21x21 is taken apart into a depthwise 5x5, a depthwise 7x7 dilated by 3, and a 1x1 convolution.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv_spatial = DilatedDepthwise(width, 7, dilation=3)
        self.conv1 = nn.Conv2d(width, width, 1)
        # The reference divides the width by its "reduction", so this is 16 for each width from 64 that 16 divides.
        squeezed = width // max(width // 16, 4)
        self.fc = nn.Sequential(
            nn.Linear(width, squeezed, bias=False), nn.ReLU(), nn.Linear(squeezed, width, bias=False), nn.Sigmoid()
        )

    def forward(self, a: Tensor) -> Tensor:
        static: Tensor = self.conv1(self.conv_spatial(self.conv0(a)))
        dynamic: Tensor = self.fc(a.mean((2, 3)))[:, :, None, None]
        return dynamic * static * a


class DilatedDepthwise(nn.Conv2d):
    """Each channel by its own dilated kernel, the grid amid zeros: (b, d, y, x) -> the same.

    Torch's own dilated depthwise convolution is 1 % of the network's arithmetic and a quarter of its time on a CPU. A
    kernel dilated by s sees only every s-th row and column, so it is an undilated one on each of s² coarser grids. That
    gives the same bits, 2 to 30 times as fast in each of 12 shapes from 2 × 16 × 17 × 30 to 32 × 256 × 16 × 16, and
    about twice as fast with its gradient. Other devices and precisions take torch's own.
    """

    def __init__(self, width: int, size: int, *, dilation: int) -> None:
        padding = dilation * (size // 2)
        super().__init__(width, width, size, padding=padding, dilation=dilation, groups=width)

    def forward(self, a: Tensor) -> Tensor:
        if a.device.type != "cpu" or a.dtype != torch.float32:
            return self._torchs(a)
        layout = torch.contiguous_format if a.is_contiguous() else torch.channels_last
        return self._by_coarser_grids(a).contiguous(memory_format=layout)

    def _torchs(self, a: Tensor) -> Tensor:
        return super().forward(a)

    def _by_coarser_grids(self, a: Tensor) -> Tensor:
        b, d, y, x = a.shape
        s = self.dilation[0]
        rows, columns = math.ceil(y / s), math.ceil(x / s)
        if (rows * s, columns * s) != (y, x):
            a = nn.functional.pad(a, (0, columns * s - x, 0, rows * s - y))
        # Channels stand last in memory: oneDNN is several times slower on small grids otherwise.
        grids = a.permute(0, 2, 3, 1).reshape(b, rows, s, columns, s, d).permute(0, 2, 4, 1, 3, 5)
        grids = grids.reshape(b * s * s, rows, columns, d).permute(0, 3, 1, 2)
        grids = nn.functional.conv2d(
            grids, self.weight, self.bias, padding=self.kernel_size[0] // 2, groups=self.groups
        )
        grids = grids.permute(0, 2, 3, 1).reshape(b, s, s, rows, columns, d).permute(0, 3, 1, 4, 2, 5)
        output = grids.reshape(b, rows * s, columns * s, d).permute(0, 3, 1, 2)[:, :, :y, :x]
        # Columns that were put around a circular grid are not asked for.
        assert isinstance(self.padding, tuple)
        around = s * (self.kernel_size[1] // 2) - self.padding[1]
        return output[..., around : output.shape[-1] - around]


class MixMlp(nn.Sequential):
    """An MLP at each cell that looks at the eight around it before its GELU: (b, d, y, x) -> the same."""

    def __init__(self, width: int, inside: int, *, drop: float) -> None:
        depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside)
        super().__init__(
            OrderedDict(
                fc1=_fan_out_normal(nn.Conv2d(width, inside, 1)),
                dwconv=nn.Sequential(OrderedDict(dwconv=_fan_out_normal(depthwise))),
                activation=nn.GELU(),
                drop1=nn.Dropout(drop),
                fc2=_fan_out_normal(nn.Conv2d(inside, width, 1)),
                drop2=nn.Dropout(drop),
            )
        )


class DropPath(nn.Module):
    """Stochastic depth: in training some samples of a branch (b, d, y, x) are zero, the others 1 / (1 - rate) as large.

    Each call draws anew (arXiv:1603.09382).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        return branch * nn.functional.dropout(branch.new_ones(len(branch), 1, 1, 1), self.rate)


def drop_path_rates(last: float, blocks: int, *, parity: bool = False) -> list[float]:
    """The rate of stochastic depth of each block, even steps from 0.01 to `last`.

    So it is published, and there `last = 0` still drops with rates from 0.01 down to 0; `parity` keeps that. Otherwise
    0 means that no block is ever dropped.

    >>> [round(rate, 4) for rate in drop_path_rates(0.1, 8)]
    [0.01, 0.0229, 0.0357, 0.0486, 0.0614, 0.0743, 0.0871, 0.1]
    >>> drop_path_rates(0.0, 3)
    [0.0, 0.0, 0.0]
    >>> drop_path_rates(0.0, 3, parity=True)
    [0.01, 0.005, 0.0]
    """
    rates: list[float] = np.linspace(0.01 if last or parity else 0.0, last, blocks).tolist()
    return rates


def _fan_out_normal(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights of variance 2 / fan-out, as befits a ReLU (arXiv:1502.01852), and no bias yet."""
    fan_out = math.prod(convolution.kernel_size) * convolution.out_channels // convolution.groups
    return _normal(convolution, std=math.sqrt(2 / fan_out))


def _make_circular(convolution: nn.Conv2d) -> None:
    """Let a convolution see the first columns to the right of the last ones, and the other way round."""
    assert isinstance(convolution.padding, tuple)
    rows, columns = convolution.padding
    convolution.padding = (rows, 0)
    # A lambda would keep the network from being pickled, and so from being sent to another process.
    convolution.register_forward_pre_hook(partial(_wrap, columns))


def _wrap(columns: int, _: nn.Module, images: tuple[Tensor]) -> Tensor:
    return _wrapped(images[0], columns)


def _wrapped(images: Tensor, columns: int) -> Tensor:
    """Images (n, c, y, x) with so many columns from the other end on either side."""
    width = images.shape[-1]
    if columns <= width:
        return nn.functional.pad(images, (columns, columns, 0, 0), mode="circular")
    # Torch goes round once at most, but the widest kernel may go round a coarse latent image several times.
    return images[..., torch.arange(-columns, width + columns, device=images.device) % width]


def _normal(convolution: nn.Conv2d, *, std: float) -> nn.Conv2d:
    assert convolution.bias is not None
    nn.init.normal_(convolution.weight, std=std)
    nn.init.zeros_(convolution.bias)
    return convolution


class MeanOfMembers(nn.Module):
    """Several networks and the mean of what they forecast: (b, t, c, y, x) -> (b, h, o, y, x).

    In training each sample is seen by one of them, so that each learns from its own errors and a batch costs what it
    costs with one network; the loss is that of all samples. They differ by their initial weights and by the order in
    which they see the windows.

    Args:
        members: networks of one shape; kept as the attribute `members`.
    """

    def __init__(self, members: Iterable[TAU]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, frames: Tensor) -> Tensor:
        if self.training:
            # The same samples go to the same member in each call of a rollout.
            parts = zip(self.members, frames.tensor_split(len(self.members)), strict=True)
            return torch.cat([member(part) for member, part in parts if len(part)])
        return torch.stack([member(frames) for member in self.members]).mean(dim=0)


class ResidualToLastFrame(nn.Module):
    """A network that forecasts the change since the last frame it saw: network(frames) + frames[:, -1:].

    Args:
        network: maps (b, t, c, y, x) to the same shape; kept as the attribute `network`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        output: Tensor = self.network(frames) + frames[:, -1:]
        return output


def frames_of_calls(horizon: int, frames_per_call: int) -> int:
    """How many frames a rollout makes: calls of the network are whole, so the last one may go on behind the horizon.

    >>> frames_of_calls(12, 4), frames_of_calls(10, 4)
    (12, 12)
    """
    return math.ceil(horizon / frames_per_call) * frames_per_call


def rollout(
    network: Callable[..., Tensor],
    frames: Tensor,
    horizon: int,
    *,
    fitted_horizon: int | None = None,
    context: Sequence[Tensor] = (),
) -> Tensor:
    """The `horizon` frames that follow, (b, horizon, c, y, x), however many the network gives at once.

    The network is called once, and its output cut, if that is enough. Beyond that it sees its own output, block by
    block, and gradients flow through all calls. The published rule is that a block is a whole output. A network that
    was fitted on fewer frames than it gives never learnt what the others should be, so its blocks are cut to what it
    was fitted on, and it sees them behind the last frames of what it saw before.

    Args:
        network: maps (b, t, c, y, x), and the context of t + h frames if there is one, to the h frames that follow.
        frames: the history, (b, t, c, y, x), t at least 1.
        horizon: how many frames to forecast.
        fitted_horizon: how many frames of an output may be used; all by default.
        context: what the network is told besides, each (b, at least t + horizon rounded up to whole blocks, …), of the
            history first; see `CorrectedFirstGuess`.

    Raises:
        StforecastError: ARGUMENT if a horizon is below 1.

    >>> rollout(lambda frames: frames + 2, torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1, 1), 5).flatten()
    tensor([3., 4., 5., 6., 7.])
    """
    history = frames.shape[1]
    least = horizon if fitted_horizon is None else min(horizon, fitted_horizon)
    if least < 1:
        raise StforecastError(ErrorKind.ARGUMENT, f"horizon must be at least 1, not {least}")
    blocks: list[Tensor] = []
    done = 0
    while done < horizon:
        told = (some[:, done : done + history + (fitted_horizon or horizon)] for some in context)
        block = network(frames, *told)[:, :fitted_horizon]
        blocks.append(block)
        done += block.shape[1]
        frames = torch.cat([frames, block], dim=1)[:, -history:]
    return torch.cat(blocks, dim=1)[:, :horizon]
