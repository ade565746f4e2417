"""rankscope: which LoRA rank, or full fine-tuning, for my model and my data, and what will the model forget?"""

from __future__ import annotations

__version__ = "0.1.0"
