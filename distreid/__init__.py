"""Trusted person re-identification features, on any number of processes.

    store = distreid.extract_features("my_images", "net_last.pth", "runs/mine")
    store.features[:], store.paths           # (N, D) in the original order
    distreid.open_store("runs/mine")         # later, with every byte checked
    distreid.evaluate(store)                 # Rank-k, mAP, mINP as papers count them
    model = distreid.load_model("net_last.pth")
    model.features(["a.jpg", pil_image, opencv_frame])
    distreid.open_gallery("galleries/shop").search(features, top=10)

Everything is imported when it is first used: `import distreid` takes no time, and no torch.
What can go wrong is a `distreid.errors.UserError`, whose text is one line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distreid import errors

if TYPE_CHECKING:
    from distreid.images.preprocess import Preprocess
    from distreid.interface.extraction import extract_features
    from distreid.interface.loaded_model import Model, load_model
    from distreid.interface.opened_gallery import Gallery, open_gallery
    from distreid.interface.opened_store import Store, open_store
    from distreid.interface.scored import Scores, evaluate

__version__ = "0.2.0.dev0"
__all__ = [
    "Gallery",
    "Model",
    "Preprocess",
    "Scores",
    "Store",
    "errors",
    "evaluate",
    "extract_features",
    "load_model",
    "open_gallery",
    "open_store",
]

_WHERE = {
    "Gallery": "distreid.interface.opened_gallery",
    "Model": "distreid.interface.loaded_model",
    "Preprocess": "distreid.images.preprocess",
    "Scores": "distreid.interface.scored",
    "Store": "distreid.interface.opened_store",
    "evaluate": "distreid.interface.scored",
    "extract_features": "distreid.interface.extraction",
    "load_model": "distreid.interface.loaded_model",
    "open_gallery": "distreid.interface.opened_gallery",
    "open_store": "distreid.interface.opened_store",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'distreid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
