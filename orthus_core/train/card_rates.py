"""Peak arithmetic of usual cards: bf16 products without sparsity, from their makers' data sheets.

NVIDIA's data sheets: A100 (2021), H100 (2023: SXM, PCIe, NVL), H200 (2024), B200 and GB200 (2024),
A10, A10G, A30, A40, L4, L40, L40S; most state twice as much, with sparsity. H800 and A800 compute
as H100 and A100, H20 less. RTX 3090 and A6000: GA102 white paper; RTX 4090 and 6000 Ada: Ada white
paper; of the GeForce cards with sums in fp32. AMD's data sheets: MI250 and MI250X (one of the two
dies, which is one device), MI300X, MI325X.
"""

from __future__ import annotations

# The first name that is part of the device's counts.
PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "MI325X": 1307e12,
    "MI300X": 1307e12,
    "MI250": 191.5e12,
}


def peak_flops(name: str) -> float | None:
    """Peak operations per second of a card in bf16, by its name as the driver tells it; None for
    one that is not known.
    """
    words = name.replace("-", " ").split()
    for known, peak in PEAKS.items():
        wanted = known.split()
        if all(any(word.upper() == each.upper() for word in words) for each in wanted):
            return peak
    return None
