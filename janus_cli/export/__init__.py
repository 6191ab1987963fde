"""Exports trained weights to a folder that works without the run: for CTranslate2, or as safetensors."""
