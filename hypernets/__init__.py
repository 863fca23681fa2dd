"""Hypernetworks (Ha, Dai, Le, arXiv 1609.09106): networks that generate the weights of a main network."""

from hypernets.generated_convolutions import GeneratedConvolutions
from hypernets.kernels import KernelShape, LearnedKernels
from hypernets.static import StaticHypernetwork

__all__ = ["GeneratedConvolutions", "KernelShape", "LearnedKernels", "StaticHypernetwork"]
