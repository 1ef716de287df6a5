"""Networks made ready to forecast: the same numbers but for rounding, sooner.

Every backend is held against the network itself on the first frames that it sees, so a wrong export is never used.
None but "folded" is chosen unasked: the others take seconds to begin, and "int8" and "bfloat16" round coarsely.
"""

import copy
import importlib.util
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stforecast.errors import ErrorKind, StforecastError
from stforecast.models.tau import TAU, DilatedDepthwise, TemporalBlock

Backend = Literal["eager", "folded", "openvino", "onnx", "int8", "compiled", "bfloat16"]
Run = Callable[..., Tensor]

# What a backend may differ from the network by, relative to the largest value; float32 rounding makes about 1e-6.
TOLERANCE = 1e-4

# What int8 and bfloat16 may differ by, the root mean square relative to the output's standard deviation. Errors that do
# not depend on those of the forecast add to them in squares: where a forecast errs by 15 % of that deviation, 2 % make
# 0.9 % more.
COARSE_TOLERANCE = 0.02
_COARSE = ("int8", "bfloat16")
_OF_A_CPU = ("folded", "openvino", "onnx", "int8")

# How many samples calibrate int8, and as many more hold it against the network.
CALIBRATION_SAMPLES = 16

# More samples at once do not stay in a core's cache.
_SAMPLES_AT_ONCE = 8

# Folding and its check cost about as much as some samples.
_WORTH_FOLDING = 16

_PACKAGES: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "int8": ("openvino", "nncf"),
}


class CheckedNetwork:
    """A network as a backend computes it: frames (b, t, c, y, x), and what else it takes, -> what it gives.

    Attributes:
        backend: what computes it; "eager" until the first call and after a check that failed.
    """

    def __init__(
        self,
        network: nn.Module,
        backend: Backend | None = None,
        *,
        samples: int = 1,
        examples: tuple[Tensor, ...] | None = None,
    ) -> None:
        """A network in evaluation mode on the device on which it is to run.

        Args:
            network: its output is (b, …).
            backend: "eager" calls the network as it is; "folded" calls a copy in which normalizations, scales and
                shortcuts are folded into the convolutions; "openvino" and "onnx" give it to these runtimes, which must
                be installed and take seconds to begin; "int8" gives the TAU inside it to OpenVINO in 8 bits, which
                takes longer; "compiled" has torch.compile write code for it, which takes a minute, and "bfloat16"
                computes in that type, compiled on a GPU. By default eager off a CPU and for a few samples, else folded.
            samples: for how many samples it is going to be called, all calls together.
            examples: inputs that stand for all that are to come; by default the first call's first samples. A backend
                is held against the network on them, and every second one calibrates int8.

        Raises:
            StforecastError: ARGUMENT for an unknown backend; BACKEND if it is not installed or the network is not on a
                CPU; from the first call, BACKEND if a backend that was asked for fails or differs from the network by
                more than `TOLERANCE`, or `COARSE_TOLERANCE`.
        """
        self.backend: Backend = "eager"
        self._network = network
        self._is_asked_for = backend is not None
        device = next((tensor.device.type for tensor in network.state_dict().values()), "cpu")
        if backend is not None:
            check_backend(backend, device)
        self._wanted: Backend = backend or _chosen(samples, device)
        self._examples = examples
        self._run: Run | None = network if self._wanted == "eager" else None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output; a backend that differs is refused where it was asked for, else replaced."""
        if self._run is None:
            self._run = self._checked(inputs)
        if self.backend == "eager":
            return self._run(*inputs)
        return _by_parts(self._run, inputs)

    def _checked(self, inputs: tuple[Tensor, ...]) -> Run:
        # Exporters refuse tensors that were made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            examples = self._examples or tuple(some[: self._examples_of(inputs)] for some in inputs)
            examples = tuple(some.clone() for some in examples)
            expected = _by_parts(self._network, examples)
            try:
                run = _PREPARATIONS[self._wanted](self._network, examples)
                found = _by_parts(run, examples)
            except Exception as error:
                # Whatever an exporter or a runtime raises: the user is to know which one failed, or get the forecast.
                return self._given_up(f"fails with {type(error).__name__}: {str(error).splitlines()[:1]}", error)
        if found.shape != expected.shape:
            return self._given_up(f"gives {tuple(found.shape)} instead of {tuple(expected.shape)}")
        difference = _difference(self._wanted, found, expected)
        if difference is not None:
            return self._given_up(difference)
        self.backend = self._wanted
        return run

    def _examples_of(self, inputs: tuple[Tensor, ...]) -> int:
        """How many samples of the first call a backend is made by, and held against the network on."""
        return 2 * CALIBRATION_SAMPLES if self._wanted == "int8" else _at_once(inputs)

    def _given_up(self, what: str, error: Exception | None = None) -> Run:
        message = f"backend {self._wanted!r} {what}"
        if self._is_asked_for:
            raise StforecastError(
                ErrorKind.BACKEND, f"{message}; choose another one, backend='eager' is the network itself"
            ) from error
        warnings.warn(f"{message}; the network itself is used", RuntimeWarning, stacklevel=4)
        return self._network


def _at_once(inputs: tuple[Tensor, ...]) -> int:
    """How many samples are computed at once: off a CPU, all that come."""
    return _SAMPLES_AT_ONCE if inputs[0].device.type == "cpu" else len(inputs[0])


def _by_parts(run: Run, inputs: tuple[Tensor, ...]) -> Tensor:
    parts = zip(*(some.split(_at_once(inputs)) for some in inputs), strict=True)
    return torch.cat([run(*part) for part in parts])


def _difference(backend: str, found: Tensor, expected: Tensor) -> str | None:
    """How a backend's output differs from the network's, None where no more than it may.

    A network that gives NaN must do so in the backend too; that a forecast is finite is checked elsewhere.
    """
    if backend in _COARSE:
        if torch.equal(found.isfinite(), expected.isfinite()):
            finite = expected.isfinite()
            apart = (found - expected)[finite].square().mean().sqrt()
            spread = expected[finite].std()
            if not apart > COARSE_TOLERANCE * spread:
                return None
            return f"differs by {apart / spread:.1%} of the output's spread, more than {COARSE_TOLERANCE:.0%}"
    elif torch.allclose(found, expected, rtol=0, atol=TOLERANCE * _largest(expected), equal_nan=True):
        return None
    apart = (found - expected).abs().max()
    return f"differs by {apart.item():.2g} where values reach {_largest(expected):.2g}"


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num(0.0, 0.0, 0.0).abs().max())


def check_backend(backend: str, device: str) -> None:
    """Refuse a backend that is none, is not for this type of device, or is not installed.

    Raises:
        StforecastError: ARGUMENT or BACKEND, saying how to get it.
    """
    if backend not in get_args(Backend):
        raise StforecastError(
            ErrorKind.ARGUMENT, f"backend must be one of {', '.join(get_args(Backend))}, not {backend!r}"
        )
    if backend in _OF_A_CPU and device != "cpu":
        raise StforecastError(ErrorKind.BACKEND, f"backend {backend!r} computes on a CPU, the network is on {device}")
    missing = [name for name in _PACKAGES.get(backend, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise StforecastError(
            ErrorKind.BACKEND,
            f"backend {backend!r} needs {', '.join(missing)}, which is not installed: pip install "
            f"'stforecast[{backend}]', or leave the choice to stforecast with backend=None",
        )


def _chosen(samples: int, device: str) -> Backend:
    return "folded" if device == "cpu" and samples >= _WORTH_FOLDING else "eager"


# ---- folded


def folded(network: nn.Module) -> nn.Module:
    """A copy for inference, in which each block of a TAU is `FoldedBlock` and each 1x1 convolution a product.

    Modules that are not known stay as they are, so any network may be given.
    """
    made = copy.deepcopy(network).eval()
    with torch.no_grad():
        made = _replaced(made, {TemporalBlock: FoldedBlock, nn.Conv2d: _pointwise})
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    return made


def _replaced(module: nn.Module, replacements: dict[type[nn.Module], Callable[[Any], nn.Module]]) -> nn.Module:
    """A module with each module inside it that is exactly of a type replaced, itself included."""
    if type(module) in replacements:
        return replacements[type(module)](module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, replacements))
    return module


def _pointwise(convolution: nn.Conv2d) -> nn.Module:
    is_pointwise = convolution.kernel_size == convolution.stride == (1, 1) and convolution.groups == 1
    return Pointwise(convolution) if is_pointwise and convolution.padding == (0, 0) else convolution


class Product(nn.Module):
    """A matrix product at each cell, (…, d) -> (…, e), and what is done with it before it is written to memory.

    In float32 oneDNN computes it, which is a tenth faster than MKL, behind torch.nn.functional.linear, on an AMD EPYC
    (not measured elsewhere), takes a matrix that it has once laid out for itself, and spares the passes over memory of
    a GELU, a product or a sum. Torch has no public name for it; were it called otherwise one day, the check of the
    backend would tell.

    Args:
        matrix: (e, d).
        bias: (e,).
    """

    matrix: Tensor
    bias: Tensor | None

    def __init__(self, matrix: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._is_onednn = _takes_onednn(matrix)
        matrix = matrix.detach().contiguous()
        self.register_buffer("matrix", torch.ops.mkldnn._reorder_linear_weight(matrix) if self._is_onednn else matrix)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor, *, activation: Literal["none", "gelu"] = "none") -> Tensor:
        """The product, or its GELU."""
        if self._is_onednn:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(
                x.contiguous(), self.matrix, self.bias, activation, [], "none"
            )
            return product
        product = nn.functional.linear(x, self.matrix, self.bias)
        return nn.functional.gelu(product) if activation == "gelu" else product

    def with_other(self, x: Tensor, operation: Literal["add", "mul"], other: Tensor) -> Tensor:
        """The product, other (…, e) added or multiplied."""
        if self._is_onednn:
            combined: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x.contiguous(), other.contiguous(), self.matrix, self.bias, operation
            )
            return combined
        product = nn.functional.linear(x, self.matrix, self.bias)
        return product + other if operation == "add" else product * other


class Pointwise(nn.Module):
    """A 1x1 convolution as a matrix product, (b, d, y, x) -> (b, e, y, x) with the channels last in memory."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.product = Product(convolution.weight.flatten(1), convolution.bias)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return _planes(self.product(_cells(x)))


class ConvolutionToGELU(nn.Conv2d):
    """A convolution and the GELU of what it gives, in one pass over memory where oneDNN computes it."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _takes_onednn(x):
            activated: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, self.padding, self.stride, self.dilation, self.groups, "gelu", [], "none"
            )
            return activated
        return nn.functional.gelu(super()._conv_forward(x, weight, bias))


class FoldedBlock(nn.Module):
    """A `TemporalBlock` in evaluation with its affine maps folded: (b, d, y, x) -> the same, channels last in memory.

    With normₖ(x) = gₖ·x + tₖ, layer scales λₖ, and P, Q, F, G the 1x1 convolutions proj_1, proj_2, fc1 and fc2 of
    biases p, q, f and g,

    a    = gelu(P'·x + p')                          P' = P·g₁         p' = p + P·t₁
    x'   = (1 + λ₁·g₁)·x + Q'·unit(a) + q'          Q' = λ₁·Q         q' = λ₁·(q + t₁)
    out  = x' + G'·gelu(dwconv(F'·x' + f')) + g'    F' = F·g₂         f' = f + F·t₂      G' = λ₂·G      g' = λ₂·g

    The depthwise convolutions and the dynamic attention of the gating unit stay what they are.
    """

    shortcut: Tensor

    def __init__(self, block: TemporalBlock) -> None:
        super().__init__()
        gain_1, shift_1 = _affine(block.norm1)
        gain_2, shift_2 = _affine(block.norm2)
        scale_1, scale_2 = block.layer_scale_1.detach(), block.layer_scale_2.detach()
        unit, mlp = block.attn.spatial_gating_unit, block.mlp
        proj_1, proj_1_bias = _matrix(block.attn.proj_1)
        proj_2, proj_2_bias = _matrix(block.attn.proj_2)
        fc1, fc1_bias = _matrix(mlp.get_submodule("fc1"))
        fc2, fc2_bias = _matrix(mlp.get_submodule("fc2"))
        dtype = block.layer_scale_1.dtype

        def product(matrix: Tensor, bias: Tensor) -> Product:
            return Product(matrix.to(dtype), bias.to(dtype))

        self.proj_1 = product(proj_1 * gain_1, proj_1_bias + proj_1 @ shift_1)
        self.conv1 = product(*_matrix(unit.conv1))
        self.register_buffer("shortcut", (1 + scale_1 * gain_1).to(dtype))
        self.proj_2 = product(scale_1[:, None] * proj_2, scale_1 * (proj_2_bias + shift_1))
        self.fc1 = product(fc1 * gain_2, fc1_bias + fc1 @ shift_2)
        self.fc2 = product(scale_2[:, None] * fc2, scale_2 * fc2_bias)
        self.conv0, self.conv_spatial, self.fc = unit.conv0, unit.conv_spatial, unit.fc
        self.dwconv = _same_convolution(mlp.get_submodule("dwconv.dwconv"), ConvolutionToGELU)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = _cells(x).contiguous()  # (b, y, x, d) from here on
        a = self.proj_1(x, activation="gelu")
        static = _cells(self.conv_spatial(self.conv0(_planes(a))))
        dynamic = self.fc(a.mean((1, 2)))[:, None, None]
        gated = self.conv1.with_other(static, "mul", a).mul_(dynamic)
        attended = self.proj_2.with_other(gated, "add", x * self.shortcut)
        inside = _cells(self.dwconv(_planes(self.fc1(attended))))
        return _planes(self.fc2.with_other(inside, "add", attended))


def _takes_onednn(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and _has_onednn()


@cache
def _has_onednn() -> bool:
    names = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _planes(x: Tensor) -> Tensor:
    """(b, y, x, d) seen as (b, d, y, x)."""
    return x.permute(0, 3, 1, 2)


def _cells(x: Tensor) -> Tensor:
    """(b, d, y, x) seen as (b, y, x, d)."""
    return x.permute(0, 2, 3, 1)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch norm in evaluation, float64: folding is to lose nothing before its last rounding."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.detach().double() - gain * norm.running_mean.double()


def _matrix(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.bias is not None
    return convolution.weight.detach().double().flatten(1), convolution.bias.detach().double()


# ---- compiled by torch


class OfOneSize:
    """A network that is compiled for batches of one size: (b, …) -> what it gives, by parts of that size.

    Of another size it would be compiled anew, for a minute. The last part is filled up with copies of its last sample.

    Args:
        network: what is compiled.
        size: samples at once.
        in_bfloat16: whether convolutions and products are computed in bfloat16; the output is float32 all the same.
    """

    def __init__(self, network: nn.Module, size: int, *, in_bfloat16: bool = False) -> None:
        self._size, self._in_bfloat16 = size, in_bfloat16
        self._device = next((tensor.device.type for tensor in network.state_dict().values()), "cpu")
        if self._device == "cpu":
            # Processors that have no unit for bfloat16 are slow at it, compiled or not.
            self._run = network if in_bfloat16 else torch.compile(network, dynamic=False)
        else:
            # With CUDA graphs, so that a small batch does not wait for each of its many kernels to be launched.
            self._run = torch.compile(network, dynamic=False, mode="reduce-overhead")

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's output."""
        # Code is compiled for tensors of inference mode or for others, and may be called in both.
        with torch.inference_mode(False), torch.no_grad(), self._precision():
            parts = zip(*(some.clone().split(self._size) for some in inputs), strict=True)
            # A graph's next output takes the place of the last one.
            made = [self._run(*map(self._filled, part))[: len(part[0])].float().clone() for part in parts]
        return torch.cat(made)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device, torch.bfloat16) if self._in_bfloat16 else nullcontext()

    def _filled(self, part: Tensor) -> Tensor:
        lacking = self._size - len(part)
        return torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]) if lacking else part


def _to_compiled(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    return _compiled_by_torch(network, inputs, in_bfloat16=False)


def _to_bfloat16(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    return _compiled_by_torch(network, inputs, in_bfloat16=True)


def _compiled_by_torch(network: nn.Module, inputs: tuple[Tensor, ...], *, in_bfloat16: bool) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler warns of in its own code
        run = OfOneSize(network, len(inputs[0]), in_bfloat16=in_bfloat16)
        run(*inputs)
    return run


# ---- other runtimes


def _to_folded(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:  # noqa: ARG001  # folding needs no example
    return folded(network)


def _to_openvino(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    with _without_telemetry():
        return _compiled(_openvino_model(network, inputs))


def _to_int8(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    """The network with the translator of each TAU inside it in 8 bits, calibrated on every second sample.

    Its first block, the encoder and the decoder are in bfloat16 where the processor computes in that type, else in
    float32. The first guess around them is in float32 everywhere.
    """
    made = copy.deepcopy(network).eval()
    seen: dict[nn.Module, list[Tensor]] = {module: [] for module in made.modules() if isinstance(module, TAU)}
    if not seen:
        raise ValueError("there is no TAU in the network")
    hooks = [
        tau.register_forward_pre_hook(lambda module, inputs: seen[module].extend(inputs[0].split(1))) for tau in seen
    ]
    made(*(some[::2] for some in inputs))
    for hook in hooks:
        hook.remove()
    with _without_telemetry():
        return _replaced(made, {TAU: lambda tau: Runtime(_compiled(_in_8_bits(tau, seen[tau]), is_coarse=True))})


class Runtime(nn.Module):
    """Another runtime's network in the place of a module."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:  # noqa: D102
        return self.run(*inputs)


def _in_8_bits(network: TAU, samples: Sequence[Tensor]) -> Any:
    # It writes what it does, and bars of progress, to the place of a command's own output.
    with redirect_stdout(io.StringIO()):
        import nncf

        # Encoder, decoder and the translator's first block are a small part of the work and made most of the error
        # (docs/performance.md). Sums and gates gain nothing.
        in_float = nncf.IgnoredScope(
            patterns=[r"__module\.enc\..*", r"__module\.hid\.enc\.0\..*", r"__module\.dec.*"], types=["Add", "Multiply"]
        )
        return nncf.quantize(
            _openvino_model(network, tuple(samples[:1])),
            nncf.Dataset([some.numpy() for some in samples]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            ignored_scope=in_float,
        )


def _openvino_model(network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the network's checks of shapes are taken as settled
        return openvino.convert_model(
            _for_export(network), example_input=inputs, input=[[-1, *some.shape[1:]] for some in inputs]
        )


def _compiled(model: Any, *, is_coarse: bool = False) -> Run:
    import openvino

    core = openvino.Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Without the hint some CPUs would compute in bfloat16 whether they may or not.
        "INFERENCE_PRECISION_HINT": "bf16" if is_coarse and has_bfloat16 else "f32",
    }
    compiled = core.compile_model(model, "CPU", options)

    def run(*inputs: Tensor) -> Tensor:
        # The runtime writes its next output to the same place.
        return torch.from_numpy(compiled([some.numpy() for some in inputs])[0].copy())

    return run


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let OpenVINO's converter and NNCF not find the package by which they send usage data, unasked, to their makers.

    Who has imported it before has decided for himself.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # how an import is told to fail
    try:
        yield
    finally:
        del sys.modules[name]


def _to_onnx(network: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    import onnxruntime

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to those who wrote the exporter
        program = torch.onnx.export(
            _for_export(network), inputs, dynamo=True, dynamic_shapes=tuple({0: batch} for _ in inputs), verbose=False
        )
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [some.name for some in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        values = (some.numpy() for some in inputs)
        return torch.from_numpy(session.run(None, dict(zip(names, values, strict=True)))[0])

    return run


def _for_export(network: nn.Module) -> nn.Module:
    """A copy with torch's own dilated convolution, which other runtimes know how to compute fast."""
    return _replaced(copy.deepcopy(network).eval(), {DilatedDepthwise: partial(_same_convolution, kind=nn.Conv2d)})


def _same_convolution(module: nn.Module, kind: type[nn.Conv2d]) -> nn.Conv2d:
    """A convolution as another kind of module, which shares its weights."""
    assert isinstance(module, nn.Conv2d)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    sizes: dict[str, Any] = {name: getattr(module, name) for name in names}
    made = kind(**sizes, bias=module.bias is not None, device="meta")  # where no random weights are drawn
    made.load_state_dict(module.state_dict(), assign=True)
    # A circular network has its columns put around by a hook instead of padding.
    made._forward_pre_hooks = module._forward_pre_hooks
    return made


_PREPARATIONS: dict[str, Callable[[nn.Module, tuple[Tensor, ...]], Run]] = {
    "folded": _to_folded,
    "openvino": _to_openvino,
    "onnx": _to_onnx,
    "int8": _to_int8,
    "compiled": _to_compiled,
    "bfloat16": _to_bfloat16,
}
