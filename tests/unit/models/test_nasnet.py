"""NASNet-A mobile against the values of the code whose names its files have."""

import torch
from torch import Tensor

from distreid.models.nasnet import DIM, NASNetMobile
from distreid.models.table import find_model


def filled(network: NASNetMobile) -> dict[str, Tensor]:
    """The same weights everywhere: waves, of a phase for each tensor."""
    state = {}
    for number, (name, tensor) in enumerate(sorted(network.state_dict().items())):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + number)
        if name.endswith("num_batches_tracked"):
            wave = torch.zeros(1)
        elif name.endswith("running_var"):
            wave = 1 + wave / 2
        elif tensor.dim() == 4:
            wave = wave * (2 / tensor[0].numel()) ** 0.5
        state[name] = wave.reshape(tensor.shape).to(tensor.dtype)
    return state


def test_the_features_are_those_of_pretrained_models() -> None:
    network = NASNetMobile().eval()
    network.load_state_dict(filled(network))
    rows = torch.arange(64.0)[:, None] + torch.arange(32.0)
    images = torch.stack([torch.sin(rows * step) for step in (0.3, 0.5, 0.9)])[None]
    with torch.inference_mode():
        found = network(images)
    assert found.shape == (1, DIM)
    # By pretrainedmodels 0.7.4 (NASNetAMobile.features, a ReLU, the mean) with these weights.
    expected = torch.tensor([[0, 1.01183, 1.66318, 0, 0, 3.61199, 0, 2.60198]])
    torch.testing.assert_close(found[:, :: DIM // 8], expected, rtol=1e-4, atol=1e-5)


def test_a_file_of_torchreid_is_recognised() -> None:
    state = {k: v.to("meta") for k, v in NASNetMobile().state_dict().items()}
    # As published: 5.3 million with ImageNet's classifier.
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_b" not in k) == (
        5_289_978 - (DIM + 1) * 1000
    )
    state["classifier.weight"] = torch.empty(751, DIM, device="meta")
    found = find_model("auto", state, {})
    assert (found.name, found.peer, found.dim, found.classes) == (
        *("nasnetamobile", "torchreid"),
        *(DIM, 751),
    )
