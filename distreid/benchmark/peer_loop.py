"""The plain PyTorch loop that the peers' test scripts amount to, to be compared with.

Pillow and torchvision's transforms image by image, a DataLoader, fp32, one forward pass for the
image and one for its mirror image, the features collected in a list.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from distreid.data.manifest import Manifest
from distreid.images.preprocess import Preprocess, read


class PeerImages(Dataset[Tensor]):
    """The peers' test transform of every row."""

    def __init__(self, manifest: Manifest, preprocess: Preprocess) -> None:
        self.manifest = manifest
        method = transforms.InterpolationMode(preprocess.interpolation)
        self.transform = transforms.Compose(
            [
                transforms.Resize((preprocess.height, preprocess.width), method),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Tensor:
        file = self.manifest.file(row)
        # The peers open files; only what is none is read by us.
        with Image.open(io.BytesIO(read(file)) if "#" in str(file) else file) as image:
            return self.transform(image.convert("RGB"))  # type: ignore[no-any-return]


def peer_loop(
    network: nn.Module,
    loader: DataLoader[Tensor],
    cameras: Tensor | None,
    flip: bool,
    features: list[Tensor],
) -> Iterator[int]:
    """Goes over the images for ever; gives how many each batch has, whose features, of norm 1,
    it adds to `features`.

    `cameras` is for a network with embeddings of cameras.
    """
    device = next(network.parameters()).device
    while True:
        row = 0
        for images in loader:
            views = (images, images.flip(3)) if flip else (images,)
            inputs = () if cameras is None else (cameras[row : row + len(images)].to(device),)
            with torch.no_grad():
                total = torch.stack([network(view.to(device), *inputs) for view in views]).sum(0)
            features.append(F.normalize(total).cpu())
            row += len(images)
            yield len(images)
