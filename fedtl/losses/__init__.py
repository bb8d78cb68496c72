"""Terms of the local objective: pure functions of tensors, and the sum that composes them.

The functions are here by name; ``vmap`` and ``grad`` of ``torch.func`` go through each of them.
"""

from fedtl.losses.adversarial import (
    adda_discriminator,
    adda_mapping,
    conditioned,
    dann_lambda,
    domain_adversarial,
    entropy_weights,
    gradient_reversal,
)
from fedtl.losses.data_free import class_impression_objective, dafl_generator_losses, zskd_concentration
from fedtl.losses.discrepancy import associative, joint_mmd, local_mmd, mmd
from fedtl.losses.drift import l2_sp, moon, prototype, proximal
from fedtl.losses.moments import central_moments, cmd, cmd_to_moments, coral, coral_to_moments, mean_and_covariance
from fedtl.losses.self_supervised import barlow_twins, invariant_spreading, negative_cosine, nt_xent, vicreg
from fedtl.losses.teaching import distillation, not_true_distillation
from fedtl.losses.unlabelled import bnm, entropy, generalized_cross_entropy, mcc

__all__ = [
    "adda_discriminator",
    "adda_mapping",
    "associative",
    "barlow_twins",
    "bnm",
    "central_moments",
    "class_impression_objective",
    "cmd",
    "cmd_to_moments",
    "conditioned",
    "coral",
    "coral_to_moments",
    "dafl_generator_losses",
    "dann_lambda",
    "distillation",
    "domain_adversarial",
    "entropy",
    "entropy_weights",
    "generalized_cross_entropy",
    "gradient_reversal",
    "invariant_spreading",
    "joint_mmd",
    "l2_sp",
    "local_mmd",
    "mcc",
    "mean_and_covariance",
    "mmd",
    "moon",
    "negative_cosine",
    "not_true_distillation",
    "nt_xent",
    "prototype",
    "proximal",
    "vicreg",
    "zskd_concentration",
]
