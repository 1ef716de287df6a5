"""The published TAU as plainly as it can be written, its weights named as published: what ours is held against.

Written from the description of the network (arXiv:2206.12126 and OpenSTL's state dicts), apart from
`stforecast.models.tau`, of which it shares no line. It computes what OpenSTL's layers compute, one after the other.
"""

# ruff: noqa: D102  # what a module's forward returns is the first line of the module

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own name for it


class PublishedTAU(nn.Module):
    """(b, t, c, y, x) -> (b, t, c, y, x), y and x even (for four spatial layers multiples of four)."""

    def __init__(
        self,
        shape: tuple[int, int],
        hid_S: int = 32,  # noqa: N803  # the published names
        hid_T: int = 256,  # noqa: N803
        N_S: int = 2,  # noqa: N803
        N_T: int = 8,  # noqa: N803
        mlp_ratio: float = 8.0,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        frames, channels = shape
        self.enc, self.dec, self.hid = nn.Module(), nn.Module(), nn.Module()
        self.enc.enc = nn.ModuleList(
            [ConvSC(channels if i == 0 else hid_S, hid_S, down=i % 2 == 1) for i in range(N_S)]
        )
        self.dec.dec = nn.ModuleList([ConvSC(hid_S, hid_S, up=i % 2 == 0) for i in range(N_S)])
        self.dec.readout = nn.Conv2d(hid_S, channels, 1)
        rates = torch.linspace(0.01, drop_path, N_T).tolist()
        width = frames * hid_S
        inside = [hid_T] * (N_T - 1)
        self.hid.enc = nn.ModuleList(
            [
                MetaBlock(wide, out, mlp_ratio, rate)
                for wide, out, rate in zip([width, *inside], [*inside, width], rates, strict=True)
            ]
        )

    def forward(self, frames: Tensor) -> Tensor:
        b, t, c, y, x = frames.shape
        skip = latent = self.enc.enc[0](frames.reshape(b * t, c, y, x))
        for layer in self.enc.enc[1:]:
            latent = layer(latent)
        _, hidden, rows, columns = latent.shape
        latent = latent.reshape(b, t * hidden, rows, columns)
        for block in self.hid.enc:
            latent = block(latent)
        latent = latent.reshape(b * t, hidden, rows, columns)
        for layer in self.dec.dec[:-1]:
            latent = layer(latent)
        return self.dec.readout(self.dec.dec[-1](latent + skip)).reshape(b, t, c, y, x)


class ConvSC(nn.Module):
    """A 3x3 convolution that may halve or double the image, group norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, *, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.conv = nn.Module()
        if up:
            self.conv.conv = nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))
        else:
            self.conv.conv = nn.Conv2d(inputs, outputs, 3, stride=2 if down else 1, padding=1)
        self.conv.norm = nn.GroupNorm(2, outputs)

    def forward(self, images: Tensor) -> Tensor:
        return F.silu(self.conv.norm(self.conv.conv(images)))


class MetaBlock(nn.Module):
    """A block and, where its width is not the next one's, a 1x1 convolution."""

    def __init__(self, width: int, out: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.block = SubBlock(width, mlp_ratio, drop_path)
        if width != out:
            self.reduction = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.reduction(x) if hasattr(self, "reduction") else x


class SubBlock(nn.Module):
    """Attention and MLP, each normalized before and scaled behind."""

    def __init__(self, width: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.attn, self.mlp = Attention(width), Mlp(width, int(mlp_ratio * width))
        self.layer_scale_1 = nn.Parameter(0.01 * torch.ones(width))
        self.layer_scale_2 = nn.Parameter(0.01 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropped(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.dropped(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))

    def dropped(self, branch: Tensor) -> Tensor:
        if not self.training:
            return branch
        keep = 1 - self.drop_path
        return branch * torch.empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)


class Attention(nn.Module):
    """1x1, GELU, the gating unit, 1x1, and the normalized input on top."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_1, self.proj_2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.spatial_gating_unit = GatingUnit(width)

    def forward(self, z: Tensor) -> Tensor:
        return self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(z)))) + z


class GatingUnit(nn.Module):
    """Static attention by large kernels times dynamic attention by squeeze and excitation, times the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv_spatial = nn.Conv2d(width, width, 7, padding=9, dilation=3, groups=width)
        self.conv1 = nn.Conv2d(width, width, 1)
        squeezed = width // max(width // 16, 4)
        self.fc = nn.Sequential(
            nn.Linear(width, squeezed, bias=False), nn.ReLU(), nn.Linear(squeezed, width, bias=False), nn.Sigmoid()
        )

    def forward(self, a: Tensor) -> Tensor:
        static = self.conv1(self.conv_spatial(self.conv0(a)))
        b, d, _, _ = a.shape
        dynamic = self.fc(F.adaptive_avg_pool2d(a, 1).reshape(b, d)).reshape(b, d, 1, 1)
        return dynamic * static * a


class Mlp(nn.Module):
    """1x1, depthwise 3x3, GELU, 1x1."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, inside, 1), nn.Conv2d(inside, width, 1)
        self.dwconv = nn.Module()
        self.dwconv.dwconv = nn.Conv2d(inside, inside, 3, padding=1, groups=inside)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv.dwconv(self.fc1(z))))


def published_loss(prediction: Tensor, target: Tensor, alpha: float = 0.1) -> Tensor:
    """Mean square error + alpha · the mean of P log(P / (Q + 1e-12) + 1e-12), off for two frames or fewer."""
    loss = F.mse_loss(prediction, target)
    if prediction.shape[1] <= 2:
        return loss
    p, q = (F.softmax((frames[:, 1:] - frames[:, :-1]).flatten(2) / 0.1, dim=-1) for frames in (prediction, target))
    return loss + alpha * (p * torch.log(p / (q + 1e-12) + 1e-12)).mean()


def draw(network: nn.Module, *, seed: int = 0) -> None:
    """Weights of the published spread; statistics and scales far from neutral, so that what is folded wrongly shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if "layer_scale" in name:
                tensor.uniform_(0.05, 0.3, generator=generator)
            elif "norm" in name and not name.endswith(("bias", "running_mean")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.uniform_(-0.3, 0.3, generator=generator)
            else:
                tensor.normal_(0, math.sqrt(1 / tensor[0].numel()), generator=generator)
