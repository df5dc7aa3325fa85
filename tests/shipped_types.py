"""What ships beside the protocols that it is to fulfil: read by mypy, which complains of a member that differs."""

from __future__ import annotations

from arbench_tokenizers.diffusers_vae import DiffusersVAE
from arbench_tokenizers.digits import DigitsKL, DigitsVQ
from arbench_tokenizers.kl16 import KL16
from arbench_tokenizers.llamagen_vq import LlamaGenVQ
from arbench_tokenizers.vq16 import VQ16

from arbench.bench.baselines import PlainHead
from arbench.evaluation.extractors import Network, PlainNetwork
from arbench.evaluation.networks import Digits, Inception
from arbench.generators.ar.model import AR
from arbench.generators.arpg.model import ARPG
from arbench.generators.dit.model import DiT, JointHead
from arbench.generators.mar.model import MAR
from arbench.generators.par.model import PAR
from arbench.heads.categorical import CategoricalHead
from arbench.heads.diffusion import DiffusionHead
from arbench.machine.timing import PhaseTimer
from arbench.protocols import Generator, Head, Noise, Timer, Tokenizer, TrainableTokenizer
from arbench.runs.pipeline import StepTimer
from arbench.sampling.algorithm import NoTimer
from arbench.sampling.noise import FixedNoise, ImageNoise
from arbench.tokenizer.load import Scaled
from arbench.training.cache import CacheSpec

GENERATORS: tuple[type[Generator], ...] = (AR, PAR, MAR, DiT, ARPG)
HEADS: tuple[type[Head], ...] = (CategoricalHead, DiffusionHead, JointHead, PlainHead)
NOISES: tuple[type[Noise], ...] = (ImageNoise, FixedNoise)
TIMERS: tuple[type[Timer], ...] = (PhaseTimer, StepTimer, NoTimer)
TOKENIZERS: tuple[type[Tokenizer], ...] = (KL16, VQ16, LlamaGenVQ, DigitsKL, DigitsVQ, DiffusersVAE)
LEARNERS: tuple[type[TrainableTokenizer], ...] = (KL16, VQ16, LlamaGenVQ, DigitsKL, DigitsVQ)
SCALED: tuple[type[Scaled], ...] = (KL16, CacheSpec)
NETWORKS: tuple[type[Network], ...] = (Inception, Digits, PlainNetwork)
