"""Graphics cards: their memory and speed, and how a user names them.

Memory is the total that the driver reports (`nvidia-smi`), which is below the advertised size on cards that correct
errors. Speed is the dense 16-bit rate of the tensor cores that adds up in fp32, from the vendor's datasheets and
architecture whitepapers; rates "with sparsity" are halved.

Input: a card's name, or an amount of memory as text. Output: a `Card`, or bytes.
Does not depend on: models, installed hardware.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from erc_llm.errors import ConfigError

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card.

    Attributes:
        name: Its name.
        memory_mib: Memory that the driver reports, in MiB.
        tflops: Dense 16-bit rate in TFLOP/s.
        bf16: Whether it multiplies bf16; cards before Ampere have fp16 only.
        utilisation: Part of the rate that QLoRA training with plain libraries reaches.
    """

    name: str
    memory_mib: int
    tflops: float
    bf16: bool = True
    utilisation: float = 0.30

    @property
    def memory(self) -> int:
        """Memory in bytes."""
        return self.memory_mib * MIB


# 0.30 is what the LLaMA-Factory project reports for QLoRA of LLaMA-2-7B on an A100 with plain transformers: 2,415
# tokens a second, which are 96 TFLOP/s of 312 (its wiki, "Performance Comparison"). 0.17 is what the archive of
# fitcheck-llm reports for a T4: 3.9 s for a step of 1,024 tokens of Mistral-7B. For the other cards 0.30 is assumed.
_T4_UTILISATION = 0.17

CARDS = (
    Card("RTX 2080 Ti", 11264, 53.8, bf16=False),
    Card("T4", 15360, 65.0, bf16=False, utilisation=_T4_UTILISATION),
    Card("V100 16GB", 16384, 125.0, bf16=False),
    Card("V100 32GB", 32768, 125.0, bf16=False),
    Card("RTX 3060 12GB", 12288, 25.5),
    Card("RTX 3070", 8192, 40.6),
    Card("RTX 3080 10GB", 10240, 59.5),
    Card("RTX 3090", 24576, 71.0),
    Card("RTX A6000", 49140, 154.8),
    Card("A10", 23028, 125.0),
    Card("RTX 4060", 8188, 30.2),
    Card("RTX 4060 Ti 16GB", 16380, 44.1),
    Card("RTX 4070", 12282, 58.3),
    Card("RTX 4080", 16376, 97.5),
    Card("RTX 4090", 24564, 165.2),
    Card("L4", 23034, 121.0),
    Card("L40S", 46068, 362.1),
    Card("RTX 5080", 16303, 112.6),
    Card("RTX 5090", 32607, 209.5),
    Card("A100 40GB", 40960, 312.0),
    Card("A100 80GB", 81920, 312.0),
    Card("H100 80GB", 81559, 989.4),
    Card("H200", 143771, 989.4),
)

_SYNONYMS = {"3060": "RTX 3060 12GB", "4060ti": "RTX 4060 Ti 16GB", "h100": "H100 80GB", "3080": "RTX 3080 10GB"}


def find_card(name: str) -> Card:
    """The card of this name; case, spaces, `NVIDIA`, `GeForce`, `Tesla` and `RTX` make no difference.

    Raises:
        ConfigError: There is no such card, or the name fits several of different memory.
    """
    wanted = _plain(name)
    wanted = _plain(_SYNONYMS.get(wanted, wanted))
    exact = [card for card in CARDS if _plain(card.name) == wanted]
    found = exact or [card for card in CARDS if wanted and _plain(card.name).startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"--gpu: '{name}' may be {' or '.join(card.name for card in found)}; name one of them")
    known = ", ".join(card.name for card in CARDS)
    raise ConfigError(f"--gpu: no card '{name}' in the list ({known}); give its memory instead, as --memory 24GB")


def _plain(name: str) -> str:
    kept = re.sub(r"\b(nvidia|geforce|tesla|rtx|pcie|sxm\d?|hbm\w*)\b", "", name.casefold())
    return re.sub(r"[\s_-]", "", kept)


_UNITS = {"": GIB, "g": GIB, "gb": GIB, "gib": GIB, "m": MIB, "mb": MIB, "mib": MIB}


def parse_memory(text: str) -> int:
    """Bytes of a text such as `24GB`, `24` or `24564MiB`; GB means 2^30 bytes, as on the boxes of graphics cards.

    Raises:
        ConfigError: The text is not an amount of memory, or below 1 GB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.casefold())
    if match is None or match[2] not in _UNITS:
        raise ConfigError(f"--memory: '{text}' is not an amount of memory; write 24GB or 24564MiB")
    amount = round(float(match[1]) * _UNITS[match[2]])
    if not GIB <= amount <= 10_000 * GIB:
        raise ConfigError(f"--memory: '{text}' is not the memory of a GPU, expected 1GB to 10000GB")
    return amount
