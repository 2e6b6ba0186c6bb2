"""The diffusion that SVD trains with: preconditioning, distribution of noise levels, loss.

Sources: Karras et al. 2022 (arXiv:2206.00364, "EDM"), table 1 and section 5; Blattmann et al. 2023 (arXiv:2311.15127,
"SVD"), section D.1 for the preconditioning, which makes a network with v-prediction of it, and D.2 for the levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: mean and deviation of ln σ: higher than EDM's -1.2 and 1.2, as in SVD: what moves where is settled at high noise.
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 1.0, 1.6

#: share of levels that are spread evenly over ln σ up to the scheduler's highest instead. The smooth parts of a clip
#: are settled at high noise, where SVD's distribution has next to nothing: 1 level in 70 is above 88, and of the
#: 8 steps that the embedded model takes three are, at 700, 287 and 103.
EVEN_SHARE, SIGMA_MAX = 0.25, 700.0

#: probability of training without the image: zeros for its embedding and its latents, which is what the pipeline gives
#: for the unconditional half of guidance. Source: Ho & Salimans 2022 (arXiv:2207.12598); SVD, appendix D.
DROPOUT = 0.1


@dataclass(frozen=True)
class Preconditioning:
    """EDM's coefficients for σ_data = 1 in SVD's form.

    With F the network, D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise). The form is that of v-prediction: diffusers'
    EulerDiscreteScheduler computes the same D from F when `prediction_type` is `v_prediction`.
    """

    #: c_skip, c_out and c_in, [b 1 1 1 1] each.
    skip: Tensor
    out: Tensor
    into: Tensor
    #: [b], what the network gets as timestep.
    noise: Tensor

    @classmethod
    def of(cls, sigma: Tensor) -> Preconditioning:
        """The coefficients for noise levels sigma, [b], > 0."""
        wide = sigma.reshape(-1, 1, 1, 1, 1)
        root = torch.sqrt(wide**2 + 1)
        return cls(skip=1 / root**2, out=-wide / root, into=1 / root, noise=0.25 * torch.log(sigma))

    def target(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """What F should give so that D(noisy) = clean, [b t c h w]."""
        return (clean - self.skip * noisy) / self.out

    def denoised(self, noisy: Tensor, prediction: Tensor) -> Tensor:
        """D(noisy) from F's prediction, [b t c h w]."""
        return self.skip * noisy + self.out * prediction


def draw_sigma(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels: log-normal as SVD's, and a share spread evenly from 1 to the highest, [count]."""
    device = generator.device
    normal = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(count, generator=generator, device=device)
    even = math.log(SIGMA_MAX) * torch.rand(count, generator=generator, device=device)
    chosen = torch.rand(count, generator=generator, device=device) < EVEN_SHARE
    return torch.exp(torch.where(chosen, even, normal))


def draw_noise_aug(count: int, generator: torch.Generator) -> Tensor:
    """Strengths of the noise on the conditioning image, [count], in [0, 0.7].

    SVD draws ln(strength) from N(-3, 0.5²) (appendix D), which is 0.02 to 0.14 for 95 of 100. Callers may ask for
    more, so the spread is doubled, and one in eight images stays without noise.
    """
    strength = torch.exp(-3.0 + 1.0 * torch.randn(count, generator=generator, device=generator.device))
    clean = torch.rand(count, generator=generator, device=generator.device) < 0.125
    return strength.clamp(max=0.7).masked_fill(clean, 0.0)


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """EDM's weighted loss of D, which for this preconditioning is the plain mean square of F.

    λ(σ) = (σ² + 1)/σ² = 1/c_out². Source: EDM, table 1 with σ_data = 1.
    """
    return torch.nn.functional.mse_loss(prediction.float(), target.float())
