"""The scene nets at the sizes that were published, and what each costs: `python -m training.scene.published`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training import complexity
from training.complexity import Cost
from training.scene import acdnet, cp_resnet, cp_resnet_damped, mobileast, mobileast_first, passt


@dataclass(frozen=True, slots=True)
class Published:
    """A net with ten labels unless its name says otherwise, and the size of its input without the batch."""

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...]

    def cost(self) -> Cost:
        """Of one input. No weights are drawn and nothing is computed."""
        with torch.device("meta"):
            net = self.build()
            inputs: list[Tensor] = [torch.zeros(1, *self.size)]
            if isinstance(net, cp_resnet.CpResNet):
                inputs.append(torch.zeros(1, dtype=torch.int64))
            return complexity.of_net(net, *inputs)


def _cp(name: str, shape: cp_resnet.Shape, frames: int) -> Published:
    return Published(f"CP-ResNet, {name}, {frames} frames", lambda: cp_resnet.CpResNet(shape), (256, frames))


def _damped(rho: int, depth: int) -> Published:
    shape = cp_resnet_damped.shape(rho, depth)
    return Published(f"damped CP-ResNet, {depth} layers", lambda: cp_resnet_damped.build(shape), (256, 64))


def _mobileast(name: str, shape: mobileast.Shape) -> Published:
    return Published(f"MobileAST {name}", lambda: mobileast.MobileAst(shape), (256, 64))


RHO_7 = cp_resnet.shape(rho=7, blocks=(2, 1, 1), cuts=(0, 24), groups=(1, 2, 1))
"""What the note's unfinished quantisation was made for."""
NETS = (
    Published("ACDNet, 1 s at 32 kHz", lambda: acdnet.AcdNet(acdnet.Shape()), (32_000,)),
    Published("ACDNet, 5 s at 32 kHz", lambda: acdnet.AcdNet(acdnet.Shape(samples=160_000)), (160_000,)),
    Published("ACDNet, 1.51 s at 20 kHz", lambda: acdnet.AcdNet(acdnet.PUBLISHED), (30_225,)),
    Published("ACDNet, 50 labels", lambda: acdnet.AcdNet(acdnet.Shape(20_000, 30_225, labels=50)), (30_225,)),
    *(_cp("note", cp_resnet.NOTE, frames) for frames in (44, 64)),
    *(_cp("winner of 2022", cp_resnet.WINNER, frames) for frames in (44, 64)),
    *(_cp("rho 7", RHO_7, frames) for frames in (44, 64)),
    *(_damped(rho, depth) for rho, depth in ((8, 14), (7, 20), (8, 26))),
    *(_mobileast(name, shape) for name, shape in mobileast.SIZES.items()),
    Published("first MobileAST light", lambda: mobileast_first.FirstMobileAst(mobileast_first.LIGHT), (256, 64)),
    Published("first MobileAST light2", lambda: mobileast_first.FirstMobileAst(mobileast_first.LIGHT2), (256, 64)),
    Published("PaSST, 1 s", lambda: passt.Passt(passt.SECOND), (128, 100)),
    Published("PaSST, 10 s, 527 labels", lambda: passt.Passt(passt.AUDIOSET), (128, 998)),
)


def main() -> None:
    print("| net | parameters | M as DCASE's tool counts | M multiply-accumulates |\n|---|---|---|---|")
    for net in NETS:
        cost = net.cost()
        print(f"| {net.name} | {cost.parameters:,} | {cost.figure / 1e6:.3f} | {cost.macs / 1e6:.3f} |")


if __name__ == "__main__":
    main()
