"""Lowered graphs at reduced precision: int8 for processors, float16 for GPUs."""
