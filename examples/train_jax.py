"""Listwise supervision in JAX: `soft_labels` gives numpy, `to_jax` makes a pytree of it, losses go through `jit`.

python examples/train_jax.py stores/demo --weight 0.5
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import labelgen
from corpus import PAD, Corpus, Vocabulary, texts_of, usable
from labelgen import losses
from labelgen.loader import SoftLabeler, to_jax
from labelgen.relevance.base import SoftLabels

Parameters = dict[str, jax.Array]


def new_parameters(key: jax.Array, features: int, words: int, width: int = 128) -> Parameters:
    """A layer on image features, and a vector a word."""
    first, second = jax.random.split(key)
    return {
        "image": jax.random.normal(first, (features, width)) / jnp.sqrt(features),
        "words": jax.random.normal(second, (words, width)) / jnp.sqrt(width),
    }


def scores_of(parameters: Parameters, features: jax.Array, words: jax.Array) -> jax.Array:
    """Cosines of images and captions, [images, captions]."""
    images = features @ parameters["image"]
    texts = (parameters["words"][words] * (words != PAD)[..., None]).sum(axis=1)
    norm = partial(jnp.linalg.norm, axis=1, keepdims=True)
    return (images / norm(images)) @ (texts / norm(texts)).T


def loss_of(
    parameters: Parameters, features: jax.Array, words: jax.Array, soft: SoftLabels, weight: float
) -> jax.Array:
    """The total of Listwise ITR."""
    scores = scores_of(parameters, features, words)
    triplet = losses.triplet_hard_negative(scores, margin=0.2, where=~soft.same_image)
    return (1 - weight) * triplet + weight * losses.smooth_ndcg(scores, soft.relevance, temperature=0.01)


@jax.jit
def step(
    parameters: Parameters, features: jax.Array, words: jax.Array, soft: SoftLabels, weight: float, rate: float
) -> tuple[Parameters, jax.Array]:
    """One step down the gradient."""
    loss, gradient = jax.value_and_grad(loss_of)(parameters, features, words, soft, weight)
    return jax.tree_util.tree_map(lambda value, slope: value - rate * slope, parameters, gradient), loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a sealed store with a text and an image teacher")
    parser.add_argument("--scheme", default="rsc()", help="how similarities become targets; see docs/methods.md")
    parser.add_argument("--weight", type=float, default=0.5, help="of the ranking loss beside the triplet loss")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1.0)
    options = parser.parse_args()

    store = labelgen.open(options.store)
    vocabulary = Vocabulary(texts_of(store, usable(store, "train")[1]))
    corpus = Corpus.of(store, "train", vocabulary)
    labeller = SoftLabeler(store, options.scheme)
    features, words = jnp.asarray(corpus.features.numpy()), jnp.asarray(corpus.captions.numpy())
    parameters = new_parameters(jax.random.key(0), features.shape[1], len(vocabulary))
    for epoch in range(options.epochs):
        passed = []
        for chosen in corpus.batches(options.batch, [0, epoch]):
            owner = corpus.owner[chosen]
            soft = to_jax(labeller(corpus.image_ids[owner], corpus.caption_ids[chosen]))
            parameters, loss = step(parameters, features[owner], words[chosen], soft, options.weight, options.rate)
            passed.append(float(loss))
        print(f"epoch {epoch}: loss {np.mean(passed):.4f}")


if __name__ == "__main__":
    main()
