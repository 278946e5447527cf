# SPDX-License-Identifier: Apache-2.0
"""Adversarial losses: functions of the discriminator's logits, any shape, term by term. All are minimised.

                     generator             discriminator
    logistic         softplus(-f)          softplus(f) + softplus(-r)      Goodfellow et al., NIPS 2014: non-saturating
    hinge            -f                    relu(1 + f) + relu(1 - r)       Lim and Ye 2017; Miyato et al. 2018
    rpgan            softplus(r - f)       softplus(f - r)                 Jolicoeur-Martineau, ICLR 2019

f: logits of generated images, r: of real ones. The last one is the relativistic pairing loss, which Huang et al. ("The
GAN is dead; long live the GAN!", NeurIPS 2024, R3GAN) train with R1 and R2 (losses/penalties.py): a generated image has
to beat the real one beside it, so that it gains nothing by leaving any part of the data out. Row k of f is paired with
row k of r, which must have the same label.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class NonSaturating:
    paired = False  # whether the loss of a generated image needs a real one

    def generator(self, fake: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        return F.softplus(-fake)

    def on_fake(self, fake: torch.Tensor) -> torch.Tensor:
        return F.softplus(fake)

    def on_real(self, real: torch.Tensor) -> torch.Tensor:
        return F.softplus(-real)

    def discriminator(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        return self.on_real(real) + self.on_fake(fake)


class Hinge(NonSaturating):
    def generator(self, fake: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        return -fake

    def on_fake(self, fake: torch.Tensor) -> torch.Tensor:
        return F.relu(1 + fake)

    def on_real(self, real: torch.Tensor) -> torch.Tensor:
        return F.relu(1 - real)


class Wasserstein(NonSaturating):
    """Arjovsky et al., ICML 2017, with the drift term of Karras et al., ICLR 2018 (appendix A.1); it needs a gradient
    penalty beside it."""

    drift = 0.001

    def generator(self, fake: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        return -fake

    def on_fake(self, fake: torch.Tensor) -> torch.Tensor:
        return fake

    def on_real(self, real: torch.Tensor) -> torch.Tensor:
        return -real + self.drift * real.square()


class RelativisticPairing:
    """There is no loss of one image: `on_fake` and `on_real` do not exist."""

    paired = True

    def generator(self, fake: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        assert real is not None and real.shape == fake.shape
        return F.softplus(real - fake)

    def discriminator(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        assert real.shape == fake.shape
        return F.softplus(fake - real)


GANLoss = NonSaturating | RelativisticPairing
LOSSES: dict[str, type[GANLoss]] = {"logistic": NonSaturating, "hinge": Hinge, "rpgan": RelativisticPairing}
