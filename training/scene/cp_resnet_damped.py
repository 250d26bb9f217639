"""CP-ResNet with frequency damping: kernels whose outer taps along frequency count for little, of any width.

After Koutini, Henkel, Eghbal-zadeh and Widmer, "Low-complexity models for acoustic scene classification based on
receptive field regularization and frequency damping" (DCASE 2020). The damping is a fixed factor on every weight, so a
trained net is `folded` into an ordinary CP-ResNet that gives the same answers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.scene.cp_resnet import Convolution, CpResNet, Shape, Stage, kernel_if

LEAST = 0.01
"""Of the outermost taps; the middle one counts whole."""


def damping(taps: int) -> Tensor:
    """Factors along the frequency axis of a kernel: 1 in the middle, falling straight to `LEAST`; [taps, 1]."""
    middle = (taps - 1) / 2
    if middle < 1:
        return torch.ones(taps, 1)
    return (1 - (1 - LEAST) * (torch.arange(taps) - middle).abs() / middle).unsqueeze(1)


class DampedConvolution(Convolution):
    """A convolution that damps its own kernel each time it runs; its weight is the undamped one."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(into, out, kernel, stride, groups)
        self.register_buffer("damping", damping(kernel), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * self.damping, None)


def shape(rho: int = 8, depth: int = 26, base: int = 128, labels: int = 10) -> Shape:
    """The family by its receptive field *rho*, in which seven is the middle, and its *depth* of 8, 14, 20 or 26.

    Raises:
        ValueError: the depth is another.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or not 1 <= blocks <= 4:
        raise ValueError(f"a damped CP-ResNet is 8, 14, 20 or 26 layers deep, not {depth}")
    over = rho - 7
    one = ((3, 1), *((kernel_if(over >= -6 + 2 * at), kernel_if(over >= -5 + 2 * at)) for at in range(3)))
    two = (
        (kernel_if(over >= 0), kernel_if(over > 0)),
        *((kernel_if(over > 1 + 2 * at), kernel_if(over > 2 + 2 * at)) for at in range(3)),
    )
    three = tuple((kernel_if(over > 7 + 2 * at), kernel_if(over > 8 + 2 * at)) for at in range(4))
    stages = (Stage(base * 2**at, kernels[:blocks]) for at, kernels in enumerate((one, two, three)))
    first, second, third = stages
    return Shape((first, second, third), (2, 4), labels)


def folded(net: CpResNet, shape: Shape) -> CpResNet:
    """An ordinary net that answers as *net* does, a `CpResNet` of `DampedConvolution`; *net* is left as it is."""
    plain = CpResNet(shape)
    weights = dict(net.state_dict())
    for name, module in net.named_modules():
        if isinstance(module, DampedConvolution):
            weights[f"{name}.weight"] = module.weight.detach() * module.damping
    plain.load_state_dict(weights)
    return plain.train(net.training)


def build(shape: Shape) -> CpResNet:
    """The net to be trained."""
    return CpResNet(shape, DampedConvolution)
