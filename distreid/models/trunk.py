"""A known network under any prefix, and what people put on it: linear layer, batch norm, classes.

The network is found by `network_index`; what is left over must be a neck (batch norm of one
dimension, with or without a linear layer before it), GeM's exponent, classifiers, or what only
training needs. Anything else is an error that lists it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from distreid.errors import CheckpointError, OptionError
from distreid.images.preprocess import Preprocess
from distreid.models import known_body, pooled_body
from distreid.models.architecture import Architecture, Size, StateDict
from distreid.models.choices import EMBEDDING, Choices, choices_in
from distreid.models.clip_names import OPENAI
from distreid.models.fastreid_network import GeM
from distreid.models.network_index import FC_NORM, NORM, PASSED_OVER, POSITIONS, Found, find

PERSON = (256, 128)
SIZES = (PERSON, (384, 128), (224, 224), (256, 256), (384, 192), (384, 384), (224, 112),
         (256, 192))  # fmt: skip
EXTRA_TOKENS = (1, 0, 2, 5)  # the class token, a distillation token, four registers
BATCH_NORM = {"running_mean", "running_var"}
CLASSIFIER = re.compile(
    r"(^|[._])(classif\w*|cls\w*|fc|head\w*|logits?|last_linear|arc\w*|cosface|cos_?\w*|id_\w+|"
    r"softmax|identity\w*|margin\w*|proxy|proxies)\d*($|[._\d])"
)
EMBEDS = re.compile(r"(embed|reduc|proj|feat|neck|bottleneck)", re.IGNORECASE)
TRAINING = re.compile(
    r"(^|[._])(loss\w*|criterion\w*|cent(er|re)s?\w*|queue\w*|prototypes?|memory\w*|miner\w*|"
    r"mask_token|triplet\w*|projector|predictor|prediction_head)($|[._])|"
    r"(^|\.)head\.(mlp|last_layer)\."
)
WEIGHT_NORM = ({"weight_g", "weight_v"}, {"original0", "original1"})
"""What torch calls a layer's lengths and directions, before 2.0 and since."""
PARAMETRIZED = "parametrizations.weight"
LEARNED_GEM = "GeM with the file's exponent"
SHOWN = 6
FEWEST_PARTS = 3  # two may be of the trunk and of the neck


@dataclass(frozen=True)
class Layer:
    """A linear layer or a batch norm on the pooled feature."""

    path: str
    """Its name in the file."""
    kind: str
    """`linear`, `conv` (of 1×1), or `batch norm`."""
    dim: int
    """What leaves it."""
    leaves: tuple[str, ...]
    """The names of its tensors."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands on the trunk."""

    layers: tuple[Layer, ...] = ()
    """In order, the neck last if there is one."""
    neck: bool = False
    """Whether the last layer is a batch norm."""
    gem: str = ""
    """The name of GeM's exponent."""
    classifiers: tuple[str, ...] = ()
    classes: int | None = None
    training: tuple[str, ...] = ()
    """What only training needs."""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The way in which a project tests a trunk with a neck; a user's option comes first."""

    name: str = ""
    """A name of `models.table`; empty for the network's own."""
    peer: str = ""
    feature: str = ""
    """One of `choices.FEATURES`; empty: after the neck where there is one."""
    last_stride: int | None = None
    stem_relu: bool = True
    """Whether a ReLU follows the stem's batch norm."""
    small_max_pool: bool = False
    """Whether the stem's max pooling is 2×2 instead of 3×3."""
    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()
    says_all: bool = False
    """Whether the project leaves nothing to guess, so that no choices are listed."""


class Trunked(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim) features, not L2-normalised."""

    def __init__(
        self,
        name: str,
        size: Size | None,
        layers: tuple[tuple[str, int, int, tuple[str, ...]], ...],
        *,
        last_stride: int | None,
        pooling: str | None,
        learned_gem: bool,
        stem_relu: bool,
        small_max_pool: bool,
        norm_last: bool,
    ) -> None:
        super().__init__()
        network = known_body.build(name, size, last_stride)
        if norm_last:
            known_body.norm_last(network)
        if not stem_relu:
            network.relu = nn.Identity()  # the blocks have their own
        if small_max_pool:
            network.maxpool = nn.MaxPool2d(2)
        self.trunk = pooled_body.Body(network, pooling, learned=learned_gem)
        self.layers = nn.ModuleList(_layer(*one) for one in layers)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.trunk(images_BCHW)
        for layer in self.layers:
            x = layer(x)
        return x  # type: ignore[no-any-return]


class PointConv(nn.Conv2d):
    """A 1×1 convolution of pooled features: a linear layer with weights of four dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None, None]).flatten(1)


def _layer(kind: str, inputs: int, dim: int, leaves: tuple[str, ...]) -> nn.Module:
    if kind == "linear":
        return nn.Linear(inputs, dim, bias="bias" in leaves)
    if kind == "conv":
        return PointConv(inputs, dim, 1, bias="bias" in leaves)
    norm = nn.BatchNorm1d(dim, affine="weight" in leaves)
    if "weight" in leaves and "bias" not in leaves:
        norm.register_parameter("bias", None)
    return norm


def read(
    state: StateDict,
    options: Mapping[str, Any],
    size: Size | None = None,
    *,
    preset: Callable[[Found, Head], Preset] | None = None,
    only: str = "",
) -> Architecture | None:
    """The architecture of the known network in a file; None if there is none.

    `only` is the name of a network that it has to be. CheckpointError lists what beside it is
    neither neck nor classifier.
    """
    found = best(state, only)
    if found is None:
        return None
    if options.get(OPENAI):  # whose activation is QuickGELU; open_clip's own networks have GELU
        likely = sorted(found.networks, key=lambda network: "quickgelu" not in network.name)
        found = replace(found, networks=tuple(likely))
    head = head_of(state, found)
    choices = choices_in(options)
    network = found.networks[0].name
    if head.unknown:
        listed = ", ".join(f"{key} {tuple(state[key].shape)}" for key in head.unknown[:SHOWN]) + (
            f" and {len(head.unknown) - SHOWN} more" if len(head.unknown) > SHOWN else ""
        )
        part = found.prefix.partition(".")[0]
        kept = [layer.path for layer in head.layers]
        apart = part and not any(key.startswith(f"{part}.") for key in head.unknown)
        apart = apart and all(path.startswith(f"{part}.") for path in kept)
        raise CheckpointError(
            f"{network} {_place(found)}, and beside it {len(head.unknown)} tensors that are "
            f"not clearly a neck or a classifier: {listed}; name a network of your own by --model "
            "package.module:function, or give a program of it (--model export)"
            + (f", or --weights {part} takes that part alone" if apart else "")
        )
    chosen = (preset or _no_preset)(found, head)
    if choices.feature == EMBEDDING:
        head = _with_embedding(state, found, head)
    return _architecture(state, found, head, chosen, choices, size)


def _with_embedding(state: StateDict, found: Found, head: Head) -> Head:
    """The head with what would be its classifier as its last layer; OptionError if that is not one
    linear layer."""
    now = head.layers[-1].dim if head.layers else found.networks[0].dim
    linear = [key for key in head.classifiers if key.endswith("weight") and state[key].ndim == 2]
    if len(linear) != 1 or state[linear[0]].shape[1] != now:
        raise OptionError(
            f"--feature {EMBEDDING}: {found.networks[0].name} {_place(found)} has "
            f"{len(linear) or 'no'} linear {'layer' if len(linear) == 1 else 'layers'} behind the "
            f"feature of {now}, and one is wanted; take --feature away"
        )
    path = linear[0].rpartition(".")[0]
    keys = [key for key in head.classifiers if key.rpartition(".")[0] == path]
    leaves = tuple(key.removeprefix(f"{path}.") for key in keys)
    layer = Layer(path, "linear", state[linear[0]].shape[0], leaves)
    return replace(
        head,
        layers=(*head.layers, layer),
        classifiers=tuple(key for key in head.classifiers if key not in keys),
        classes=None,
    )


def _no_preset(found: Found, head: Head) -> Preset:
    return Preset()


def best(state: StateDict, only: str = "") -> Found | None:
    """The largest known network; CheckpointError if there are two of it."""
    candidates = find(state, only)
    if not candidates:
        return None
    first = candidates[0]
    for other in candidates[1:]:
        apart = not (other.prefix.startswith(first.prefix) or first.prefix.startswith(other.prefix))
        if other.tensors == first.tensors and other.networks == first.networks and apart:
            one, two = _apart(first.prefix, other.prefix)
            raise CheckpointError(
                f"{first.networks[0].name} twice, under {one} and under {two} ({first.tensors} "
                f"tensors each); --weights {one} or --weights {two} chooses"
            )
    return first


def _apart(one: str, two: str) -> tuple[str, str]:
    """The shortest beginnings that tell two prefixes apart."""
    first, second = one.split("."), two.split(".")
    same = next(place for place in range(len(first)) if first[place] != second[place])
    return ".".join(first[: same + 1]), ".".join(second[: same + 1])


def head_of(state: StateDict, found: Found) -> Head:
    """What beside the network is in the file."""
    modules: dict[str, dict[str, Tensor]] = {}
    classifiers, training = [], []
    classes = None
    for key, value in state.items():
        if found.name_of(key) is not None or key.endswith(PASSED_OVER):
            continue
        if found.is_classifier(key):
            classifiers.append(key)
            classes = value.shape[0] if value.ndim == 2 else classes
        elif TRAINING.search(key):
            training.append(key)
        else:
            path, _, leaf = key.rpartition(".")
            modules.setdefault(path, {})[leaf] = value
    rest = Head(classifiers=tuple(classifiers), training=tuple(training), classes=classes)
    return _sorted_out(modules, found, rest)


def _sorted_out(modules: dict[str, dict[str, Tensor]], found: Found, head: Head) -> Head:
    dim = found.networks[0].dim
    listed = enumerate(modules.values())
    norms = [(place, _rows(leaves)) for place, leaves in listed if _is_norm(leaves)]
    layers: list[Layer] = []
    now, neck, gem, unknown = dim, False, "", []
    classifiers, classes = list(head.classifiers), None
    for place, (path, leaves) in enumerate(modules.items()):
        keys = [f"{path}.{leaf}" if path else leaf for leaf in leaves]
        weight = leaves.get("weight")
        later = [rows for at, rows in norms if at > place]
        if set(leaves) == {"p"} and leaves["p"].numel() == 1 and not gem:
            gem = keys[0]
        elif _is_norm(leaves):
            if neck or _rows(leaves) != (now,):
                unknown += keys
                continue
            layers.append(Layer(path, "batch norm", now, tuple(leaves)))
            neck = True
        elif weight is not None and weight.ndim in (2, 4) and weight.shape[2:].numel() == 1:
            rows, columns = weight.shape[:2]
            embeds, classifies = EMBEDS.search(path), CLASSIFIER.search(path)
            into_norm = later[:1] == [(rows,)]
            # As many classes as channels, or a layer of the neck: its place says which.
            either = into_norm and rows == now and classifies and not embeds
            if columns == now and not neck and (into_norm or (embeds and not later)):
                # What is between two linear layers, such as ReLU, has no weights that tell it.
                if layers or (either and not _is_of_neck(modules, path, rows, found.prefix)):
                    unknown += keys
                    continue
                kind = "linear" if weight.ndim == 2 else "conv"
                layers.append(Layer(path, kind, rows, tuple(leaves)))
                now = rows
            elif neck and _last_word(path, EMBEDS) and not _last_word(path, CLASSIFIER):
                unknown += keys  # a layer behind the neck, not classes
            elif columns in (now, dim) and (neck or later or classifies):
                classifiers += keys
                classes = rows if classes is None else classes
            elif rows in (now, dim) and classifies and len(leaves) == 1:
                classifiers += keys  # ArcFace and the like may have dim × classes
                classes = columns if classes is None else classes
            else:
                unknown += keys
        elif CLASSIFIER.search(path) and f"{path}.{PARAMETRIZED}" in modules:
            classifiers += keys  # the bias of the next
        elif CLASSIFIER.search(path) and leaves.keys() - {"bias"} in WEIGHT_NORM:
            directions = leaves.get("weight_v", leaves.get("original1"))
            if directions is None or directions.ndim != 2 or directions.shape[1] not in (now, dim):
                unknown += keys
                continue
            classifiers += keys
            classes = directions.shape[0] if classes is None else classes
        elif (
            len(leaves) == 1
            and (one := next(iter(leaves.values()))).ndim == 2
            and (neck or CLASSIFIER.search(keys[0]))
        ):
            if now not in one.shape:
                unknown += keys
                continue
            classifiers += keys  # ArcFace and the like: classes × dim, or the other way round
            classes = one.shape[0] if one.shape[1] == now else one.shape[1]
        else:
            unknown += keys
    return replace(
        head,
        layers=tuple(layers),
        neck=neck,
        gem=gem,
        classifiers=tuple(classifiers),
        classes=head.classes if classes is None else classes,
        unknown=tuple(unknown),
    )


def _is_of_neck(
    modules: Mapping[str, Mapping[str, Tensor]], path: str, rows: int, trunk: str
) -> bool:
    """Whether a linear layer named as a classifier stands with its batch norm in a part of the
    network that has no trunk, or another classifier follows it."""
    part = path[: path.rfind(".") + 1]
    later = list(modules.items())[list(modules).index(path) + 1 :]
    return any(
        (_is_norm(leaves) and name.startswith(part) and not trunk.startswith(part))
        or (
            CLASSIFIER.search(name) is not None
            and any(one.ndim == 2 and rows in one.shape for one in leaves.values())
        )
        for name, leaves in later
    )


def _last_word(path: str, pattern: re.Pattern[str]) -> bool:
    """Whether the last part of a name that is no number says so."""
    words = [word for word in path.split(".") if not word.isdecimal()]
    return bool(words and pattern.search(words[-1]))


def _is_norm(leaves: Mapping[str, Tensor]) -> bool:
    return BATCH_NORM <= leaves.keys() <= BATCH_NORM | {"weight", "bias"}


def _rows(leaves: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(leaves["running_mean"].shape)


def _architecture(
    state: StateDict,
    found: Found,
    head: Head,
    preset: Preset,
    choices: Choices,
    size: Size | None,
) -> Architecture:
    network = found.networks[0].name
    own, fixed = known_body.own_preprocess(network)
    preprocess = preset.preprocess or own
    seen = size_of_positions(state, found, (own.height, own.width))
    if seen or fixed:
        wanted = size or seen or (own.height, own.width)
        fixed = True
    else:
        wanted = size or (PERSON if preset.preprocess is None else _size(preset.preprocess))
    strided = known_body.has_last_stride(network)
    feature = choices.feature or preset.feature or ("after-neck" if head.neck else "")
    if feature and feature not in ("trunk", EMBEDDING) and not head.neck:
        raise OptionError(
            f"--feature {feature}: no batch norm stands on this network; --feature trunk, or none"
        )
    try:
        with known_body.without_memory():
            probe = known_body.build(network, wanted if fixed else None, None)
    except NotImplementedError:  # torchvision's RegNets compute with numbers of theirs
        probe = known_body.build(network, wanted if fixed else None, None)
    if found.norm_is_last and not known_body.norm_last(probe):
        raise CheckpointError(
            f"{found.prefix}{FC_NORM}: {network} {_place(found)} has no such norm; name a network "
            "of your own by --model package.module:function"
        )
    stride = None
    if strided:
        stride = choices.last_stride or preset.last_stride or (1 if head.neck else 2)
    if stride == 1 and not hasattr(probe, "layer4"):
        if choices.last_stride == 1:
            raise OptionError(
                f"--last-stride 1: {network} has no layer4 whose stride could be changed; "
                "--last-stride 2, or none"
            )
        stride = 2
    pooling = _exponent_said(choices.pooling)
    if pooling == "token" and not pooled_body.has_token(probe):
        raise OptionError(
            f"--pooling token: {network} has no class token; choose avg, max, avg+max, or gem=3"
        )
    learned = bool(head.gem) and pooling is None
    if pooling or learned:
        pooled = pooled_body.pooled_dim(probe, pooling or "gem", wanted)
        if learned and pooled != found.networks[0].dim:
            raise CheckpointError(
                f"{head.gem} is GeM's exponent, and of {network} no last map to pool can be had; "
                "name a network of your own by --model package.module:function"
            )
        if pooled != found.networks[0].dim:
            raise OptionError(
                f"--pooling {pooling}: {network} has no last map of {found.networks[0].dim} "
                "channels that could be pooled so; take --pooling away"
            )
    layers = {"trunk": (), "before-neck": head.layers[:-1]}.get(feature, head.layers)
    dims = [found.networks[0].dim, *(layer.dim for layer in layers)]
    arguments: dict[str, Any] = {
        "last_stride": stride,
        "pooling": "gem" if learned else pooling,
        "learned_gem": learned,
        "stem_relu": preset.stem_relu,
        "small_max_pool": preset.small_max_pool,
        "norm_last": found.norm_is_last,
    }
    specification = tuple(
        (layer.kind, inputs, layer.dim, layer.leaves)
        for layer, inputs in zip(layers, dims, strict=False)
    )
    prefixes = {f"{layer.path}.": f"layers.{place}." for place, layer in enumerate(layers)}
    exponents = {head.gem: pooled_body.exponent(probe)} if learned else {}
    obeyed = ["feature"] if head.layers else []
    obeyed += [EMBEDDING] if feature == EMBEDDING else []
    obeyed += ["last_stride"] if strided else []
    described = {
        **({"trunk": network} if preset.name else {}),
        **({"last_stride": stride} if strided else {}),
        **({"pooling": arguments["pooling"]} if arguments["pooling"] else {}),
        **({"layers": [f"{layer.kind} {layer.dim}" for layer in layers]} if layers else {}),
        **({} if preset.stem_relu else {"stem_relu": False}),
        **({"small_max_pool": True} if preset.small_max_pool else {}),
        **({FC_NORM: True} if found.norm_is_last else {}),
    }
    obeyed += ["pooling"] if pooled_body.has_map(probe) else []
    return Architecture(
        name=preset.name or network,
        peer=preset.peer or "your own training",
        build=partial(Trunked, network, wanted if fixed else None, specification, **arguments),
        dim=dims[-1],
        feature=_feature(layers, arguments["pooling"], norm_last=found.norm_is_last),
        preprocess=replace(preprocess, height=wanted[0], width=wanted[1]),
        flip=False,
        options=described,
        not_for_features=(
            *head.classifiers,
            *head.training,
            *(f"{layer.path}." for layer in head.layers[len(layers) :]),
            *((head.gem,) if head.gem and not learned else ()),
        ),
        rename=partial(_rename, found, prefixes, exponents),
        classes=head.classes,
        fixed_size=fixed,
        obeys=tuple(obeyed),
        notes=(
            *preset.notes,
            *_guesses(state, found, head, (own.height, own.width), size),
            *(
                ()
                if preset.says_all
                else (
                    _paragraph(
                        found, head, preprocess, wanted, described, feature, obeyed, _heads(probe)
                    ),
                )
            ),
        ),
    )


def _guesses(
    state: StateDict, found: Found, head: Head, own: Size, size: Size | None
) -> Iterator[str]:
    """What may be another network than it is taken for."""
    shapes = Counter(tuple(state[key].shape) for key in head.classifiers if state[key].ndim == 2)
    shape, count = max(shapes.items(), key=lambda item: item[1], default=((), 0))
    if count >= FEWEST_PARTS:
        yield (
            f"{count} classifiers of one shape ({' × '.join(map(str, shape))}) may be of parts of "
            "the last map, which is pooled as a whole here; name a network of your own by --model "
            "package.module:function"
        )
    if found.only_child:
        yield (
            f"of {found.networks[0].name} the part {found.only_child} alone, under "
            f"{found.prefix[:-1]!r}; what its own code has behind that is taken (of DenseNets a "
            "ReLU, and the mean): if yours has something else, --model package.module:function"
        )
    for layer in head.layers:
        if layer.kind == "conv":
            yield (
                f"{layer.path} is a 1×1 convolution, taken for one of the pooled feature; on the "
                "last map, with a ReLU or another pooling than the mean behind it, the feature is "
                "another: --model package.module:function"
            )
    for first, second in _gaps(head):
        yield (
            f"something without weights stands between {first} and {second}; taken for dropout: "
            "with ReLU the feature is another: --model package.module:function"
        )
    fitting = sizes_of_positions(state, found, own)
    if size is None and len(fitting) > 1:
        first, *others = (f"{height}x{width}" for height, width in fitting)
        yield (
            f"the embeddings of places fit {first} and {' and '.join(others)}; taken for {first} "
            "(--input-size says otherwise)"
        )


def _gaps(head: Head) -> Iterator[tuple[str, str]]:
    """The neighbours among the head's layers whose numbers, in one Sequential, are none."""
    paths = [layer.path for layer in head.layers]
    if paths:  # the classifier is given what leaves the last one
        paths += [key.rpartition(".")[0] for key in head.classifiers]
    for first, second in pairwise(paths):
        (one, _, before), (two, _, after) = first.rpartition("."), second.rpartition(".")
        numbered = one == two and before.isdecimal() and after.isdecimal()
        if numbered and int(after) > int(before) + 1:
            yield first, second


def _exponent_said(pooling: str | None) -> str | None:
    """`gem` and `gem=3.0` as `gem=3`: of one exponent there is one identity, and `gem` alone is
    the learned one's."""
    word, _, number = (pooling or "").partition("=")
    if word != "gem":
        return pooling
    exponent = float(number or GeM(learned=False).p)
    return f"gem={int(exponent) if exponent.is_integer() else exponent}"


def _size(preprocess: Preprocess) -> Size:
    return preprocess.height, preprocess.width


def _rename(found: Found, prefixes: Mapping[str, str], gem: Mapping[str, str], key: str) -> str:
    if key in gem:
        return f"trunk.{gem[key]}"
    own = found.name_of(key)
    if own is not None:
        is_last_norm = found.norm_is_last and own.partition(".")[0] == NORM
        return f"trunk.network.{'fc_' if is_last_norm else ''}{own}"
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def size_of_positions(state: StateDict, found: Found, own: Size) -> Size | None:
    """Height and width by the rows of a ViT's embeddings of places; None without such."""
    return next(iter(sizes_of_positions(state, found, own)), None)


def sizes_of_positions(state: StateDict, found: Found, own: Size) -> list[Size]:
    """All that have as many places, the likeliest first."""
    table = state.get(f"{found.prefix}{POSITIONS}")
    patches = state.get(f"{found.prefix}patch_embed.proj.weight")
    if table is None or table.ndim != 3 or patches is None:
        return []
    side = patches.shape[-1]
    for extra in EXTRA_TOKENS:
        fitting = [
            (height, width)
            for height, width in dict.fromkeys((own, *SIZES))
            if table.shape[1] == (height // side) * (width // side) + extra
        ]
        if fitting:
            return fitting
    return []


def _feature(layers: tuple[Layer, ...], pooling: str | None, *, norm_last: bool) -> str:
    pooled = f"last map pooled by {pooling}" if pooling else "pooled last map"
    if norm_last:
        pooled = f"{pooled if pooling else 'mean of the last map'}, its norm"
    return ", ".join((pooled, *(layer.kind for layer in layers)))


def _place(found: Found) -> str:
    return f"under {found.prefix[:-1]!r}" if found.prefix else "without a prefix"


def _heads(network: Any) -> int | None:
    """How many heads a ViT's blocks have; None of other networks."""
    blocks = getattr(network, "blocks", None)
    attention = getattr(blocks[0], "attn", None) if isinstance(blocks, nn.Sequential) else None
    return getattr(attention, "num_heads", None)


def _paragraph(
    found: Found,
    head: Head,
    preprocess: Preprocess,
    size: Size,
    described: Mapping[str, Any],
    feature: str,
    obeyed: list[str],
    heads: int | None,
) -> str:
    """What was recognised, what was taken, and which option says otherwise."""
    others = [network.name for network in found.networks[1:]]
    text = f"{found.networks[0].name} {_place(found)} ({found.tensors} tensors"
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        text += f"; {', '.join(others[:3])}{more} have the same, and --model says which"
    text += ")"
    if head.layers:
        stands = " and ".join(
            f"{layer.path} ({layer.kind} of {layer.dim})" for layer in head.layers
        )
        text += f"; on it {stands}"
    if dropped := [*head.classifiers, *head.training]:
        names = dict.fromkeys(key.rpartition(".")[0] or key for key in dropped)
        text += f"; without {', '.join(list(names)[:SHOWN])}"
        if head.classifiers and not head.layers:
            text += f", taken for a classifier of {head.classes:,}" if head.classes else ""
            text += f" (--feature {EMBEDDING} takes it for an embedding)" if head.classes else ""
    if feature:
        words = {
            "after-neck": "what leaves the batch norm",
            "before-neck": "what enters the batch norm",
            "trunk": "the pooled last map",
            EMBEDDING: "what leaves the last linear layer",
        }
        text += f". The feature is {words[feature]} (--feature says otherwise)"
    if "last_stride" in described:
        text += f"; last stride {described['last_stride']} (--last-stride)"
    if "pooling" in obeyed:
        how = described.get("pooling", "the network's own pooling")
        text += f"; {LEARNED_GEM if how == 'gem' else how} (--pooling)"
    if heads:
        text += f"; {heads} heads of attention (--model package.module:function)"
    text += (
        f"; input {size[0]}×{size[1]}, {preprocess.interpolation}, mean "
        f"{', '.join(f'{value:g}' for value in preprocess.mean)} (--input-size, --interpolation, "
        "--mean, --std): no weights tell these"
    )
    return text
