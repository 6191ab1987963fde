"""Engines that run a model's decoding outside torch: ONNX graphs of whole searches."""
