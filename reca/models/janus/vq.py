"""The image tokenizer: pixels to codes by the authors' rule, over transformers' encoder and decoder."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.janus.modeling_janus import JanusVQVAE

from reca.models.finite import TOKENIZED, Watch


def image_codes(vq: JanusVQVAE, images: Tensor, watch: Watch | None = None) -> Tensor:
    """Codes int64 [B, N] of images float [B, 3, S, S] in [-1, 1], row by row.

    The code is the codebook entry nearest to the latent in direction: both are normalised first, as in the authors'
    `janus/models/vq_model.py` (`codebook_l2_norm`) and in transformers' own decoding. transformers' `JanusVQVAE.encode`
    compares without normalising, and differs where codebook entries differ in length. Of NaN latents the code is 0: who
    cannot be sure of the pixels or the weights gives a `watch`.
    """
    latents = functional.normalize(vq.quant_conv(vq.encoder(images)), dim=1).flatten(2).transpose(1, 2)
    if watch is not None:
        watch.see(TOKENIZED, latents)
    return (latents @ functional.normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(dim=-1)


def decoded(vq: JanusVQVAE, codes: Tensor) -> Tensor:
    """Images float [B, 3, S, S], about [-1, 1], of codes int64 [B, N]."""
    return vq.decode(codes.to(torch.long))  # pyright: ignore[reportArgumentType] - a LongTensor is a Tensor
