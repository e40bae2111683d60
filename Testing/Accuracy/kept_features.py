"""The encoder's features of every slice, kept in files: the encoder is frozen and is the cost."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures


def keep_features(backbone: Backbone, folder: Path) -> None:
    """From now on `backbone` encodes no image twice. In half precision, 2 MB a slice.

    For backbones whose features are the embedding alone (LiteMedSAM).
    """
    own = folder / f"{backbone.identity[:12]}-{backbone.precision}"
    own.mkdir(parents=True, exist_ok=True)
    encode = backbone.encode
    with_precision, at_size = backbone.with_precision, backbone.at_size

    def kept(images: Tensor) -> ImageFeatures:
        file = own / f"{hashlib.sha1(images.cpu().numpy().tobytes()).hexdigest()}.npy"
        if not file.exists():
            features = encode(images)
            if features.high_res or features.position is not None:
                raise SystemExit("Only the features of LiteMedSAM can be kept.")
            part = file.with_suffix(f".{os.getpid()}.npy")  # Of this process alone.
            np.save(part, features.embedding.cpu().numpy().astype(np.float16))
            part.replace(file)
        embedding = torch.from_numpy(np.load(file).astype(np.float32))
        return ImageFeatures(embedding.to(backbone.device))

    def kept_too(other: Backbone) -> Backbone:
        if other is not backbone:
            # Copies of these three, which are of `backbone`.
            del other.encode, other.with_precision, other.at_size
            keep_features(other, folder)
        return other

    backbone.encode = kept  # type: ignore[method-assign]
    backbone.with_precision = lambda precision: kept_too(  # type: ignore[method-assign]
        with_precision(precision)
    )
    backbone.at_size = lambda size: kept_too(at_size(size))  # type: ignore[method-assign]
