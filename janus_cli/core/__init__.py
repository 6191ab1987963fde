"""The method: streams, model, objectives, decoders. Imports torch and nothing above it.

Dimension letters, the same in every file of this package:

    B  sentences in a batch        L  slots of a stream             D  width of the model
    S  source tokens               K  key slots (K <= L)            H  attention heads
    T  target tokens, with BOS     N  selected slots of a batch     V  vocabulary
       and EOS                     M  hidden tokens of a sentence
"""
